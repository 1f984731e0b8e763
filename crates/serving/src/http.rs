//! The HTTP protocol of a service: whether it lives, whether it is ready, and what it adds to that.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tower::Layer;

use crate::connections::KEEPALIVE;
use crate::{Connections, Metrics, Peer, Protocol, ServerTls, Shutdown};

/// Says why a service cannot take requests now.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What probes and scrapers ask for, who have no certificates.
const OPEN: [&str; 3] = ["/health", "/ready", "/metrics"];
/// To those who need a certificate.
const NO_CERTIFICATE: &str = r#"{"error":{"message":"this server wants a client certificate: present one that its client CA signed","type":"authentication_error","param":null,"code":"no_client_certificate"}}"#;

/// How long a client may take from its connection to the end of its first request's headers.
const FIRST_HEADERS: Duration = Duration::from_secs(15);
/// How long an HTTP/1 connection may be idle between two requests, the headers of the second included. Longer than what proxies
/// keep one for (nginx and Amazon's load balancers 60 s), which would else send a request just when it is closed.
const IDLE: Duration = Duration::from_secs(75);

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
    pub(crate) async fn run(self, metrics: Metrics, shutdown: Shutdown, close: impl Future<Output = ()>) {
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
            .layer(from_fn(move |caller, request, next| admit(certified_only, caller, request, next)));
        let connections = Connections::new(self.listener, self.tls, Protocol::Http);
        serve(connections, routes, close).await;
    }
}

/// Who sent a request.
#[derive(Clone)]
struct Caller {
    peer: Peer,
    /// Cancelled by the first request of its connection.
    spoke: CancellationToken,
}

/// Every connection in a task of its own, until `close`; then until those end of which none waits for a request.
async fn serve(mut connections: Connections, routes: Router, close: impl Future<Output = ()>) {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    let graceful = GracefulShutdown::new();
    let accepting = async {
        while let Some(Ok(connection)) = connections.next().await {
            let caller = Caller { peer: connection.peer(), spoke: CancellationToken::new() };
            let spoke = caller.spoke.clone();
            let service = TowerToHyperService::new(Extension(caller).layer(routes.clone()));
            let served = http.serve_connection(TokioIo::new(connection), service).into_owned();
            let served = graceful.watch(served);
            tokio::spawn(async move {
                // hyper's own timer starts only once it knows the version of HTTP.
                let silent = async {
                    if tokio::time::timeout(FIRST_HEADERS, spoke.cancelled()).await.is_ok() {
                        pending::<Infallible>().await;
                    }
                };
                tokio::select! {
                    // A connection that breaks is its client's matter.
                    _ = served => {}
                    () = silent => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = close => {}
    }
    // Nobody new from here on.
    drop(connections);
    graceful.shutdown().await;
}

/// Lets those in who may come in, and says where they come from.
async fn admit(
    certified_only: bool,
    Extension(Caller { peer, spoke }): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    spoke.cancel();
    if certified_only && !peer.certified && !OPEN.contains(&request.uri().path()) {
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (StatusCode::UNAUTHORIZED, json, NO_CERTIFICATE).into_response();
    }
    request.extensions_mut().insert(ConnectInfo(peer.address));
    request.extensions_mut().insert(ConnectInfo(peer));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    const WHOLE: &[u8] = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n";

    async fn service() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (http, close) = (Http::plain(listener, None), CancellationToken::new());
        tokio::spawn(http.run(Metrics::default(), Shutdown::new(), close.clone().cancelled_owned()));
        (address, close)
    }

    async fn client(address: SocketAddr, says: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(says).await.unwrap();
        client
    }

    async fn is_served(client: &mut TcpStream) {
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    }

    /// How long it lasts until the server hangs up, without an answer that says otherwise than 408.
    async fn hung_up(client: &mut TcpStream) -> Duration {
        let (since, mut rest) = (Instant::now(), Vec::new());
        let _ = client.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_half_a_request_is_hung_up_on() {
        let (address, _close) = service().await;
        // Nothing, what may become HTTP/2, and half a header.
        for half in [&b""[..], b"PRI * HT", b"GET /health HTTP/1.1\r\nHo"] {
            let mut mute = client(address, half).await;
            is_served(&mut client(address, WHOLE).await).await;
            let lasted = hung_up(&mut mute).await;
            assert!(
                lasted >= FIRST_HEADERS - Duration::from_secs(1) && lasted <= FIRST_HEADERS * 2,
                "{lasted:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_be_idle_for_a_while() {
        let (address, close) = service().await;
        for half in [&b""[..], b"GET /"] {
            let mut idle = client(address, WHOLE).await;
            is_served(&mut idle).await;
            tokio::time::advance(FIRST_HEADERS * 3).await;
            idle.write_all(WHOLE).await.unwrap();
            is_served(&mut idle).await;
            idle.write_all(half).await.unwrap();
            is_served(&mut client(address, WHOLE).await).await;
            let lasted = hung_up(&mut idle).await;
            assert!(lasted >= IDLE - Duration::from_secs(1) && lasted <= IDLE * 2, "{lasted:?}");
        }
        // A shutdown does not wait for those who are idle.
        let mut idle = client(address, WHOLE).await;
        is_served(&mut idle).await;
        close.cancel();
        assert!(hung_up(&mut idle).await < IDLE / 2);
    }
}
