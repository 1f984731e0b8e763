//! The life of a worker process.

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
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub log: LogArgs,
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
    serve: &ServeArgs,
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
    let grace = serve.shutdown_grace();
    let serving = Serving { name, routes, descriptors: FILE_DESCRIPTOR_SET, grace };
    Ok(serving.run(listener, shutdown).await?)
}
