//! What is seen while it runs: on standard error, and on a terminal alone.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps`.
pub(crate) fn bar(label: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{msg:40!} {wide_bar} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(label.to_owned());
    bar
}
