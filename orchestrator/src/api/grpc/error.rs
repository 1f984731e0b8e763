//! Errors as gRPC statuses, with the names of the fields in `generation.proto`.

use tandem_generation::{Field, GenerateError, InvalidRequest, Problem};
use tandem_proto::Reason;
use tandem_serving::AdmissionError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admission::KeyError;
use crate::error::{ErrorKind, ServiceError};

/// The name of a field in `generation.proto`.
fn name(field: Field) -> &'static str {
    match field {
        Field::Model => "model",
        Field::Prompt => "prompt",
        Field::PromptTokens => "tokens",
        Field::Messages => "messages",
        Field::MaxNewTokens => "max_new_tokens",
        Field::Temperature => "temperature",
        Field::TopK => "top_k",
        Field::TopP => "top_p",
        Field::Stop => "stop",
        Field::LogProbs => "log_probs",
        Field::TopLogProbs => "top_log_probs",
        Field::N => "n",
        Field::Method => "decoding.method",
        Field::BeamWidth => "decoding.beam_width",
        Field::DraftTokens => "decoding.draft_tokens",
        Field::AcceptanceThreshold => "decoding.acceptance_threshold",
        Field::Beams => "decoding.beams",
        Field::Reference => "decoding.reference",
        Field::Branching => "decoding.branching",
    }
}

/// The status of an error:
///
/// | kind | code | details |
/// |---|---|---|
/// | a field is not valid | INVALID_ARGUMENT | `BadRequest` with the field |
/// | the prompt is too long | INVALID_ARGUMENT | the same, and `ErrorInfo` with the reason |
/// | limits are reached | RESOURCE_EXHAUSTED | `RetryInfo` |
/// | all others | as [`ErrorKind`] names them | |
pub(super) fn status(error: &ServiceError) -> Status {
    match error {
        ServiceError::Generate(GenerateError::Invalid(invalid)) => invalid_argument(invalid),
        ServiceError::Generate(GenerateError::Refused(refusal)) => {
            let message = refusal.to_string();
            match refusal.field {
                Some(field) => about(field, &message, refusal.message.clone()),
                None => Status::new(code(error.kind()), message),
            }
        }
        ServiceError::Admission(AdmissionError::TooMany { .. })
        | ServiceError::Key(KeyError::TooMany { .. }) => {
            let message = error.to_string();
            about(Field::N, &message, message.clone())
        }
        _ => match error.retry_after() {
            Some(after) => {
                let details = ErrorDetails::with_retry_info(Some(after));
                Status::with_error_details(code(error.kind()), error.to_string(), details)
            }
            None => Status::new(code(error.kind()), error.to_string()),
        },
    }
}

/// INVALID_ARGUMENT about `field`.
fn about(field: Field, message: &str, description: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(name(field), description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// INVALID_ARGUMENT about a field of a client's request.
pub(super) fn invalid_argument(error: &InvalidRequest) -> Status {
    let mut details = match error.problem {
        Problem::ContextLength { .. } => Reason::ContextLengthExceeded.details(),
        Problem::Is(_) | Problem::Requires { .. } => ErrorDetails::new(),
    };
    details.add_bad_request_violation(name(error.field), error.predicate(name));
    Status::with_error_details(Code::InvalidArgument, error.describe(name), details)
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unimplemented => Code::Unimplemented,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tandem_generation::{Refusal, RefusalKind, Role};
    use tandem_proto::code_name;

    use super::*;

    fn field(status: &Status) -> String {
        status.get_details_bad_request().unwrap().field_violations[0].field.clone()
    }

    #[test]
    fn an_invalid_field_has_its_name_in_the_protocol() {
        let error = InvalidRequest::new(Field::BeamWidth, "is 0: it must be between 1 and 32");
        let status = status(&error.into());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "decoding.beam_width is 0: it must be between 1 and 32");
        assert_eq!(field(&status), "decoding.beam_width");
    }

    #[test]
    fn a_prompt_that_is_too_long_has_a_reason_for_programs() {
        let problem = Problem::ContextLength { tokens: 9, context: 8, model: "acme/small".into() };
        let status = status(&InvalidRequest { field: Field::Prompt, problem }.into());
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "prompt"));
        assert_eq!(Reason::of(&status), Some(Reason::ContextLengthExceeded));
    }

    #[test]
    fn a_limit_says_when_to_retry() {
        let retry_after = Duration::from_millis(250);
        let busy = GenerateError::Busy { role: Role::Target, message: "full".into(), retry_after };
        let status = status(&busy.into());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(retry_after));
    }

    #[test]
    fn a_workers_refusal_names_the_clients_field() {
        let kind = RefusalKind::Invalid;
        let message = "max_new_tokens is 9".to_owned();
        let refusal = Refusal { role: Role::Target, kind, field: Some(Field::MaxNewTokens), message };
        assert_eq!(field(&status(&GenerateError::from(refusal).into())), "max_new_tokens");
    }

    #[test]
    fn kinds_have_the_names_of_their_codes() {
        for kind in [ErrorKind::DeadlineExceeded, ErrorKind::Unavailable, ErrorKind::Unauthenticated] {
            assert_eq!(code_name(code(kind)), kind.name());
        }
    }
}
