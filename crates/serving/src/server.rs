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

use crate::admission::AdmissionControl;
use crate::config::ServeConfig;
use crate::connections::{Connections, KEEPALIVE};
use crate::http::Http;
use crate::metrics::Metrics;
use crate::reload::FileError;
use crate::shutdown::Shutdown;
use crate::tls::{Protocol, ServerTls};

/// Why a service cannot serve.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}; choose another with --listen, or port 0 for a free one")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the file descriptors for reflection are not valid")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the transport failed")]
    Transport(#[from] tonic::transport::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] FileError),
}

/// A service that is ready to be run.
pub struct Serving {
    /// Full name of the gRPC service, for its health.
    pub name: &'static str,
    /// The gRPC services, without health and reflection.
    pub routes: RoutesBuilder,
    /// Encoded `FileDescriptorSet`, for reflection.
    pub descriptors: &'static [u8],
    /// Closed when draining begins; once all are idle, the server ends.
    pub admission: Vec<AdmissionControl>,
    /// The metrics that the HTTP port shows.
    pub metrics: Metrics,
    /// The HTTP port, if there is one.
    pub http: Option<Http>,
    /// How long draining may take.
    pub grace: Duration,
}

/// Concurrent requests on one connection; more wait in the client.
const STREAMS_PER_CONNECTION: u32 = 512;
/// How long the last replies may take to be sent, once all sessions have ended.
const LAST_REPLIES_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between the end of the health watches and the end of the connections, so that watchers get the last status.
const LAST_STATUS_DELAY: Duration = Duration::from_millis(20);

/// Opens a listener, so that its port is known before the service runs.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Opens the listener for HTTP, if the configuration has one.
pub async fn bind_http(config: &ServeConfig) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = config.http_listen else { return Ok(None) };
    let listener = bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "listening for HTTP");
    Ok(Some(listener))
}

/// The gRPC connections of a listener, over TLS if `tls` is given.
pub fn incoming(listener: TcpListener, tls: Option<ServerTls>) -> Connections {
    Connections::new(listener, tls, Protocol::Grpc)
}

impl Serving {
    /// Serves until `shutdown`. While it drains it refuses new sessions; it ends once the last session has ended, and at the latest
    /// after the grace period.
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
        self.routes.add_service(health_service);
        self.add_reflection()?;
        let close = CancellationToken::new();
        let grpc = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            // A client that disappeared is noticed, and what it holds is freed.
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(std::mem::take(&mut self.routes).routes())
            .serve_with_incoming_shutdown(connections, close.clone().cancelled_owned());
        let http = self.http.take();
        let http = async {
            if let Some(http) = http {
                http.run(self.metrics.clone(), shutdown.clone(), close.cancelled()).await;
            }
            Ok(())
        };
        let serving = async { tokio::try_join!(grpc, http).map(|_| ()) };
        let draining = async {
            shutdown.draining().await;
            tokio::select! {
                () = self.drain(&mut health) => {}
                () = shutdown.ending() => return,
            }
            // Watchers of the health get the last status before their connections close.
            let _ = tokio::time::timeout(LAST_STATUS_DELAY, shutdown.ending()).await;
            close.cancel();
            // A limit, not a delay: `serving` ends first once the replies are sent.
            let _ = tokio::time::timeout(LAST_REPLIES_TIMEOUT, shutdown.ending()).await;
        };
        tokio::select! {
            result = serving => Ok(result?),
            () = draining => Ok(()),
        }
    }

    /// Adds the reflection service in both versions: some clients, such as the one of grpcio, know only the older one.
    fn add_reflection(&mut self) -> Result<(), tonic_reflection::server::Error> {
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = descriptors().build_v1()?;
        let v1alpha = descriptors().build_v1alpha()?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(())
    }

    /// Reports that the service is not serving, refuses new sessions, and waits for those that there are.
    async fn drain(&self, health: &mut HealthReporter) {
        for name in ["", self.name] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        self.admission.iter().for_each(AdmissionControl::close);
        let idle = async {
            for admission in &self.admission {
                admission.idle().await;
            }
        };
        if tokio::time::timeout(self.grace, idle).await.is_err() {
            let left: usize = self.admission.iter().map(AdmissionControl::in_use).sum();
            tracing::warn!(left, "the grace period ended before the last sessions did");
        }
        // Ends the streams of health watchers, which a graceful shutdown would wait for.
        for name in ["", self.name] {
            health.clear_service_status(name).await;
        }
    }
}
