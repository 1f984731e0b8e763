use std::net::SocketAddr;

use tandem_proto::Fault;
use tandem_serving::AdmissionError;
use thiserror::Error;
use tonic::Status;

use crate::{KeyError, WorkerKind};

/// Why a generation failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GenerateError {
    #[error(transparent)]
    Request(#[from] Fault),
    #[error("the {worker} service refused: {}", status.message())]
    Worker { worker: WorkerKind, status: Status },
    #[error("no {worker} worker could go on with this text; the last one failed: {reason}")]
    NoWorker { worker: WorkerKind, reason: String },
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the deadline passed before the text was finished: ask for fewer tokens, or allow more time")]
    Deadline,
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    #[error("the client went away")]
    Cancelled,
}

/// Why no pair of models could be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    #[error("no {worker} service answered within {seconds} s; {reason}")]
    NoWorker { worker: WorkerKind, seconds: u64, reason: String },
    #[error(
        "draft and target have different tokenizers, so their tokens mean different things: {reason} {target}; use a draft of the \
         target's family"
    )]
    VocabularyMismatch { target: String, reason: String },
    #[error("the tokenizer of the target at {address} did not come: {}", status.message())]
    NoTokenizer { address: SocketAddr, status: Status },
    #[error("the tokenizer of target {target} cannot be used: {reason}")]
    Tokenizer { target: String, reason: String },
}

impl GenerateError {
    /// Whether it is the client's doing, or its share of what there is.
    pub(crate) fn is_clients(&self) -> bool {
        match self {
            Self::Request(fault) => !matches!(fault, Fault::Bug(_) | Fault::Draining),
            Self::Key(_) | Self::Cancelled => true,
            Self::Admission(reason) => *reason != AdmissionError::Closed,
            Self::Worker { .. } | Self::NoWorker { .. } | Self::Deadline | Self::Tokenizer(_) => false,
        }
    }

    /// Whether the request's time is over.
    pub(crate) fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline)
    }
}

impl From<GenerateError> for Status {
    /// A worker's own status keeps its code and details: what it refused, it refused for the client's request.
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::Request(fault) => fault.into(),
            GenerateError::Worker { status, .. } => {
                Self::with_details(status.code(), message, status.details().to_vec().into())
            }
            GenerateError::Admission(AdmissionError::TooMany { .. }) => Fault::invalid("n", message).into(),
            GenerateError::Admission(AdmissionError::Closed) => Fault::Draining.into(),
            GenerateError::Key(error) => error.into(),
            GenerateError::Admission(_) => Fault::exhausted(message).into(),
            GenerateError::NoWorker { .. } => Self::unavailable(message),
            GenerateError::Deadline => Self::deadline_exceeded(message),
            GenerateError::Tokenizer(_) => Self::internal(message),
            GenerateError::Cancelled => Self::cancelled(message),
        }
    }
}
