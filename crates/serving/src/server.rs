//! A gRPC server with health, reflection, limits and a bounded shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

/// Why a service could not serve.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}; choose another with --listen, or port 0 for a free one")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the file descriptors for reflection are broken")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the transport failed")]
    Transport(#[from] tonic::transport::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What a server serves, and within which limits.
pub struct Serving {
    /// Full name of the gRPC service, for its health.
    pub name: &'static str,
    /// The service.
    pub routes: RoutesBuilder,
    /// Encoded `FileDescriptorSet`, for reflection.
    pub descriptors: &'static [u8],
    /// How long a shutdown waits for running requests.
    pub grace: Duration,
}

/// Requests at once on one connection; more wait in the client.
const STREAMS_PER_CONNECTION: u32 = 512;

/// Between two signs of life on a connection.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Opens a listener, so that its port is known before anything serves.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Cancelled at the first SIGTERM or SIGINT.
pub fn until_signal() -> Result<CancellationToken, std::io::Error> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("shutting down");
        cancel.cancel();
    });
    Ok(token)
}

impl Serving {
    /// Serves until `shutdown`, then waits for running requests, but not longer than the grace.
    pub async fn run(mut self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(self.name, ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(self.descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        self.routes.add_service(health_service).add_service(reflection);
        // Small messages go out at once, not when a packet is full.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            // A client that vanished without a word is noticed, and what it holds is freed.
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
        let grace_over = async {
            shutdown.cancelled().await;
            health.set_service_status("", ServingStatus::NotServing).await;
            health.set_service_status(self.name, ServingStatus::NotServing).await;
            // A bound, not a wait: the other branch ends first when the requests do.
            tokio::time::timeout(self.grace, std::future::pending::<()>()).await
        };
        tokio::select! {
            result = serving => Ok(result?),
            _ = grace_over => {
                tracing::warn!("requests still ran at the end of the grace period");
                Ok(())
            }
        }
    }
}
