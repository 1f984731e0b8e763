//! Why a generation failed, as a value. Adapters turn it into a status code or an error body.

use std::time::Duration;

use thiserror::Error;

use crate::{Field, InvalidRequest, Role};

/// Why a generation failed.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GenerateError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("the model {requested:?} does not exist: this server serves {served:?}")]
    ModelNotFound { requested: String, served: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the {role} service is busy: {message}")]
    Busy { role: Role, message: String, retry_after: Duration },
    #[error("no {role} worker is available; the last one failed: {reason}")]
    NoWorker { role: Role, reason: String },
    #[error("the deadline passed before the generation finished: request fewer tokens, or allow more time")]
    DeadlineExceeded,
    #[error("the client cancelled the request")]
    Cancelled,
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    #[error("internal error: {0}")]
    Internal(String),
}

/// A worker refused the request itself: no other worker would accept it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {role} service refused the request: {message}")]
pub struct Refusal {
    /// Which service refused it.
    pub role: Role,
    /// Of which kind the refusal is.
    pub kind: RefusalKind,
    /// The field of the client's request that it is about, if the worker named one.
    pub field: Option<Field>,
    /// The worker's words.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// A value is not valid on this worker.
    Invalid,
    /// The worker does not offer this.
    Unsupported,
    /// The orchestrator may not use this worker.
    PermissionDenied,
}

impl GenerateError {
    /// Whether the client caused it, by what it requested or by leaving; otherwise it is the server's failure.
    pub fn is_client_error(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::ModelNotFound { .. }
            | Self::Refused(_)
            | Self::Busy { .. }
            | Self::Cancelled => true,
            Self::NoWorker { .. } | Self::DeadlineExceeded | Self::Tokenizer(_) | Self::Internal(_) => false,
        }
    }
}
