//! The gRPC face.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tandem_proto::v1::generation_server::{Generation, GenerationServer};
use tandem_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES, v1};
use tandem_serving::{AdmissionControl, Http, ServeConfig, ServerTls, Serving};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::front::Front;
use crate::metrics::{GenerationMetrics, orchestrator_metrics};
use crate::{Caller, KeyError, OrchestratorArgs, Pair, http};

/// Implements `tandem.v1.Generation`.
struct GenerationService {
    front: Arc<Front>,
}

impl GenerationService {
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, KeyError> {
        self.front.caller(request.metadata().as_ref(), request.remote_addr().map(|address| address.ip()))
    }
}

/// The deadline that a client gave.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    timeout(metadata.get("grpc-timeout")?.to_str().ok()?)
}

/// `grpc-timeout`: at most eight digits and a unit (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
fn timeout(value: &str) -> Option<Duration> {
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

type Events = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Generation for GenerationService {
    type GenerateStream = Events;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Events>, Status> {
        let arrival = self.front.arrival(deadline(request.metadata()));
        let caller = self.caller(&request)?;
        let (metadata, _, request) = request.into_parts();
        let events = self.front.generate(vec![request], (arrival, &caller), metadata.as_ref()).await?;
        Ok(Response::new(Box::pin(events)))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.caller(&request)?;
        Ok(Response::new(self.front.status().await))
    }
}

/// Serves generations by `pair`, over HTTP too if there is a listener for it.
pub fn serving(
    pair: Pair,
    args: &OrchestratorArgs,
    http: Option<(TcpListener, Option<ServerTls>)>,
) -> Serving {
    tracing::info!(target = pair.target.model_id, draft = pair.draft().model_id, "serving");
    let serve = ServeConfig::from(args.serve.clone());
    let admission = AdmissionControl::new(args.admission());
    let model = args.served_model_name.clone().unwrap_or_else(|| pair.target.model_id.clone());
    let longest = args.limits.max_request_seconds;
    let generations = Arc::new(GenerationMetrics::new());
    let access = args.access.clone();
    let front =
        Arc::new(Front { pair, admission: admission.clone(), longest, model, access, metrics: generations });
    let metrics = orchestrator_metrics(front.clone(), serve.metrics_alias);
    let service = GenerationServer::new(GenerationService { front: front.clone() });
    let mut routes = RoutesBuilder::default();
    routes.add_service(service.max_decoding_message_size(MAX_MESSAGE_BYTES));
    Serving {
        name: "tandem.v1.Generation",
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        admission: vec![admission],
        metrics,
        http: http.map(|(listener, tls)| Http {
            listener,
            tls,
            ready: http::readiness(front.clone()),
            routes: http::routes(front),
        }),
        grace: serve.shutdown_grace,
    }
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
            assert_eq!(timeout(text), milliseconds.map(Duration::from_millis), "{text}");
        }
        for nonsense in ["", "S", "5", "-1S", "1.5S", "123456789S", "5é", "é"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }
}
