//! The HTTP face: OpenAI's API beside the gRPC one, and a page to look at.

mod error;
mod fields;
mod page;
mod request;
mod response;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use serde_json::{Value, json};
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tandem_serving::Readiness;
use tonic::Status;

use crate::Caller;
use crate::front::{Events, Front};
use error::ApiError;
use request::{Kind, Request};
use response::Writer;

/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Between two signs of life in a stream: proxies close what is silent.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What is parsed at once.
const INLINE_BYTES: usize = 64 << 10;

type Shared = State<Arc<Front>>;

/// All routes of the orchestrator.
pub(crate) fn routes(front: Arc<Front>) -> Router {
    let completions = |state: Shared, request| answer(Kind::Completion, state, request);
    let chats = |state: Shared, request| answer(Kind::Chat, state, request);
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chats))
        .route("/v1/status", get(status))
        // All that is above, and nothing below: the page has a field for the key.
        .route_layer(from_fn_with_state(front.clone(), authenticate))
        .merge(page::routes())
        .fallback(|| {
            std::future::ready(ApiError::request(StatusCode::NOT_FOUND, "there is nothing at this address"))
        })
        .method_not_allowed_fallback(|| {
            std::future::ready(ApiError::request(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address takes another method",
            ))
        })
        .with_state(front)
}

/// Lets in who has a key, if keys are asked for; handlers find the [`Caller`].
async fn authenticate(
    State(front): Shared,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: HttpRequest,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = front.caller(request.headers(), Some(address.ip())).map_err(Status::from)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Ready while a target serves.
pub(crate) fn readiness(front: Arc<Front>) -> Readiness {
    Arc::new(move || front.pair.ready())
}

async fn models(State(front): Shared, id: Option<axum::extract::Path<String>>) -> Result<Response, ApiError> {
    let model = json!({ "id": front.model, "object": "model", "created": 0, "owned_by": "tandem" });
    match id {
        None => Ok(Json(json!({ "object": "list", "data": [model] })).into_response()),
        Some(id) if id.0 == front.model => Ok(Json(model).into_response()),
        Some(id) => {
            Err(Status::not_found(format!("there is no model {:?} here: use {:?}", id.0, front.model)).into())
        }
    }
}

async fn status(State(front): Shared) -> Json<Value> {
    let status = front.status().await;
    let workers = status.workers.iter().map(|w| {
        let load = w.load.unwrap_or_default();
        json!({
            "role": name(w.role().as_str_name()), "address": w.address, "state": name(w.state().as_str_name()),
            "sessions": w.sessions, "kv_cache_tokens": w.kv_cache_tokens,
            "kv_cache_tokens_used": load.kv_cache_tokens_used,
        })
    });
    Json(json!({
        "running": status.running, "waiting": status.waiting, "workers": workers.collect::<Vec<_>>(),
        "target_model": status.target_model, "draft_model": status.draft_model, "vocab_size": status.vocab_size,
        "context_length": status.context_length, "chat": status.chat,
    }))
}

/// `serving` of `WORKER_STATE_SERVING`.
fn name(constant: &str) -> String {
    constant.rsplit('_').next().unwrap_or_default().to_lowercase()
}

async fn answer(kind: Kind, State(front): Shared, request: HttpRequest) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let Some(caller) = head.extensions.get::<Caller>() else {
        return Err(Status::internal("nobody asked who calls").into());
    };
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let too_large = |_| {
        let message = format!("the body broke off, or is larger than {} MiB", MAX_MESSAGE_BYTES >> 20);
        ApiError::request(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, MAX_MESSAGE_BYTES));
    let body = body.await.map_err(late)?.map_err(too_large)?;
    // Pages of other sites can send any other type without asking first.
    let json = head.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if !json {
        let message = "the content type is not application/json: send the header, with curl by --json";
        return Err(ApiError::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let mut request = parse(kind, body).await?;
    let generate = std::mem::take(&mut request.generate);
    let mut writer = Writer::new(kind, &request, (generate.len(), front.model.clone()));
    let events = front.generate(generate, (front.arrival(None), caller), &head.headers).await;
    let mut events = events.map_err(|status| ApiError::from(status).at(kind))?;
    if !request.stream {
        return Ok(Json(whole(&mut events, writer).await?).into_response());
    }
    // A worker may still refuse it: that is an error with its code, not a stream.
    let mut begun = Vec::new();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                let only_started = is_start(&event);
                begun.extend(chunk(&mut writer, event));
                if !only_started {
                    break;
                }
            }
            Some(Err(status)) => return Err(ApiError::from(status).at(kind)),
            None => break,
        }
    }
    let events = stream::iter(begun).chain(chunks(events, writer)).map(Ok::<_, Infallible>);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEPALIVE)).into_response())
}

/// Reads a body; a long one apart, because it would hold up the streams of others.
async fn parse(kind: Kind, body: Bytes) -> Result<Request, ApiError> {
    if body.len() <= INLINE_BYTES {
        return Request::parse(kind, &body);
    }
    let parsed = tokio::task::spawn_blocking(move || Request::parse(kind, &body)).await;
    parsed.unwrap_or_else(|_| Err(ApiError::request(StatusCode::BAD_REQUEST, "the body cannot be read")))
}

/// The whole answer.
async fn whole(events: &mut Events, mut writer: Writer) -> Result<Value, ApiError> {
    let (mut deltas, mut bytes) = (Vec::new(), 0);
    while let Some(event) = events.next().await {
        let event = event?;
        bytes += event.encoded_len();
        // As JSON it is many times as large, and stays in memory until it is complete.
        if bytes > MAX_MESSAGE_BYTES {
            let message = format!(
                "the answer has grown beyond {} MiB: stream it, or ask for fewer texts, log-probabilities or traces",
                MAX_MESSAGE_BYTES >> 20
            );
            return Err(ApiError::request(StatusCode::BAD_REQUEST, message));
        }
        deltas.extend(writer.delta(event));
    }
    if !writer.is_finished() {
        return Err(broken_off());
    }
    Ok(writer.whole(deltas))
}

/// The events of a stream: chunks, the usage if it was asked for, `[DONE]`; or an error, which is the last.
fn chunks(events: Events, writer: Writer) -> impl Stream<Item = Event> {
    let chunks = stream::unfold(Some((events, writer)), async |state| {
        let (mut events, mut writer) = state?;
        match events.next().await {
            Some(Ok(event)) => {
                let chunk = chunk(&mut writer, event);
                Some((chunk.into_iter().collect::<Vec<_>>(), Some((events, writer))))
            }
            Some(Err(status)) => Some((vec![data(&ApiError::from(status).body())], None)),
            None if !writer.is_finished() => Some((vec![data(&broken_off().body())], None)),
            None => {
                let usage = writer.usage_chunk().map(|usage| data(&usage));
                Some((usage.into_iter().chain([Event::default().data("[DONE]")]).collect(), None))
            }
        }
    });
    chunks.flat_map(stream::iter)
}

fn chunk(writer: &mut Writer, event: v1::GenerateResponse) -> Option<Event> {
    let first = is_start(&event);
    writer.delta(event).map(|delta| data(&writer.chunk(delta, first)))
}

fn is_start(event: &v1::GenerateResponse) -> bool {
    matches!(event.event, Some(v1::generate_response::Event::Started(_)))
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

fn broken_off() -> ApiError {
    Status::internal("the text broke off: this is a bug, the log has more").into()
}
