//! Errors of a worker as gRPC statuses.

use std::time::Duration;

use tandem_engine::EngineError;
use tandem_proto::Reason;
use tandem_serving::AdmissionError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::WorkerError;
use crate::session_table::SessionError;

/// When a client may repeat a step that is running.
const STEP_RETRY_AFTER: Duration = Duration::from_millis(50);
/// When a client may retry a request for which there is no room: after about the length of a short one.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The status of an error:
///
/// | error | code | details |
/// |---|---|---|
/// | a field is not valid | INVALID_ARGUMENT | `BadRequest` with the field |
/// | the prompt is too long | INVALID_ARGUMENT | the same, and `ErrorInfo` with the reason |
/// | a step out of order, another count of committed tokens | FAILED_PRECONDITION | `ErrorInfo` with the reason |
/// | an unknown session, another incarnation | NOT_FOUND | `ErrorInfo` with the reason |
/// | no room, a step that still runs | RESOURCE_EXHAUSTED | `RetryInfo` |
/// | draining | UNAVAILABLE | |
/// | a bug | INTERNAL | |
impl From<WorkerError> for Status {
    fn from(error: WorkerError) -> Self {
        let message = error.to_string();
        match error {
            WorkerError::Message(invalid) => invalid_argument(invalid.field, &message, invalid.message),
            WorkerError::PromptTooLong { .. } => {
                let mut details = Reason::ContextLengthExceeded.details();
                details.add_bad_request_violation("prompt_tokens", message.clone());
                Self::with_error_details(Code::InvalidArgument, message, details)
            }
            WorkerError::Session(error) => session(error, message),
            WorkerError::OutOfOrder(_) => refused(Reason::StepOutOfOrder, message),
            WorkerError::CommittedMismatch { .. } => refused(Reason::CommittedMismatch, message),
            WorkerError::StepRunning => exhausted(message, STEP_RETRY_AFTER),
            WorkerError::ClosedMeanwhile => gone(Reason::UnknownSession, message),
            WorkerError::Engine { error, field } => engine(error, field, message),
            WorkerError::Internal(_) => Self::internal(message),
        }
    }
}

fn session(error: SessionError, message: String) -> Status {
    match error {
        SessionError::Admission(AdmissionError::Closed) => Status::unavailable(message),
        SessionError::Admission(_) => exhausted(message, RETRY_AFTER),
        SessionError::Exists { .. } => invalid_argument("session_id", &message, message.clone()),
        SessionError::Unknown { .. } => gone(Reason::UnknownSession, message),
        SessionError::StaleIncarnation { .. } => gone(Reason::StaleIncarnation, message),
    }
}

fn engine(error: EngineError, field: &'static str, message: String) -> Status {
    match error {
        EngineError::ContextFull { .. }
        | EngineError::TokenOutOfRange { .. }
        | EngineError::PassTooLarge { .. } => invalid_argument(field, &message, message.clone()),
        EngineError::BudgetFull { needed, total, .. } if needed > total => {
            let why = format!(
                "needs {needed} tokens, which can never fit a KV cache of {total}: request fewer, or start the worker with a larger \
                 --kv-cache-tokens"
            );
            invalid_argument(field, &format!("{field} {why}"), why)
        }
        EngineError::BudgetFull { .. } => exhausted(message, RETRY_AFTER),
        EngineError::Stopped => Status::unavailable(message),
        EngineError::InvalidPass(_) | EngineError::Failed(_) => Status::internal(message),
    }
}

fn invalid_argument(field: &'static str, message: &str, description: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

fn refused(reason: Reason, message: String) -> Status {
    Status::with_error_details(Code::FailedPrecondition, message, reason.details())
}

fn gone(reason: Reason, message: String) -> Status {
    Status::with_error_details(Code::NotFound, message, reason.details())
}

fn exhausted(message: String, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(status: &Status) -> String {
        status.get_details_bad_request().unwrap().field_violations[0].field.clone()
    }

    #[test]
    fn an_invalid_field_is_named() {
        let status = Status::from(WorkerError::invalid("tree", "is not valid"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "tree is not valid"));
        assert_eq!(field(&status), "tree");
    }

    #[test]
    fn a_prompt_that_is_too_long_has_a_reason_for_programs() {
        let error = WorkerError::PromptTooLong { tokens: 9, context: 8, model: "acme/small".into() };
        let status = Status::from(error);
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "prompt_tokens"));
        assert_eq!(Reason::of(&status), Some(Reason::ContextLengthExceeded));
    }

    #[test]
    fn a_lost_session_has_its_reason() {
        for (error, reason) in [
            (SessionError::Unknown { id: 7 }, Reason::UnknownSession),
            (SessionError::StaleIncarnation { handle: 1, worker: 2 }, Reason::StaleIncarnation),
        ] {
            let status = Status::from(WorkerError::from(error));
            assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(reason)));
        }
    }

    #[test]
    fn a_full_worker_says_when_to_retry_unless_it_can_never_fit() {
        let full = |needed| EngineError::BudgetFull { needed, free: 10, total: 100 };
        let status = Status::from(WorkerError::engine(full(50), "max_new_tokens"));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        let status = Status::from(WorkerError::engine(full(101), "max_new_tokens"));
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "max_new_tokens"));
    }
}
