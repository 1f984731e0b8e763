//! Puts the orchestrator together: the service, its two APIs, its metrics.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tandem_generation::Role;
use tandem_proto::v1::generation_server::GenerationServer;
use tandem_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use tandem_serving::{
    AdmissionControl, FileError, Http, Metrics, MetricsBuilder, MetricsPrefix, ServerTls, Serving,
};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;

use crate::admission::Access;
use crate::api::grpc::GrpcApi;
use crate::api::openai;
use crate::config::OrchestratorConfig;
use crate::metrics::GenerationMetrics;
use crate::pair::Pair;
use crate::service::GenerationService;
use crate::workers::WorkerState;

/// Serves generations by `pair`; over HTTP too if there is a listener for it. Reads the file of API keys, if there is one.
pub fn serving(
    pair: Pair,
    config: &OrchestratorConfig,
    http: Option<(TcpListener, Option<ServerTls>)>,
) -> Result<Serving, FileError> {
    tracing::info!(target = pair.target.model_id, draft = pair.draft().model_id, "serving");
    let admission = AdmissionControl::new(config.admission_limits());
    let model = config.served_model_name.clone().unwrap_or_else(|| pair.target.model_id.clone());
    let service = Arc::new(GenerationService {
        pair: Arc::new(pair),
        admission: admission.clone(),
        request_timeout: config.request_timeout,
        model,
        access: Access::load(&config.access)?,
        metrics: Arc::new(GenerationMetrics::new()),
    });
    let metrics = metrics(service.clone(), config.serve.metrics_alias.clone());
    let grpc = GenerationServer::new(GrpcApi { service: service.clone() });
    let mut routes = RoutesBuilder::default();
    routes.add_service(grpc.max_decoding_message_size(MAX_MESSAGE_BYTES));
    let http = http.map(|(listener, tls)| {
        let service = service.clone();
        let ready = service.clone();
        Http { listener, tls, ready: Arc::new(move || ready.ready()), routes: openai::routes(service) }
    });
    Ok(Serving {
        name: "tandem.v1.Generation",
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        admission: vec![admission],
        metrics,
        http,
        grace: config.serve.shutdown_grace,
    })
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByState {
    role: &'static str,
    state: &'static str,
}

/// All metrics of an orchestrator.
fn metrics(service: Arc<GenerationService>, alias: Option<MetricsPrefix>) -> Metrics {
    let mut builder = MetricsBuilder::new("orchestrator", service.model.clone(), alias);
    let running: Gauge = Gauge::default();
    let queued: Gauge = Gauge::default();
    builder.common("num_requests_running", "Generations that run", running.clone());
    builder.common("num_requests_waiting", "Generations in the admission queue", queued.clone());
    let workers = Family::<ByState, Gauge>::default();
    builder.own("workers", "Known workers, by role and state", workers.clone());
    service.metrics.register(&mut builder);
    builder.before_reading(move || {
        running.set(service.admission.in_use() as i64);
        queued.set(service.admission.queued() as i64);
        let states = service.pair.worker_states();
        for role in [Role::Draft, Role::Target] {
            for state in WorkerState::ALL {
                let count = states.iter().filter(|&&worker| worker == (role, state)).count();
                let labels = ByState { role: role.name(), state: state.name() };
                workers.get_or_create(&labels).set(count as i64);
            }
        }
    });
    builder.build()
}
