//! The progress bar of a level.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use super::args::Limit;
use crate::progress::ticking_bar;

/// A bar over the requests of a level or, if their number is not known in advance, over its time.
#[derive(Clone, Debug)]
pub(super) struct LevelBar {
    bar: ProgressBar,
    limit: Limit,
    start: Instant,
    completed: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    label: Arc<str>,
}

impl LevelBar {
    pub(super) fn new(label: &str, limit: Limit) -> Self {
        let length = match limit {
            Limit::Requests(requests) => requests,
            Limit::Duration(duration) => millis(duration),
        };
        let bar = ticking_bar(length, "{msg:50!} {wide_bar} {elapsed}").with_message(label.to_owned());
        Self::with_bar(bar, label, limit)
    }

    /// A bar that draws nothing.
    pub(super) fn hidden() -> Self {
        Self::with_bar(ProgressBar::hidden(), "", Limit::Requests(0))
    }

    fn with_bar(bar: ProgressBar, label: &str, limit: Limit) -> Self {
        Self {
            bar,
            limit,
            start: Instant::now(),
            completed: Arc::default(),
            failed: Arc::default(),
            label: label.into(),
        }
    }

    /// Counts one more request as completed or failed.
    pub(super) fn count(&self, completed: bool) {
        let counter = if completed { &self.completed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let completed = self.completed.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        self.bar.set_position(match self.limit {
            Limit::Requests(_) => completed + failed,
            Limit::Duration(duration) => millis(self.start.elapsed().min(duration)),
        });
        self.bar.set_message(format!("{}: {completed} completed, {failed} failed", self.label));
    }

    /// Removes the bar from the terminal.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
