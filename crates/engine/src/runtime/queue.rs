//! How many tasks wait for the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::Span;

/// Counts the tasks that wait for a pass. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<AtomicUsize>);

/// A task in the queue. Dropping it leaves the queue and ends the span of the wait.
pub(super) struct QueueEntry {
    queue: Queue,
    _span: Span,
}

impl Queue {
    pub(super) fn enter(&self, span: Span) -> QueueEntry {
        self.0.fetch_add(1, Ordering::Relaxed);
        QueueEntry { queue: self.clone(), _span: span }
    }

    pub(super) fn len(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.queue.0.fetch_sub(1, Ordering::Relaxed);
    }
}
