//! The HTTP face of a service: whether it lives, whether it is ready, and what it adds to that.

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Connections, Face, Metrics, Peer, ServerTls, Shutdown};

/// Says why a service cannot take requests now.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What probes and scrapers ask for, who have no certificates.
const OPEN: [&str; 3] = ["/health", "/ready", "/metrics"];
/// To those who need a certificate.
const NO_CERTIFICATE: &str = r#"{"error":{"message":"this server wants a client certificate: present one that its client CA signed","type":"authentication_error","param":null,"code":"no_client_certificate"}}"#;

/// Routes over HTTP, and where.
pub struct Http {
    /// Where.
    pub listener: TcpListener,
    /// If it speaks TLS. Clients of whom it wants a certificate reach nothing but /health, /ready and /metrics without.
    pub tls: Option<ServerTls>,
    /// Beside `/health`, `/ready` and `/metrics`, which every service has.
    pub routes: Router,
    /// Beyond not draining.
    pub ready: Readiness,
}

impl Http {
    /// With nothing but what every service has; ready unless it drains.
    pub fn plain(listener: TcpListener, tls: Option<ServerTls>) -> Self {
        Self { listener, tls, routes: Router::new(), ready: Arc::new(|| Ok(())) }
    }

    /// Serves until `close`; what runs then may end. Handlers can ask for the `ConnectInfo` of a `SocketAddr` or a [`Peer`].
    pub(crate) async fn run(
        self,
        metrics: Metrics,
        shutdown: Shutdown,
        close: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), std::io::Error> {
        let ready = self.ready;
        let is_ready = move || {
            let ready = if shutdown.is_draining() { Err("it is draining".to_owned()) } else { ready() };
            std::future::ready(match ready {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            })
        };
        let certified_only = self.tls.as_ref().is_some_and(ServerTls::asks_clients);
        let routes = self
            .routes
            .route("/health", get(|| std::future::ready("alive\n")))
            .route("/ready", get(is_ready))
            .route("/metrics", get(move || std::future::ready(metrics.response())))
            .layer(from_fn(move |peer, request, next| admit(certified_only, peer, request, next)))
            .into_make_service_with_connect_info::<Peer>();
        let connections = Connections::new(self.listener, self.tls, Face::Http);
        axum::serve(connections, routes).with_graceful_shutdown(close).await
    }
}

/// Lets those in who may come in, and says where they come from.
async fn admit(
    certified_only: bool,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if certified_only && !peer.certified && !OPEN.contains(&request.uri().path()) {
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (StatusCode::UNAUTHORIZED, json, NO_CERTIFICATE).into_response();
    }
    request.extensions_mut().insert(ConnectInfo(peer.address));
    next.run(request).await
}
