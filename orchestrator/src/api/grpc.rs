//! The gRPC API: `tandem.v1.Generation`.

mod error;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tandem_generation::GenerateRequest;
use tandem_proto::v1;
use tandem_proto::v1::generation_server::Generation;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::admission::ClientIdentity;
use crate::error::ServiceError;
use crate::sequence::SequenceEvent;
use crate::service::GenerationService;
use crate::workers::{WorkerState, WorkerStatus};

/// Implements `tandem.v1.Generation`.
pub(crate) struct GrpcApi {
    pub(crate) service: Arc<GenerationService>,
}

impl GrpcApi {
    fn identify<T>(&self, request: &Request<T>) -> Result<ClientIdentity, Status> {
        let address = request.remote_addr().map(|address| address.ip());
        let identified = self.service.identify(request.metadata().as_ref(), address);
        identified.map_err(|error| error::status(&error.into()))
    }
}

/// The timeout that a client gave.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    parse_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)
}

/// `grpc-timeout`: at most eight digits and a unit (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

type ResponseStream = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for GrpcApi {
    type GenerateStream = ResponseStream;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let arrival = self.service.arrival(timeout(request.metadata()));
        let client = self.identify(&request)?;
        let (metadata, _, request) = request.into_parts();
        let request = GenerateRequest::try_from(request).map_err(|invalid| {
            let status = error::invalid_argument(&invalid);
            self.service.refused(&invalid.into());
            status
        })?;
        let log_probs = request.log_probs;
        let trace = request.trace;
        let events = self.service.generate(vec![request], arrival, &client, metadata.as_ref()).await;
        let events = events.map_err(|error| error::status(&error))?;
        Ok(Response::new(Box::pin(events.map(move |event| response(event, log_probs, trace)))))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.identify(&request)?;
        let status = self.service.status().await;
        Ok(Response::new(v1::GetStatusResponse {
            running: count(status.running),
            waiting: count(status.queued),
            workers: status.workers.into_iter().map(worker_status).collect(),
            target_model: status.target_model,
            draft_model: status.draft_model,
            vocab_size: status.vocab_size,
            context_length: count(status.context_length),
            chat: status.chat,
        }))
    }
}

fn response(
    event: Result<SequenceEvent, ServiceError>,
    log_probs: bool,
    trace: bool,
) -> Result<v1::GenerateResponse, Status> {
    let SequenceEvent { index, event } = event.map_err(|error| error::status(&error))?;
    let event = v1::generate_response::Event::new(event, log_probs, trace);
    Ok(v1::GenerateResponse { event: Some(event), index: count(index) })
}

fn worker_status(worker: WorkerStatus) -> v1::WorkerStatus {
    let role = match worker.role {
        tandem_generation::Role::Draft => v1::WorkerRole::Draft,
        tandem_generation::Role::Target => v1::WorkerRole::Target,
    };
    let state = match worker.state {
        WorkerState::Serving => v1::WorkerState::Serving,
        WorkerState::Draining => v1::WorkerState::Draining,
        WorkerState::Unreachable => v1::WorkerState::Unreachable,
        WorkerState::Unfit => v1::WorkerState::Unfit,
    };
    let load = worker
        .load
        .map(|load| v1::Load { sessions: load.sessions, kv_cache_tokens_used: load.kv_cache_tokens_used });
    v1::WorkerStatus {
        role: role.into(),
        address: worker.address.to_string(),
        state: state.into(),
        sessions: count(worker.sessions),
        load,
        kv_cache_tokens: worker.kv_cache_tokens,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let cases = [
            ("5S", Some(5000)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("99999999m", Some(99_999_999)),
            ("7000u", Some(7)),
            ("7000000n", Some(7)),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_timeout(text), milliseconds.map(Duration::from_millis), "{text}");
        }
        for invalid in ["", "S", "5", "-1S", "1.5S", "123456789S", "5é", "é"] {
            assert_eq!(parse_timeout(invalid), None, "{invalid}");
        }
    }
}
