//! Progress bars of all commands. They are drawn on standard error, and only if that is a terminal.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a ticking bar is redrawn.
const TICK: Duration = Duration::from_millis(200);

/// A bar over `length` steps with the layout of `template`.
///
/// It is redrawn only when its position or its message changes.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    ProgressBar::new(length).with_style(style(template))
}

/// The same, redrawn several times per second: for a template that shows the time. This requires a thread.
pub fn ticking_bar(length: u64, template: &str) -> ProgressBar {
    let bar = bar(length, template);
    bar.enable_steady_tick(TICK);
    bar
}

/// The style of `template`, or the default style if the template is not valid.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One bar over the bytes of several files that are loaded one after the other or at once.
pub struct LoadingBar {
    bar: ProgressBar,
    parts: Arc<Mutex<Vec<Part>>>,
}

/// Bytes of one file.
#[derive(Clone, Copy, Default)]
struct Part {
    read: u64,
    total: u64,
}

impl LoadingBar {
    /// A bar over `parts` files; draws nothing unless `visible`.
    pub fn new(label: &str, parts: usize, visible: bool) -> Self {
        let bar = if visible {
            bar(0, "{msg} {wide_bar} {bytes}/{total_bytes}").with_message(label.to_owned())
        } else {
            ProgressBar::hidden()
        };
        Self { bar, parts: Arc::new(Mutex::new(vec![Part::default(); parts])) }
    }

    /// A callback for the progress of file `index`: bytes read, and bytes in total.
    pub fn part(&self, index: usize) -> Arc<dyn Fn(u64, u64) + Send + Sync> {
        let bar = self.bar.clone();
        let parts = self.parts.clone();
        Arc::new(move |read, total| {
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts[index] = Part { read, total };
            bar.set_length(parts.iter().map(|part| part.total).sum());
            bar.set_position(parts.iter().map(|part| part.read).sum());
        })
    }

    /// Removes the bar from the terminal.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loading_bar_sums_its_parts() {
        let loading = LoadingBar::new("loading", 2, false);
        loading.part(0)(3, 10);
        loading.part(1)(5, 20);
        loading.part(0)(10, 10);
        assert_eq!((loading.bar.position(), loading.bar.length()), (15, Some(30)));
    }

    #[test]
    fn an_invalid_template_has_the_default_style() {
        let bar = bar(7, "{wide_bar");
        assert_eq!(bar.length(), Some(7));
    }
}
