//! The life of a worker process.

mod model;

use std::time::Duration;

use clap::Parser;
use tandem_engine::{EngineConfig, LoadError, ModelThread};
use tandem_proto::FILE_DESCRIPTOR_SET;
use tandem_serving::{
    AdmissionControl, Http, LogArgs, ServeArgs, ServeError, Serving, Shutdown, bind, bind_http, incoming,
};
use thiserror::Error;
use tonic::service::RoutesBuilder;

pub use self::model::ModelArgs;
use crate::session_table::TableLimits;
use crate::{Calls, worker_metrics};

/// Flags of a worker.
#[derive(Clone, Debug, Parser)]
pub struct WorkerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub serve: ServeArgs,

    /// Sessions that one orchestrator, by its IP address, may hold at once [default: any number]
    #[arg(long, env = "MAX_SESSIONS_PER_ORCHESTRATOR", value_name = "N")]
    pub max_sessions_per_orchestrator: Option<usize>,

    /// Seconds without a step after which a session vanishes; longer than an orchestrator lets a slow client or worker pause
    #[arg(long, env = "SESSION_LEASE_SECONDS", default_value_t = 90, value_name = "SECONDS")]
    pub session_lease_seconds: u64,

    /// This life of the worker, which handles name; drawn anew for every start.
    #[arg(skip = rand::random::<u64>())]
    pub incarnation: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

impl WorkerArgs {
    /// Limits of its sessions.
    pub fn table_limits(&self) -> TableLimits {
        TableLimits {
            lease: Duration::from_secs(self.session_lease_seconds.max(1)),
            sessions: self.serve.max_sessions,
            per_client: self.max_sessions_per_orchestrator.unwrap_or(usize::MAX),
        }
    }
}

/// Why a worker ended.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "transparent")]
pub enum RunError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What a worker shows of itself.
pub struct WorkerService {
    /// `draft` or `target`.
    pub service: &'static str,
    /// Full name of the gRPC service.
    pub name: &'static str,
    /// It, and maybe others.
    pub routes: RoutesBuilder,
    /// Of its sessions.
    pub admission: Vec<AdmissionControl>,
    /// Of its sessions.
    pub calls: Calls,
}

/// Serves a `face` of `model`.
pub fn serving(face: WorkerService, model: &ModelThread, args: &WorkerArgs) -> Serving {
    let WorkerService { service, name, routes, admission, calls } = face;
    let metrics = worker_metrics(service, args.serve.metrics_alias.clone(), model, admission.clone(), &calls);
    let spec = model.spec();
    tracing::info!(
        service = name,
        model = spec.id,
        parameters = spec.parameters,
        dtype = spec.dtype.as_str(),
        device = %spec.device,
        incarnation = args.incarnation,
        "serving"
    );
    Serving {
        name,
        routes,
        descriptors: FILE_DESCRIPTOR_SET,
        admission,
        metrics,
        http: None,
        grace: args.serve.shutdown_grace(),
    }
}

/// The life of a worker process: the port first, so that one in use is known before a model is loaded; then the model, then
/// what `serving` makes of it.
pub async fn run_process(
    args: WorkerArgs,
    serving: impl FnOnce(ModelThread, &WorkerArgs) -> Serving,
) -> Result<(), RunError> {
    let tls = args.serve.tls.load().map_err(ServeError::from)?;
    let listener = bind(args.serve.listen).await?;
    let http = bind_http(&args.serve).await?.map(|listener| Http::plain(listener, tls.clone()));
    let shutdown = Shutdown::on_signal().map_err(ServeError::from)?;
    let engine = EngineConfig::from(args.model.clone());
    let model = tokio::select! {
        model = engine.start(None) => model?,
        () = shutdown.draining() => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr().map_err(ServeError::from)?, "listening");
    let serving = Serving { http, ..serving(model, &args) };
    Ok(serving.run(incoming(listener, tls), shutdown).await?)
}
