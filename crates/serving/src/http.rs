//! The HTTP port of a service: liveness, readiness, metrics, and the routes that the service adds.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, StatusCode, header};
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

use crate::connections::{Connections, KEEPALIVE, Peer};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::tls::{Protocol, ServerTls};

/// Whether a service can take requests now, and if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Paths for probes and scrapers, which have no client certificates.
const OPEN_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];
/// The response to a request for another path without a client certificate that is required.
const NO_CERTIFICATE: &str = r#"{"error":{"message":"this server requires a client certificate: present one that its client CA signed","type":"authentication_error","param":null,"code":"no_client_certificate"}}"#;

/// How long a client may take from its connection to the end of the headers of its first request.
const FIRST_HEADERS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an HTTP/1 connection may be idle between two requests, including the headers of the second. Longer than proxies keep
/// an idle connection (nginx and the load balancers of AWS: 60 s), which could otherwise send a request just when it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A server for HTTP.
pub struct Http {
    /// The port.
    pub listener: TcpListener,
    /// Certificates; `None`: plain text. If client certificates are required, clients without one reach only `/health`, `/ready` and
    /// `/metrics`.
    pub tls: Option<ServerTls>,
    /// Routes in addition to `/health`, `/ready` and `/metrics`, which every service has.
    pub routes: Router,
    /// What `/ready` reports while the service does not drain.
    pub ready: Readiness,
}

impl Http {
    /// A server with only the routes that every service has; ready unless it drains.
    pub fn plain(listener: TcpListener, tls: Option<ServerTls>) -> Self {
        Self { listener, tls, routes: Router::new(), ready: Arc::new(|| Ok(())) }
    }

    /// Serves until `close`; requests that are running then may finish. Handlers can extract the `ConnectInfo` of a `SocketAddr` or a
    /// [`Peer`].
    pub(crate) async fn run(self, metrics: Metrics, shutdown: Shutdown, close: impl Future<Output = ()>) {
        let ready = self.ready;
        let is_ready = move || {
            let ready =
                if shutdown.is_draining() { Err("the service is draining".to_owned()) } else { ready() };
            std::future::ready(match ready {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            })
        };
        let certificate_required = self.tls.as_ref().is_some_and(ServerTls::requires_client_certificate);
        let metrics = move |headers: HeaderMap| std::future::ready(metrics.response(&headers));
        let routes = self
            .routes
            .route("/health", get(|| std::future::ready("alive\n")))
            .route("/ready", get(is_ready))
            .route("/metrics", get(metrics))
            .layer(from_fn(move |origin, request, next| {
                check_certificate(certificate_required, origin, request, next)
            }));
        let connections = Connections::new(self.listener, self.tls, Protocol::Http);
        serve(connections, routes, close).await;
    }
}

/// The connection that a request came over.
#[derive(Clone)]
struct RequestOrigin {
    peer: Peer,
    /// Cancelled by the first request on the connection.
    first_request: CancellationToken,
}

/// Serves every connection in a task of its own until `close`. Then closes idle connections and waits for running requests.
async fn serve(mut connections: Connections, routes: Router, close: impl Future<Output = ()>) {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    let graceful = GracefulShutdown::new();
    let accepting = async {
        while let Some(Ok(connection)) = connections.next().await {
            let first_request = CancellationToken::new();
            let origin = RequestOrigin { peer: connection.peer(), first_request: first_request.clone() };
            let service = TowerToHyperService::new(Extension(origin).layer(routes.clone()));
            let served = http.serve_connection(TokioIo::new(connection), service).into_owned();
            let served = graceful.watch(served);
            tokio::spawn(async move {
                tokio::select! {
                    // An error means that the client closed or broke the connection: nothing to report.
                    _ = served => {}
                    () = silence(first_request) => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = close => {}
    }
    // No new connections from here on.
    drop(connections);
    graceful.shutdown().await;
}

/// Returns if no request comes in time. The timer of hyper starts only once it knows the version of HTTP, so a client that sends
/// nothing would stay connected forever.
async fn silence(first_request: CancellationToken) {
    if tokio::time::timeout(FIRST_HEADERS_TIMEOUT, first_request.cancelled()).await.is_ok() {
        pending::<Infallible>().await;
    }
}

/// Refuses requests without a required client certificate, and passes the addresses of the others to handlers.
async fn check_certificate(
    certificate_required: bool,
    Extension(RequestOrigin { peer, first_request }): Extension<RequestOrigin>,
    mut request: Request,
    next: Next,
) -> Response {
    first_request.cancel();
    if certificate_required && !peer.certified && !OPEN_PATHS.contains(&request.uri().path()) {
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

    const WHOLE_REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n";

    async fn service() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let http = Http::plain(listener, None);
        let close = CancellationToken::new();
        tokio::spawn(http.run(Metrics::default(), Shutdown::new(), close.clone().cancelled_owned()));
        (address, close)
    }

    async fn client(address: SocketAddr, sends: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sends).await.unwrap();
        client
    }

    async fn is_served(client: &mut TcpStream) {
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_the_request_accepts() {
        let (address, _close) = service().await;
        for (accept, content_type) in [
            ("", "text/plain; version=0.0.4; charset=utf-8"),
            ("Accept: text/plain; version=0.0.4\r\n", "text/plain; version=0.0.4; charset=utf-8"),
            (
                "Accept: application/openmetrics-text; version=1.0.0\r\nAccept: text/plain; q=0.5\r\n",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
        ] {
            let request = format!("GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{accept}\r\n");
            let mut response = String::new();
            client(address, request.as_bytes()).await.read_to_string(&mut response).await.unwrap();
            let expected = format!("content-type: {content_type}\r\n");
            assert!(response.starts_with("HTTP/1.1 200") && response.contains(&expected), "{response}");
        }
    }

    /// How long it takes until the server closes the connection, without a response or with 408.
    async fn closed_after(client: &mut TcpStream) -> Duration {
        let since = Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_request_is_disconnected() {
        let (address, _close) = service().await;
        // Nothing, the beginning of HTTP/2, and half a header.
        for half in [&b""[..], b"PRI * HT", b"GET /health HTTP/1.1\r\nHo"] {
            let mut mute = client(address, half).await;
            is_served(&mut client(address, WHOLE_REQUEST).await).await;
            let lasted = closed_after(&mut mute).await;
            assert!(
                lasted >= FIRST_HEADERS_TIMEOUT - Duration::from_secs(1)
                    && lasted <= FIRST_HEADERS_TIMEOUT * 2,
                "{lasted:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_be_idle_for_a_while() {
        let (address, close) = service().await;
        for half in [&b""[..], b"GET /"] {
            let mut idle = client(address, WHOLE_REQUEST).await;
            is_served(&mut idle).await;
            tokio::time::advance(FIRST_HEADERS_TIMEOUT * 3).await;
            idle.write_all(WHOLE_REQUEST).await.unwrap();
            is_served(&mut idle).await;
            idle.write_all(half).await.unwrap();
            is_served(&mut client(address, WHOLE_REQUEST).await).await;
            let lasted = closed_after(&mut idle).await;
            assert!(
                lasted >= IDLE_TIMEOUT - Duration::from_secs(1) && lasted <= IDLE_TIMEOUT * 2,
                "{lasted:?}"
            );
        }
        // A shutdown does not wait for idle connections.
        let mut idle = client(address, WHOLE_REQUEST).await;
        is_served(&mut idle).await;
        close.cancel();
        assert!(closed_after(&mut idle).await < IDLE_TIMEOUT / 2);
    }
}
