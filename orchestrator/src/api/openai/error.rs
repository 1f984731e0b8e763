//! Errors as OpenAI's clients know them.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tandem_generation::{Field, GenerateError, InvalidRequest, Problem};
use tandem_serving::AdmissionError;
use utoipa::ToSchema;

use super::kind::Kind;
use crate::admission::KeyError;
use crate::error::{ErrorKind, ServiceError};

/// A refusal or a failure.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    error: ErrorObject,
    retry_after: Option<Duration>,
}

/// The body of an answer that is an error. In a stream that has begun, it is the last event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorObject,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ErrorObject {
    message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    category: &'static str,
    /// The field that is wrong, with its path: `decoding.beam_width`.
    param: Option<String>,
    /// `unsupported_parameter`, `context_length_exceeded`, `model_not_found`, `invalid_api_key`, `rate_limit_exceeded`, `timeout`, or
    /// null.
    code: Option<&'static str>,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const SERVER_ERROR: &str = "server_error";
/// When to retry if no worker is available, or the server shuts down.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The name of a field at an endpoint.
fn name(field: Field, kind: Kind) -> &'static str {
    match field {
        Field::Model => "model",
        Field::Prompt | Field::PromptTokens => match kind {
            Kind::Completion => "prompt",
            Kind::Chat => "messages",
        },
        Field::Messages => "messages",
        Field::MaxNewTokens => "max_tokens",
        Field::Temperature => "temperature",
        Field::TopK => "top_k",
        Field::TopP => "top_p",
        Field::Stop => "stop",
        Field::LogProbs => "logprobs",
        Field::TopLogProbs => match kind {
            Kind::Completion => "logprobs",
            Kind::Chat => "top_logprobs",
        },
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

impl ApiError {
    /// The error of the service, with the names that fields have at an endpoint:
    ///
    /// | kind | status | `type` | `code` |
    /// |---|---|---|---|
    /// | a field is not valid | 400 | `invalid_request_error` | null, or `context_length_exceeded` |
    /// | no valid key | 401 | `invalid_request_error` | `invalid_api_key` |
    /// | the worker may not be used | 403 | `invalid_request_error` | null |
    /// | another model | 404 | `invalid_request_error` | `model_not_found` |
    /// | limits are reached | 429 | `rate_limit_error` | `rate_limit_exceeded` |
    /// | no worker, or shutting down | 503 | `server_error` | null |
    /// | the deadline passed | 504 | `server_error` | `timeout` |
    /// | all others | 500 | `server_error` | null |
    pub(super) fn new(error: &ServiceError, kind: Kind) -> Self {
        let (status, category, code) = match error.kind() {
            ErrorKind::InvalidArgument => (StatusCode::BAD_REQUEST, INVALID_REQUEST, None),
            ErrorKind::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, INVALID_REQUEST, Some("invalid_api_key"))
            }
            ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, INVALID_REQUEST, None),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, INVALID_REQUEST, Some("model_not_found")),
            ErrorKind::ResourceExhausted => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, None),
            ErrorKind::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, SERVER_ERROR, Some("timeout")),
            ErrorKind::Cancelled | ErrorKind::Internal | ErrorKind::Unimplemented => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER_ERROR, None)
            }
        };
        let unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        let retry_after = error.retry_after().or(unavailable.then_some(UNAVAILABLE_RETRY_AFTER));
        let error = ErrorObject {
            message: message(error, kind),
            category,
            param: field(error).map(|field| name(field, kind).to_owned()),
            code: code.or(is_context_length(error).then_some("context_length_exceeded")),
        };
        Self { status, error, retry_after }
    }

    /// 400: `param` is not valid. The predicate is what is said after its name.
    pub(super) fn invalid(param: impl Into<String>, predicate: impl fmt::Display) -> Self {
        let param = param.into();
        let mut error = Self::request(StatusCode::BAD_REQUEST, format!("{param} {predicate}"));
        error.error.param = Some(param);
        error
    }

    /// 400: `param` requests something that this server does not offer.
    pub(super) fn unsupported(param: impl Into<String>, predicate: impl fmt::Display) -> Self {
        let mut error = Self::invalid(param, predicate);
        error.error.code = Some("unsupported_parameter");
        error
    }

    /// The request as a whole is wrong.
    pub(super) fn request(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let error = ErrorObject { message, category: INVALID_REQUEST, param: None, code: None };
        Self { status, error, retry_after: None }
    }

    /// 500: a bug of this server.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(&GenerateError::Internal(message.into()).into(), Kind::Completion)
    }

    /// The body.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.error.clone() }
    }
}

fn message(error: &ServiceError, kind: Kind) -> String {
    match error {
        ServiceError::Generate(GenerateError::Invalid(invalid)) => invalid.describe(|f| name(f, kind)),
        _ => error.to_string(),
    }
}

/// The field of the request that is at fault.
fn field(error: &ServiceError) -> Option<Field> {
    match error {
        ServiceError::Generate(GenerateError::Invalid(invalid)) => Some(invalid.field),
        ServiceError::Generate(GenerateError::ModelNotFound { .. }) => Some(Field::Model),
        ServiceError::Generate(GenerateError::Refused(refusal)) => refusal.field,
        ServiceError::Generate(_) => None,
        ServiceError::Admission(AdmissionError::TooMany { .. }) => Some(Field::N),
        ServiceError::Admission(_) => None,
        ServiceError::Key(KeyError::TooMany { .. }) => Some(Field::N),
        ServiceError::Key(_) => None,
    }
}

fn is_context_length(error: &ServiceError) -> bool {
    let ServiceError::Generate(GenerateError::Invalid(InvalidRequest { problem, .. })) = error else {
        return false;
    };
    matches!(problem, Problem::ContextLength { .. })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The rest of the body will not be read, so no other request can follow on this connection.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            // The header has whole seconds; 0 would make clients retry in a loop.
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests;
