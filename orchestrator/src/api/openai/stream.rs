//! Sends an answer: whole, or as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use super::error::ApiError;
use super::kind::Kind;
use super::response::{ChunkWriter, Collector};
use crate::sequence::{EventStream, SequenceEvent};

/// Between two comments in a stream without events: proxies close connections that are silent.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Size of an answer that is not streamed, before it is JSON: it stays in memory until it is complete.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The whole answer by `model`.
pub(super) async fn whole(
    kind: Kind,
    mut events: EventStream,
    mut collector: Collector,
    model: String,
) -> Result<Response, ApiError> {
    while let Some(event) = events.next().await {
        collector.add(event.map_err(|error| ApiError::new(&error, kind))?);
        if collector.bytes() > MAX_ANSWER_BYTES {
            let message = format!(
                "the answer is larger than {} MiB: stream it, or request fewer choices, log-probabilities or traces",
                MAX_ANSWER_BYTES >> 20
            );
            return Err(ApiError::request(StatusCode::BAD_REQUEST, message));
        }
    }
    match collector.finish(kind, model) {
        Some(answer) => Ok(Json(answer).into_response()),
        None => Err(ended_early()),
    }
}

/// The answer as a stream. Before its first token an error is an answer of its own, with its status.
pub(super) async fn streamed(
    kind: Kind,
    mut events: EventStream,
    mut writer: ChunkWriter,
) -> Result<Response, ApiError> {
    let mut first = Vec::new();
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| ApiError::new(&error, kind))?;
        let is_start = matches!(event.event, tandem_generation::Event::Started(_));
        first.extend(chunk(&mut writer, event));
        if !is_start {
            break;
        }
    }
    let events = stream::iter(first).chain(chunks(kind, events, writer)).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// The chunks, the usage if it was requested, and `[DONE]`; or an error, which is the last event.
fn chunks(kind: Kind, events: EventStream, writer: ChunkWriter) -> impl Stream<Item = Event> {
    let state = Some((events, writer));
    let batches = stream::unfold(state, move |state| async move {
        let (mut events, mut writer) = state?;
        match events.next().await {
            Some(Ok(event)) => {
                let chunk = chunk(&mut writer, event);
                Some((Vec::from_iter(chunk), Some((events, writer))))
            }
            Some(Err(error)) => Some((vec![json(&ApiError::new(&error, kind).body())], None)),
            None => Some((end(&writer), None)),
        }
    });
    batches.flat_map(stream::iter)
}

fn chunk(writer: &mut ChunkWriter, event: SequenceEvent) -> Option<Event> {
    writer.write(event).map(|chunk| json(&chunk))
}

fn end(writer: &ChunkWriter) -> Vec<Event> {
    if !writer.is_finished() {
        return vec![json(&ended_early().body())];
    }
    let mut last: Vec<Event> = writer.usage().iter().map(json).collect();
    last.push(Event::default().data("[DONE]"));
    last
}

/// An event with a value as JSON.
fn json(value: &impl Serialize) -> Event {
    match Event::default().json_data(value) {
        Ok(event) => event,
        // None of our types can fail; a client would see the stream end without [DONE].
        Err(error) => {
            tracing::error!(%error, "an event cannot be written as JSON");
            Event::default()
        }
    }
}

fn ended_early() -> ApiError {
    ApiError::internal("the generation ended early; this is a bug, and the log of the server says more")
}
