//! A worker as a process: from the configuration to the end of its service.

use tandem_engine::{LoadError, ModelThread};
use tandem_proto::FILE_DESCRIPTOR_SET;
use tandem_serving::{AdmissionControl, Http, ServeError, Serving, Shutdown, bind, bind_http, incoming};
use thiserror::Error;
use tonic::service::RoutesBuilder;

use crate::config::WorkerConfig;
use crate::metrics::{Calls, worker_metrics};

/// Why a worker ended with an error.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "transparent")]
pub enum RunError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// The services that a worker offers over gRPC.
pub struct WorkerService {
    /// `draft` or `target`.
    pub service: &'static str,
    /// Full name of the gRPC service whose health stands for the worker's.
    pub name: &'static str,
    /// The gRPC services.
    pub routes: RoutesBuilder,
    /// Admission of the sessions of each gRPC service.
    pub admission: Vec<AdmissionControl>,
    /// Metrics of their calls.
    pub calls: Calls,
}

/// Puts `service` on `model` into a server, with the metrics of both.
pub fn serving(service: WorkerService, model: &ModelThread, config: &WorkerConfig) -> Serving {
    let WorkerService { service, name, routes, admission, calls } = service;
    let alias = config.serve.metrics_alias.clone();
    let metrics = worker_metrics(service, alias, model, admission.clone(), &calls);
    let spec = model.spec();
    tracing::info!(
        service = name,
        model = spec.id,
        parameters = spec.parameters,
        dtype = spec.dtype.as_str(),
        device = %spec.device,
        incarnation = config.incarnation,
        "serving"
    );
    Serving {
        name,
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        admission,
        metrics,
        http: None,
        grace: config.serve.shutdown_grace,
    }
}

/// Runs a worker until a signal ends it. `serving` makes its server from the loaded model.
pub async fn run_process(
    config: WorkerConfig,
    serving: impl FnOnce(ModelThread, &WorkerConfig) -> Serving,
) -> Result<(), RunError> {
    let tls = config.serve.load_tls().map_err(ServeError::from)?;
    // Before the model: a port that is in use should be reported at once, not after minutes of loading.
    let listener = bind(config.serve.listen).await?;
    let http = bind_http(&config.serve).await?.map(|listener| Http::plain(listener, tls.clone()));
    let shutdown = Shutdown::on_signal().map_err(ServeError::from)?;
    let model = tokio::select! {
        model = config.engine.start(None) => model?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr().map_err(ServeError::from)?, "listening");
    let serving = Serving { http, ..serving(model, &config) };
    Ok(serving.run(incoming(listener, tls), shutdown).await?)
}
