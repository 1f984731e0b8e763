//! The parts of a pass: what each session runs in it, and what it takes.

use std::ops::AddAssign;

use tracing::{Span, trace_span};

use super::command::{Task, Work};
use super::steps::Step;
use crate::model::{EngineError, Pass};

/// What a part of a pass takes, or all parts together.
#[derive(Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) rows: usize,
    /// At most, besides weights and caches.
    pub(super) bytes: usize,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// One session's part of the next pass.
pub(super) struct Part<C> {
    pub(super) task: Box<Task>,
    pub(super) pass: Pass,
    pub(super) cache: C,
    /// Once the pass has run: what its session runs next, if anything.
    pub(super) outcome: Option<Result<Option<Step>, EngineError>>,
}

impl<C> Part<C> {
    pub(super) fn rows(&self) -> usize {
        self.pass.tokens.len()
    }

    pub(super) fn is_prompt(&self) -> bool {
        matches!(self.task.work, Work::Prefill { .. })
    }

    /// The span of this part in a pass of `batch_rows` rows of `sessions`.
    pub(super) fn span(&self, batch_rows: usize, sessions: usize) -> Span {
        trace_span!(
            parent: &self.task.span,
            "pass",
            tandem.rows = self.rows() as i64,
            tandem.batch.rows = batch_rows as i64,
            tandem.batch.sessions = sessions as i64
        )
    }
}
