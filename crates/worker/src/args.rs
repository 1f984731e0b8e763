//! The life of a worker process.

use std::time::Duration;

use clap::Parser;
use tandem_engine::{LoadError, ModelArgs, ModelThread};
use tandem_proto::FILE_DESCRIPTOR_SET;
use tandem_serving::{LogArgs, ServeArgs, ServeError, Serving};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

/// Flags of a worker.
#[derive(Clone, Debug, Parser)]
pub struct WorkerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub serve: ServeArgs,

    /// Seconds without a step after which a session vanishes
    #[arg(long, env = "SESSION_LEASE_SECONDS", default_value_t = 120, value_name = "SECONDS")]
    pub session_lease_seconds: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

impl WorkerArgs {
    /// The lease as a duration.
    pub fn session_lease(&self) -> Duration {
        Duration::from_secs(self.session_lease_seconds.max(1))
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

/// Serves `routes` as the gRPC service `name` on `listener` until `shutdown`.
pub async fn run_worker(
    name: &'static str,
    routes: RoutesBuilder,
    model: &ModelThread,
    grace: Duration,
    (listener, shutdown): (TcpListener, CancellationToken),
) -> Result<(), RunError> {
    let spec = model.spec();
    tracing::info!(
        service = name,
        address = %listener.local_addr().map_err(ServeError::from)?,
        model = spec.id,
        parameters = spec.parameters,
        dtype = spec.dtype.as_str(),
        device = %spec.device,
        "serving"
    );
    let serving = Serving { name, routes, descriptors: FILE_DESCRIPTOR_SET, grace };
    Ok(serving.run(listener, shutdown).await?)
}
