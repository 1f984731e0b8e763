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

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tandem_proto::{MAX_MESSAGE_BYTES, v1};
use tandem_serving::Readiness;

use crate::front::{Events, Front};
use error::ApiError;
use request::{Kind, Request};
use response::Writer;

/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Between two signs of life in a stream: proxies close what is silent.
const KEEPALIVE: Duration = Duration::from_secs(10);

type Shared = State<Arc<Front>>;
type Client = ConnectInfo<SocketAddr>;

/// All routes of the orchestrator.
pub(crate) fn routes(front: Arc<Front>) -> Router {
    let completions = |state: Shared, client: Client, headers: HeaderMap, body: Body| {
        answer(Kind::Completion, state, client, headers, body)
    };
    let chats = |state: Shared, client: Client, headers: HeaderMap, body: Body| {
        answer(Kind::Chat, state, client, headers, body)
    };
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chats))
        .route("/v1/status", get(status))
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
            Err(tonic::Status::not_found(format!("there is no model {:?} here: use {:?}", id.0, front.model))
                .into())
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

async fn answer(
    kind: Kind,
    State(front): Shared,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let too_large = |_| {
        let message = format!("the body broke off, or is larger than {} MiB", MAX_MESSAGE_BYTES >> 20);
        ApiError::request(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, MAX_MESSAGE_BYTES));
    let body = body.await.map_err(late)?.map_err(too_large)?;
    let mut request = Request::parse(kind, &body)?;
    let mut writer = Writer::new(kind, &request, front.model.clone());
    let arrival = front.arrival(None, Some(client.0.ip()));
    let mut events = front.generate(std::mem::take(&mut request.generate), arrival, &headers).await?;
    if !request.stream {
        let mut deltas = Vec::new();
        while let Some(event) = events.next().await {
            deltas.extend(writer.delta(event?));
        }
        return Ok(Json(writer.whole(deltas)).into_response());
    }
    // What is refused at once is an error with its code, not a stream.
    let mut events = events.peekable();
    match std::pin::Pin::new(&mut events).peek().await {
        Some(Err(_)) => match events.next().await {
            Some(Err(status)) => Err(status.into()),
            _ => Err(ApiError::request(StatusCode::INTERNAL_SERVER_ERROR, "the stream broke off")),
        },
        _ => {
            let events = server_sent(events, writer, request.include_usage);
            Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEPALIVE)).into_response())
        }
    }
}

/// The events of a stream: chunks, the usage if it was asked for, `[DONE]`; or an error, which is the last.
fn server_sent(
    events: stream::Peekable<Events>,
    writer: Writer,
    usage: bool,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let data = |value: &Value| Event::default().data(value.to_string());
    let chunks = stream::unfold(Some((events, writer)), move |state| async move {
        let (mut events, mut writer) = state?;
        match events.next().await {
            Some(Ok(event)) => {
                let first = matches!(event.event, Some(v1::generate_response::Event::Started(_)));
                let chunk = writer.delta(event).map(|delta| data(&writer.chunk(delta, first)));
                Some((chunk.into_iter().collect::<Vec<_>>(), Some((events, writer))))
            }
            Some(Err(status)) => Some((vec![data(&ApiError::from(status).body())], None)),
            None => {
                let mut last: Vec<Event> = usage.then(|| data(&writer.usage_chunk())).into_iter().collect();
                last.push(Event::default().data("[DONE]"));
                Some((last, None))
            }
        }
    });
    chunks.flat_map(|events| stream::iter(events.into_iter().map(Ok)))
}
