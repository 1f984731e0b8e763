//! Styles and tables for the terminal. anstream removes the colours if the output is not a terminal.

use anstyle::{AnsiColor, Style};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

/// Errors and failed checks.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Passed checks.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Generated text.
pub const TEXT: Style = AnsiColor::Cyan.on_default();
/// Secondary information.
pub const DIM: Style = Style::new().dimmed();

/// A Markdown table, which is readable without rendering: the first column is aligned to the left, the others to the
/// right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
