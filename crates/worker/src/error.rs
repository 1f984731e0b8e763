//! Why a request to a worker failed.

use tandem_engine::{EngineError, InvalidCommit};
use tandem_proto::InvalidMessage;
use thiserror::Error;

use crate::session_table::SessionError;
use crate::step_log::OutOfOrder;

/// Why a request to a worker failed. `status` maps it to a gRPC status.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WorkerError {
    #[error(transparent)]
    Message(#[from] InvalidMessage),
    #[error(
        "prompt_tokens has {tokens} tokens, but the context of {model} has {context} and needs one for the answer: shorten the prompt"
    )]
    PromptTooLong { tokens: usize, context: usize, model: String },
    #[error(transparent)]
    Session(SessionError),
    #[error(transparent)]
    OutOfOrder(OutOfOrder),
    #[error("the client counts {client} committed tokens, this worker {worker}")]
    CommittedMismatch { client: usize, worker: usize },
    #[error("a step of this session is still running: try again")]
    StepRunning,
    #[error("the session was closed while its step ran")]
    ClosedMeanwhile,
    /// A refused pass or session, by the field that was refused.
    #[error("{error}")]
    Engine { error: EngineError, field: &'static str },
    #[error("internal error: {0}")]
    Internal(String),
}

impl WorkerError {
    /// A field of the request that is not valid.
    pub fn invalid(field: &'static str, message: impl ToString) -> Self {
        InvalidMessage::new(field, message).into()
    }

    /// An error of the engine about what `field` requested.
    pub fn engine(error: EngineError, field: &'static str) -> Self {
        Self::Engine { error, field }
    }
}

impl From<SessionError> for WorkerError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<OutOfOrder> for WorkerError {
    fn from(error: OutOfOrder) -> Self {
        Self::OutOfOrder(error)
    }
}

impl From<InvalidCommit> for WorkerError {
    fn from(error: InvalidCommit) -> Self {
        Self::invalid("commit", format!("is not valid: {error}"))
    }
}
