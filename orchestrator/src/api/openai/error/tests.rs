use serde_json::json;
use tandem_generation::{Refusal, RefusalKind, Role};

use super::*;

fn error(error: impl Into<ServiceError>) -> ApiError {
    ApiError::new(&error.into(), Kind::Completion)
}

fn invalid(field: Field, kind: Kind) -> ErrorObject {
    let invalid = InvalidRequest::new(field, "is 0: it must be at least 1");
    ApiError::new(&invalid.into(), kind).error
}

#[test]
fn an_invalid_field_becomes_an_openai_error() {
    let error = error(InvalidRequest::new(Field::MaxNewTokens, "is 0: it must be at least 1"));
    assert_eq!(error.status, StatusCode::BAD_REQUEST);
    let expected = json!({ "error": {
        "message": "max_tokens is 0: it must be at least 1", "type": "invalid_request_error",
        "param": "max_tokens", "code": null
    }});
    assert_eq!(serde_json::to_value(error.body()).unwrap(), expected);
}

#[test]
fn fields_have_the_names_of_the_endpoint() {
    for (field, at_completions, at_chats) in [
        (Field::Prompt, "prompt", "messages"),
        (Field::PromptTokens, "prompt", "messages"),
        (Field::TopLogProbs, "logprobs", "top_logprobs"),
        (Field::BeamWidth, "decoding.beam_width", "decoding.beam_width"),
    ] {
        for (kind, expected) in [(Kind::Completion, at_completions), (Kind::Chat, at_chats)] {
            let ErrorObject { param, message, .. } = invalid(field, kind);
            assert_eq!(param.as_deref(), Some(expected));
            assert!(message.starts_with(expected), "{message}");
        }
    }
    let problem = Problem::Requires { value: "3".into(), other: Field::LogProbs };
    let alone = InvalidRequest { field: Field::TopLogProbs, problem };
    let message = ApiError::new(&alone.into(), Kind::Chat).error.message;
    assert_eq!(message, "top_logprobs is 3, which requires logprobs: set logprobs too");
}

#[test]
fn a_limit_says_when_to_retry() {
    let full = error(AdmissionError::AtCapacity { permits: 1 });
    assert_eq!(full.error.code, Some("rate_limit_exceeded"));
    let response = full.into_response();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    for unavailable in [
        error(AdmissionError::Closed),
        error(GenerateError::NoWorker { role: Role::Target, reason: "it was lost".into() }),
    ] {
        let response = unavailable.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
    let many = error(AdmissionError::TooMany { permits: 1, requested: 2 });
    assert_eq!((many.status, many.error.param.as_deref()), (StatusCode::BAD_REQUEST, Some("n")));
}

#[test]
fn errors_have_the_codes_that_clients_look_for() {
    let unknown = error(GenerateError::ModelNotFound { requested: "x".into(), served: "y".into() });
    assert_eq!((unknown.status, unknown.error.param.as_deref()), (StatusCode::NOT_FOUND, Some("model")));
    assert_eq!(unknown.error.code, Some("model_not_found"));
    let problem = Problem::ContextLength { tokens: 9, context: 8, model: "y".into() };
    let long = error(InvalidRequest { field: Field::Prompt, problem });
    assert_eq!((long.status, long.error.code), (StatusCode::BAD_REQUEST, Some("context_length_exceeded")));
    let late = error(GenerateError::DeadlineExceeded);
    assert_eq!((late.status, late.error.code), (StatusCode::GATEWAY_TIMEOUT, Some("timeout")));
    let missing = error(KeyError::Missing);
    assert_eq!(missing.error.code, Some("invalid_api_key"));
    assert_eq!(missing.into_response().headers()[header::WWW_AUTHENTICATE], "Bearer");
    let large = ApiError::request(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    assert_eq!(large.into_response().headers()[header::CONNECTION], "close");
}

#[test]
fn a_workers_refusal_names_the_clients_field() {
    let refusal = |kind, field| {
        let message = "max_new_tokens is 9".to_owned();
        error(GenerateError::from(Refusal { role: Role::Target, kind, field, message }))
    };
    let invalid = refusal(RefusalKind::Invalid, Some(Field::MaxNewTokens));
    assert_eq!(invalid.status, StatusCode::BAD_REQUEST);
    assert_eq!(invalid.error.param.as_deref(), Some("max_tokens"));
    let unsupported = refusal(RefusalKind::Unsupported, None);
    assert_eq!(unsupported.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(unsupported.error.category, "server_error");
    assert_eq!(refusal(RefusalKind::PermissionDenied, None).status, StatusCode::FORBIDDEN);
}
