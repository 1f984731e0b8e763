//! What the handles of a model send to its thread, and what both sides share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tandem_decoding::TokenId;
use tokio::sync::oneshot;
use tracing::Span;

use super::budget::KvBudget;
use super::observer::PassObserver;
use super::queue::{Queue, QueueEntry};
use super::steps::{Step, Steps};
use crate::model::{EngineError, ModelSpec};

pub(super) enum Command {
    Run(Box<Task>),
    /// Wakes the thread to free the caches whose handles were dropped.
    FreeCaches,
}

/// Work on one cache.
pub(super) struct Task {
    pub(super) cache: u64,
    /// Rows that the cache may ever hold.
    pub(super) max_rows: usize,
    pub(super) work: Work,
    /// The span of the request, so that what the thread logs belongs to it.
    pub(super) span: Span,
    /// Held while the task waits for a pass.
    pub(super) queued: Option<QueueEntry>,
}

pub(super) enum Work {
    /// Runs `next`, and then what `steps` say.
    Steps { next: Step, steps: Box<dyn Steps> },
    /// Appends the `remaining` tokens of a prompt in causal order, in chunks.
    Prefill { remaining: Vec<TokenId>, reply: oneshot::Sender<Result<(), EngineError>> },
}

impl Work {
    /// Whether the session's task has gone.
    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Steps { steps, .. } => steps.is_cancelled(),
            Self::Prefill { reply, .. } => reply.is_closed(),
        }
    }

    /// Tokens of a prompt that no pass has run yet.
    pub(super) fn remaining(&self) -> usize {
        match self {
            Self::Steps { .. } => 0,
            Self::Prefill { remaining, .. } => remaining.len(),
        }
    }

    /// Replies to the session's task.
    pub(super) fn finish(self, result: Result<(), EngineError>) {
        match self {
            Self::Steps { steps, .. } => steps.finish(result),
            Self::Prefill { reply, .. } => drop(reply.send(result)),
        }
    }
}

/// State that the handles and the thread share.
pub(super) struct Shared {
    pub(super) spec: ModelSpec,
    pub(super) budget: KvBudget,
    pub(super) queue: Queue,
    pub(super) observer: OnceLock<PassObserver>,
    next_cache: AtomicU64,
    /// Caches whose handles were dropped. Not a command, because a drop cannot wait for room in the queue.
    /// Bounded by the number of caches.
    dropped: Mutex<Vec<u64>>,
}

impl Shared {
    pub(super) fn new(spec: ModelSpec, budget: KvBudget) -> Self {
        Self {
            spec,
            budget,
            queue: Queue::default(),
            observer: OnceLock::new(),
            next_cache: AtomicU64::new(0),
            dropped: Mutex::default(),
        }
    }

    /// An id for a new cache.
    pub(super) fn next_cache(&self) -> u64 {
        self.next_cache.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that the handle of `cache` was dropped.
    pub(super) fn add_dropped(&self, cache: u64) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
    }

    /// The caches whose handles were dropped since the last call.
    pub(super) fn take_dropped(&self) -> Vec<u64> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
