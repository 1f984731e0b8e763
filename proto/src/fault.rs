//! What can go wrong in a service, and how it is said on the wire.

use std::collections::HashMap;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our `google.rpc.ErrorInfo`s.
const DOMAIN: &str = "tandem";

/// A fault of a request. [`Status`] is made from it by one table:
///
/// | fault | code | details |
/// |---|---|---|
/// | `Invalid` | INVALID_ARGUMENT | `BadRequest` with the field |
/// | `TooLong` | INVALID_ARGUMENT | the same, and `ErrorInfo` with the reason |
/// | `Refused` | FAILED_PRECONDITION | `ErrorInfo` with the reason |
/// | `Gone` | NOT_FOUND | `ErrorInfo` with the reason |
/// | `Exhausted` | RESOURCE_EXHAUSTED | `RetryInfo` |
/// | `Draining` | UNAVAILABLE | |
/// | `Bug` | INTERNAL | |
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the table says it")]
pub enum Fault {
    #[error("{field}: {message}")]
    Invalid { field: &'static str, message: String },
    #[error("{field}: {message}")]
    TooLong { field: &'static str, message: String },
    #[error("{message}")]
    Refused { reason: Reason, message: String },
    #[error("{message}")]
    Gone { reason: Reason, message: String },
    #[error("{message}")]
    Exhausted { message: String, retry_after: Duration },
    #[error("this process is shutting down: use another")]
    Draining,
    #[error("{0}")]
    Bug(String),
}

/// Machine-readable reasons of `TooLong`, `Refused` and `Gone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The worker has no such session: it was closed, or its lease expired.
    UnknownSession,
    /// The handle is of an earlier life of the worker.
    StaleIncarnation,
    /// The step is neither the last one nor the next; the message has the next.
    StepOutOfOrder,
    /// The worker has committed another number of tokens; the message has it.
    CommittedMismatch,
    /// The tokenizers of draft and target differ.
    VocabularyMismatch,
    /// The prompt leaves no room in the context.
    ContextLengthExceeded,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::UnknownSession,
        Self::StaleIncarnation,
        Self::StepOutOfOrder,
        Self::CommittedMismatch,
        Self::VocabularyMismatch,
        Self::ContextLengthExceeded,
    ];

    /// As in `ErrorInfo.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSession => "UNKNOWN_SESSION",
            Self::StaleIncarnation => "STALE_INCARNATION",
            Self::StepOutOfOrder => "STEP_OUT_OF_ORDER",
            Self::CommittedMismatch => "COMMITTED_MISMATCH",
            Self::VocabularyMismatch => "VOCABULARY_MISMATCH",
            Self::ContextLengthExceeded => "CONTEXT_LENGTH_EXCEEDED",
        }
    }

    /// The reason that a status of ours carries.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        Self::ALL.into_iter().find(|r| info.domain == DOMAIN && r.as_str() == info.reason)
    }
}

impl Fault {
    /// RESOURCE_EXHAUSTED, to be tried again after about the length of a short request.
    pub fn exhausted(message: impl ToString) -> Self {
        Self::Exhausted { message: message.to_string(), retry_after: Duration::from_millis(500) }
    }

    /// INVALID_ARGUMENT about `field`, a prompt of `tokens` for the `context` of `model`.
    pub fn too_long(field: &'static str, tokens: usize, context: usize, model: &str) -> Self {
        let message = format!(
            "has {tokens} tokens, but the context of {model} has {context} and needs one for the answer: shorten the prompt"
        );
        Self::TooLong { field, message }
    }

    /// INVALID_ARGUMENT about `field`.
    pub fn invalid(field: &'static str, message: impl ToString) -> Self {
        Self::Invalid { field, message: message.to_string() }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let message = fault.to_string();
        let info = |reason: Reason| ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
        match fault {
            Fault::Invalid { field, message: why } => {
                let details = ErrorDetails::with_bad_request_violation(field, why);
                Self::with_error_details(Code::InvalidArgument, message, details)
            }
            Fault::TooLong { field, message: why } => {
                let mut details = info(Reason::ContextLengthExceeded);
                details.add_bad_request_violation(field, why);
                Self::with_error_details(Code::InvalidArgument, message, details)
            }
            Fault::Refused { reason, .. } => {
                Self::with_error_details(Code::FailedPrecondition, message, info(reason))
            }
            Fault::Gone { reason, .. } => Self::with_error_details(Code::NotFound, message, info(reason)),
            Fault::Exhausted { retry_after, .. } => {
                let details = ErrorDetails::with_retry_info(Some(retry_after));
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
            Fault::Draining => Self::unavailable(message),
            Fault::Bug(_) => Self::internal(message),
        }
    }
}

/// A code as the documents of gRPC write it: `RESOURCE_EXHAUSTED`.
pub fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_names() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::ResourceExhausted), "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn a_status_keeps_code_field_reason_and_delay() {
        let status = Status::from(Fault::invalid("tree", "no tree"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "tree: no tree"));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "tree");

        for reason in Reason::ALL {
            let status = Status::from(Fault::Gone { reason, message: "gone".into() });
            assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(reason)));
        }
        let status = Status::from(Fault::too_long("prompt", 9, 8, "acme/small"));
        assert_eq!(
            (status.code(), Reason::of(&status)),
            (Code::InvalidArgument, Some(Reason::ContextLengthExceeded))
        );
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "prompt");
        let retry_after = Duration::from_millis(250);
        let status = Status::from(Fault::Exhausted { message: "full".into(), retry_after });
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(retry_after));
        assert_eq!(Reason::of(&Status::not_found("somebody else's")), None);
    }
}
