//! How things look on a terminal. anstream drops the colours where there is none.

use anstyle::{AnsiColor, Style};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

/// Errors and failed checks.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Passed checks.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Generated text.
pub const TEXT: Style = AnsiColor::Cyan.on_default();
/// What is said beside the matter.
pub const DIM: Style = Style::new().dimmed();

/// A table in Markdown, which reads well as it is: a header, the first column to the left, numbers to the right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
