//! What is seen of a level while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::args::Limit;

/// A bar over the requests of a level or, if these are not known beforehand, over its time.
#[derive(Clone, Debug)]
pub(super) struct LevelBar {
    bar: ProgressBar,
    limit: Limit,
    start: Instant,
    failed: Arc<AtomicU64>,
    completed: Arc<AtomicU64>,
    label: Arc<str>,
}

impl LevelBar {
    pub(super) fn new(label: &str, limit: Limit, visible: bool) -> Self {
        let length = match limit {
            Limit::Requests(requests) => requests,
            Limit::Duration(duration) => duration.as_millis() as u64,
        };
        let bar = if visible { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg:50!} {wide_bar} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        if visible {
            // It costs a thread.
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let (failed, completed) = (Arc::default(), Arc::default());
        Self { bar, limit, start: Instant::now(), failed, completed, label: label.into() }
    }

    /// A bar of which nothing is seen.
    pub(super) fn hidden() -> Self {
        Self::new("", Limit::Requests(0), false)
    }

    /// One request more.
    pub(super) fn finished(&self, completed: bool) {
        let counter = if completed { &self.completed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let (completed, failed) =
            (self.completed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        self.bar.set_position(match self.limit {
            Limit::Requests(_) => completed + failed,
            Limit::Duration(duration) => self.start.elapsed().min(duration).as_millis() as u64,
        });
        self.bar.set_message(format!("{}: {completed} done, {failed} failed", self.label));
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
