//! What others may know of the model thread's work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::Span;

/// A forward pass that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Rows in all.
    pub rows: usize,
    /// Of these, rows of prompts.
    pub prompt_rows: usize,
    /// Sessions that took part.
    pub sessions: usize,
    /// How long it took.
    pub took: Duration,
}

/// Told of every pass, on the model thread: it must not take long.
pub type PassObserver = Arc<dyn Fn(&PassReport) + Send + Sync>;

/// How many passes wait for their turn. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue(Arc<AtomicUsize>);

/// A place in the queue. Dropping it leaves, and ends the span of the waiting.
pub(crate) struct Waiting {
    queue: Queue,
    _span: Span,
}

impl Queue {
    pub(crate) fn enter(&self, span: Span) -> Waiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting { queue: self.clone(), _span: span }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.queue.0.fetch_sub(1, Ordering::Relaxed);
    }
}
