//! What a session has computed: passes on its cache, one after the other.

use tandem_decoding::RowSummary;
use tokio::sync::oneshot;

use crate::model::{EngineError, Keep, Pass};

/// Passes on one cache, of which each may depend on the outputs of the one before. The model thread runs them
/// without a word to the session's task in between.
pub(super) trait Steps: Send {
    /// The next pass, and what to keep of the cache before it; `None` at the end.
    fn next(&mut self) -> Option<Step>;

    /// Takes the outputs of that pass.
    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError>;

    /// Whether the session's task has gone.
    fn is_cancelled(&self) -> bool;

    /// Replies to the session's task.
    fn finish(self: Box<Self>, result: Result<(), EngineError>);
}

/// A pass, after `keep` was applied.
pub(super) struct Step {
    pub(super) keep: Option<Keep>,
    pub(super) pass: Pass,
}

/// A single pass.
pub(super) struct OneStep {
    pub(super) step: Option<Step>,
    pub(super) outputs: Vec<RowSummary>,
    pub(super) reply: oneshot::Sender<Result<Vec<RowSummary>, EngineError>>,
}

impl Steps for OneStep {
    fn next(&mut self) -> Option<Step> {
        self.step.take()
    }

    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError> {
        self.outputs = outputs;
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn finish(self: Box<Self>, result: Result<(), EngineError>) {
        let Self { outputs, reply, .. } = *self;
        let _ = reply.send(result.map(|()| outputs));
    }
}
