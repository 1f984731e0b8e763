//! Why a request to the orchestrator failed. Adapters turn it into a status or an error body.

use std::time::Duration;

use tandem_generation::{GenerateError, InvalidRequest, RefusalKind};
use tandem_serving::AdmissionError;
use thiserror::Error;

use crate::admission::KeyError;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "transparent")]
pub(crate) enum ServiceError {
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// When a client may retry a request that was not admitted: after about the length of a short one.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl ServiceError {
    /// Whether the client caused it, by what it requested or by leaving; otherwise it is the server's failure.
    pub(crate) fn is_client_error(&self) -> bool {
        match self {
            Self::Generate(error) => error.is_client_error(),
            Self::Admission(error) => *error != AdmissionError::Closed,
            Self::Key(_) => true,
        }
    }

    /// The kind, by which adapters choose a code.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Generate(error) => match error {
                GenerateError::Invalid(_) => ErrorKind::InvalidArgument,
                GenerateError::Refused(refusal) => match refusal.kind {
                    RefusalKind::Invalid => ErrorKind::InvalidArgument,
                    RefusalKind::Unsupported => ErrorKind::Unimplemented,
                    RefusalKind::PermissionDenied => ErrorKind::PermissionDenied,
                },
                GenerateError::ModelNotFound { .. } => ErrorKind::NotFound,
                GenerateError::Busy { .. } => ErrorKind::ResourceExhausted,
                GenerateError::NoWorker { .. } => ErrorKind::Unavailable,
                GenerateError::DeadlineExceeded => ErrorKind::DeadlineExceeded,
                GenerateError::Cancelled => ErrorKind::Cancelled,
                GenerateError::Tokenizer(_) | GenerateError::Internal(_) => ErrorKind::Internal,
            },
            Self::Admission(AdmissionError::TooMany { .. }) => ErrorKind::InvalidArgument,
            Self::Admission(AdmissionError::Closed) => ErrorKind::Unavailable,
            Self::Admission(_) => ErrorKind::ResourceExhausted,
            Self::Key(error) if error.is_unauthenticated() => ErrorKind::Unauthenticated,
            Self::Key(error) if error.retry_after().is_some() => ErrorKind::ResourceExhausted,
            Self::Key(_) => ErrorKind::InvalidArgument,
        }
    }

    /// When the client may retry, if that helps.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Generate(GenerateError::Busy { retry_after, .. }) => Some(*retry_after),
            Self::Key(error) => error.retry_after(),
            Self::Admission(_) if self.kind() == ErrorKind::ResourceExhausted => Some(RETRY_AFTER),
            Self::Generate(_) | Self::Admission(_) => None,
        }
    }
}

/// Kinds of errors, as gRPC distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
}

impl ErrorKind {
    /// The name in metrics and traces: that of gRPC's code.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unimplemented => "UNIMPLEMENTED",
        }
    }
}

impl From<InvalidRequest> for ServiceError {
    fn from(error: InvalidRequest) -> Self {
        Self::Generate(error.into())
    }
}
