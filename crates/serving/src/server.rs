//! A gRPC server with health, reflection, limits and a bounded shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::connections::KEEPALIVE;
use crate::{
    AdmissionControl, Connections, FileError, Http, Metrics, Protocol, ServeArgs, ServerTls, Shutdown,
};

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
    #[error(transparent)]
    Tls(#[from] FileError),
}

/// What a server serves, and within which limits.
pub struct Serving {
    /// Full name of the gRPC service, for its health.
    pub name: &'static str,
    /// The service.
    pub routes: RoutesBuilder,
    /// Encoded `FileDescriptorSet`, for reflection.
    pub descriptors: &'static [u8],
    /// Closed when it drains; once they are empty, it ends.
    pub admission: Vec<AdmissionControl>,
    /// What it counts, for its HTTP protocol.
    pub metrics: Metrics,
    /// Its HTTP protocol, if it has one.
    pub http: Option<Http>,
    /// How long it may drain.
    pub grace: Duration,
}

/// Requests at once on one connection; more wait in the client.
const STREAMS_PER_CONNECTION: u32 = 512;
/// How long the last replies may take to get out, once nobody is here any more.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// Between the end of the health watches and that of the connections.
const LAST_NEWS: Duration = Duration::from_millis(20);

/// Opens a listener, so that its port is known before anything serves.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Opens the listener for HTTP, if there is to be one.
pub async fn bind_http(args: &ServeArgs) -> Result<Option<TcpListener>, ServeError> {
    match args.http_listen {
        Some(address) => {
            let listener = bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "listening for HTTP");
            Ok(Some(listener))
        }
        None => Ok(None),
    }
}

/// The gRPC connections of a listener, over TLS if there are certificates.
pub fn incoming(listener: TcpListener, tls: Option<ServerTls>) -> Connections {
    Connections::new(listener, tls, Protocol::Grpc)
}

impl Serving {
    /// Serves until `shutdown`. Draining, it takes no new sessions and ends once the last one is gone, at the latest after the grace.
    pub async fn run<C>(
        mut self,
        connections: impl Stream<Item = Result<C, std::io::Error>>,
        shutdown: Shutdown,
    ) -> Result<(), ServeError>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (mut health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(self.name, ServingStatus::Serving).await;
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // grpcio's client, among others, knows the older version alone.
        let (reflection, older) = (descriptors().build_v1()?, descriptors().build_v1alpha()?);
        self.routes.add_service(health_service).add_service(reflection).add_service(older);
        let close = CancellationToken::new();
        let routes = std::mem::take(&mut self.routes).routes();
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            // A client that vanished without a word is noticed, and what it holds is freed.
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, close.clone().cancelled_owned());
        let (http, metrics) = (self.http.take(), self.metrics.clone());
        let serving = async {
            let http = async {
                if let Some(http) = http {
                    http.run(metrics, shutdown.clone(), close.cancelled()).await;
                }
                Ok(())
            };
            tokio::try_join!(async { Ok::<(), ServeError>(serving.await?) }, http).map(|_| ())
        };
        let draining = async {
            shutdown.draining().await;
            tokio::select! {
                () = self.drain(&mut health) => {}
                () = shutdown.ending() => return,
            }
            // The last news of its health goes first.
            let _ = tokio::time::timeout(LAST_NEWS, shutdown.ending()).await;
            close.cancel();
            // A bound, not a wait: the other branch ends first when the replies are out.
            let _ = tokio::time::timeout(LAST_REPLIES, shutdown.ending()).await;
        };
        tokio::select! {
            result = serving => result,
            () = draining => Ok(()),
        }
    }

    /// Says so, takes nobody new, and waits for those who are here.
    async fn drain(&self, health: &mut HealthReporter) {
        for name in ["", self.name] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        self.admission.iter().for_each(AdmissionControl::close);
        let all_gone = async {
            for admission in &self.admission {
                admission.idle().await;
            }
        };
        if tokio::time::timeout(self.grace, all_gone).await.is_err() {
            let left: usize = self.admission.iter().map(AdmissionControl::in_use).sum();
            tracing::warn!(left, "the grace period ended before the last sessions did");
        }
        // Ends the streams of those who watch, which a graceful shutdown would wait for.
        for name in ["", self.name] {
            health.clear_service_status(name).await;
        }
    }
}
