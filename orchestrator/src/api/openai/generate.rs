//! `/v1/completions` and `/v1/chat/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::error::{ApiError, ErrorBody};
use super::kind::Kind;
use super::request::{ChatCompletionRequest, CompletionRequest, Request};
use super::response::{
    ChatCompletion, ChatCompletionChunk, ChunkWriter, Collector, Completion, CompletionChunk,
};
use super::stream;
use crate::admission::ClientIdentity;
use crate::error::ServiceError;
use crate::service::GenerationService;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of a body.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Bodies up to this size are parsed at once; a longer one would delay the streams of others, and gets a thread of its own.
const INLINE_BODY_BYTES: usize = 64 << 10;

/// Completes one or several prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "generation",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The choices; with `stream`, chunks as server-sent events that end with `[DONE]`", content(
            (Completion = "application/json"),
            (CompletionChunk = "text/event-stream"),
        )),
        (status = "default", description = "An error", body = ErrorBody),
    )
)]
pub(super) async fn completions(
    State(service): State<Arc<GenerationService>>,
    Extension(client): Extension<ClientIdentity>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    generate(Kind::Completion, service, client, headers, body).await
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "generation",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The choices; with `stream`, chunks as server-sent events that end with `[DONE]`", content(
            (ChatCompletion = "application/json"),
            (ChatCompletionChunk = "text/event-stream"),
        )),
        (status = "default", description = "An error", body = ErrorBody),
    )
)]
pub(super) async fn chat_completions(
    State(service): State<Arc<GenerationService>>,
    Extension(client): Extension<ClientIdentity>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    generate(Kind::Chat, service, client, headers, body).await
}

async fn generate(
    kind: Kind,
    service: Arc<GenerationService>,
    client: ClientIdentity,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    // The body first: what is not read would be taken for the next request of the connection.
    let body = read(body).await?;
    require_json(&headers)?;
    let request = parse(kind, body).await?;
    let options = request.options;
    let requests = request.check().map_err(|invalid| {
        let error = ServiceError::from(invalid);
        service.refused(&error);
        ApiError::new(&error, kind)
    })?;
    let prompts = requests.len();
    let model = service.model.clone();
    let events = service.generate(requests, service.arrival(None), &client, &headers).await;
    let events = events.map_err(|error| ApiError::new(&error, kind))?;
    if options.stream {
        let writer = ChunkWriter::new(kind, options, prompts, model);
        stream::streamed(kind, events, writer).await
    } else {
        let collector = Collector::new(options, prompts);
        stream::whole(kind, events, collector, model).await
    }
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let message = format!("the body ended early, or is larger than {} MiB", MAX_BODY_BYTES >> 20);
            Err(ApiError::request(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiError::request(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Refuses other content types: browsers let pages of other sites send those without asking this server first.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get(CONTENT_TYPE).is_some_and(|value| is_json(value.as_bytes())) {
        return Ok(());
    }
    let message = "the content type is not application/json: send the header \"Content-Type: application/json\" (curl: --json)";
    Err(ApiError::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Whether a content type is JSON, whatever its case and its parameters.
fn is_json(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

async fn parse(kind: Kind, body: Bytes) -> Result<Request, ApiError> {
    if body.len() <= INLINE_BODY_BYTES {
        return Request::parse(kind, &body);
    }
    let parsing = tokio::task::spawn_blocking(move || Request::parse(kind, &body));
    parsing.await.unwrap_or_else(|_| Err(ApiError::internal("the body could not be parsed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_may_have_any_case_and_parameters() {
        for json in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
            assert!(is_json(json.as_bytes()), "{json}");
        }
        for other in ["", "text/plain", "application/jsonp", "text/plain; application/json"] {
            assert!(!is_json(other.as_bytes()), "{other}");
        }
    }
}
