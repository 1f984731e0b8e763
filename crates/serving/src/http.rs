//! The HTTP face of a service: whether it lives, whether it is ready, and what it adds to that.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Metrics, Shutdown};

/// Says why a service cannot take requests now.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Routes over HTTP, and where.
pub struct Http {
    /// Where.
    pub listener: TcpListener,
    /// Beside `/health`, `/ready` and `/metrics`, which every service has.
    pub routes: Router,
    /// Beyond not draining.
    pub ready: Readiness,
}

impl Http {
    /// With nothing but what every service has; ready unless it drains.
    pub fn plain(listener: TcpListener) -> Self {
        Self { listener, routes: Router::new(), ready: Arc::new(|| Ok(())) }
    }

    /// Serves until `close`; what runs then may end.
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
        let routes = self
            .routes
            .route("/health", get(|| std::future::ready("alive\n")))
            .route("/ready", get(is_ready))
            .route("/metrics", get(move || std::future::ready(metrics.response())));
        // Handlers may ask who the client is.
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(self.listener, routes).with_graceful_shutdown(close).await
    }
}
