//! Errors as OpenAI's clients know them.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use tandem_proto::Reason;

use super::request::Kind;

/// A refusal or a failure.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    /// OpenAI's `type`.
    kind: &'static str,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// OpenAI's `code`.
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    /// 400: `param` is wrong.
    pub(super) fn invalid(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {message}");
        Self { param: Some(param), ..Self::plain(StatusCode::BAD_REQUEST, INVALID, message) }
    }

    /// 400: `param` asks for something that cannot be done here.
    pub(super) fn unsupported(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    /// About the request as a whole.
    pub(super) fn request(status: StatusCode, message: impl Into<String>) -> Self {
        Self::plain(status, INVALID, message.into())
    }

    fn plain(status: StatusCode, kind: &'static str, message: String) -> Self {
        Self { status, kind, message, param: None, code: None, retry_after: None }
    }

    /// With the names that the fields have at `kind`'s endpoint.
    pub(super) fn at(mut self, kind: Kind) -> Self {
        let name = match (kind, self.param.as_deref()) {
            (Kind::Completion, Some("top_logprobs")) => "logprobs",
            (Kind::Chat, Some("prompt")) => "messages",
            _ => return self,
        };
        if let Some(old) = self.param.replace(name.to_owned())
            && let Some(rest) = self.message.strip_prefix(&old)
        {
            self.message = format!("{name}{rest}");
        }
        self
    }

    /// `{"error": {...}}`
    pub(super) fn body(&self) -> Value {
        let Self { kind, message, param, code, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

/// Fields have other names in the gRPC API.
fn openai_name(field: &str) -> &str {
    match field {
        "max_new_tokens" => "max_tokens",
        "log_probs" => "logprobs",
        "top_log_probs" => "top_logprobs",
        "tokens" => "prompt",
        other => other,
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        let (http, kind, code) = match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
                (StatusCode::BAD_REQUEST, INVALID, None)
            }
            Code::NotFound => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Code::Unauthenticated => (StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key")),
            Code::PermissionDenied => (StatusCode::FORBIDDEN, INVALID, None),
            Code::ResourceExhausted => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "server_error", None),
            Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "server_error", Some("timeout")),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        };
        let details = status.get_error_details();
        let field = details.bad_request().and_then(|b| Some(b.field_violations.first()?.field.clone()));
        let message = status.message();
        let (message, param) = match &field {
            Some(field) => {
                let name = openai_name(field);
                let rest = message.strip_prefix(field.as_str());
                (
                    rest.map_or_else(|| message.to_owned(), |rest| format!("{name}{rest}")),
                    Some(name.to_owned()),
                )
            }
            None if status.code() == Code::NotFound => (message.to_owned(), Some("model".to_owned())),
            None => (message.to_owned(), None),
        };
        let too_long = Reason::of(&status) == Some(Reason::ContextLengthExceeded);
        let code = code.or(too_long.then_some("context_length_exceeded"));
        let retry_after = details.retry_info().and_then(|r| r.retry_delay);
        let retry_after =
            retry_after.or((http == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1)));
        Self { status: http, kind, message, param, code, retry_after }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the body will not be read: the next request must not go behind it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, at least one.
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_proto::Fault;

    #[test]
    fn a_status_becomes_an_openai_error() {
        let error =
            ApiError::from(Status::from(Fault::invalid("max_new_tokens", "is 0: it must be at least 1")));
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        let expected = json!({ "error": {
            "message": "max_tokens: is 0: it must be at least 1", "type": "invalid_request_error",
            "param": "max_tokens", "code": null
        }});
        assert_eq!(error.body(), expected);

        let full = ApiError::from(Status::from(Fault::exhausted("full"))).into_response();
        assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(full.headers()[header::RETRY_AFTER], "1");
        let unknown = ApiError::from(Status::not_found("there is no model \"x\" here"));
        assert_eq!((unknown.status, unknown.param.as_deref()), (StatusCode::NOT_FOUND, Some("model")));
        let draining = ApiError::from(Status::from(Fault::Draining)).into_response();
        assert_eq!(draining.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
