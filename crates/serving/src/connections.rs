//! The connections that a port accepts, plain or over TLS.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::either::Either;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::tls::{Protocol, ServerTls};

/// Handshakes in progress at once. One more ends the oldest, so that clients that connect and stay silent cannot keep others out.
const MAX_HANDSHAKES: usize = 1024;
/// Time between two keepalive probes of a connection.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(20);
/// Pause before the next connection is accepted, after the system had no resources for one.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The remote end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address of the remote end.
    pub address: SocketAddr,
    /// Whether the client presented a certificate that the client CA signed.
    pub certified: bool,
}

/// An accepted connection; over TLS its handshake is complete.
pub struct Connection {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    peer: Peer,
}

/// The endless stream of connections of a listener. Handshakes run concurrently.
pub struct Connections {
    listener: TcpListener,
    tls: Option<(ServerTls, Protocol)>,
    handshakes: JoinSet<Option<Connection>>,
    /// Aborts the handshakes, the oldest first; some have ended already.
    oldest: VecDeque<AbortHandle>,
    max_handshakes: usize,
    backoff: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// The connections of `listener`, over TLS if `tls` is given.
    pub fn new(listener: TcpListener, tls: Option<ServerTls>, protocol: Protocol) -> Self {
        Self {
            listener,
            tls: tls.map(|tls| (tls, protocol)),
            handshakes: JoinSet::new(),
            oldest: VecDeque::new(),
            max_handshakes: MAX_HANDSHAKES,
            backoff: None,
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(cx) {
                if let Ok(Some(connection)) = ended {
                    return Poll::Ready(connection);
                }
            }
            if let Some(backoff) = &mut self.backoff {
                ready!(backoff.as_mut().poll(cx));
                self.backoff = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((tcp, address)) => {
                    set_options(&tcp);
                    let Some((tls, protocol)) = &self.tls else {
                        let peer = Peer { address, certified: false };
                        return Poll::Ready(Connection { stream: Either::Left(tcp), peer });
                    };
                    let handshake = handshake(tls.clone(), *protocol, tcp, address);
                    self.start_handshake(handshake);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    self.backoff = Some(Box::pin(accept_backoff()));
                }
            }
        }
    }

    fn start_handshake(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        if self.oldest.len() >= self.max_handshakes {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        if self.oldest.len() >= self.max_handshakes
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        self.oldest.push_back(self.handshakes.spawn(handshake));
    }
}

/// The process or the system is out of file descriptors or memory.
#[allow(
    clippy::disallowed_methods,
    reason = "no event announces that resources are free again, and accepting at once would spin"
)]
fn accept_backoff() -> Sleep {
    tokio::time::sleep(ACCEPT_BACKOFF)
}

/// Options that a socket can do without, so errors are ignored.
fn set_options(tcp: &TcpStream) {
    // Small messages are sent at once, not when a packet is full.
    let _ = tcp.set_nodelay(true);
    // The system notices when a client has disappeared, in any protocol and during the TLS handshake too.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

async fn handshake(
    tls: ServerTls,
    protocol: Protocol,
    tcp: TcpStream,
    address: SocketAddr,
) -> Option<Connection> {
    let stream = tls.accept(tcp, protocol).await?;
    let certified = stream.get_ref().1.peer_certificates().is_some();
    Some(Connection { stream: Either::Right(stream), peer: Peer { address, certified } })
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx).map(|connection| Some(Ok(connection)))
    }
}

impl Connection {
    /// The remote end.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        let tcp = match &self.stream {
            Either::Left(tcp) => tcp,
            Either::Right(tls) => tls.get_ref().0,
        };
        TcpConnectInfo { local_addr: tcp.local_addr().ok(), remote_addr: Some(self.peer.address) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;
    use crate::tls::TlsFiles;

    #[tokio::test]
    async fn one_handshake_too_many_ends_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let own = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = TlsFiles { cert: dir.path().join("cert"), key: dir.path().join("key"), client_ca: None };
        std::fs::write(&files.cert, own.cert.pem()).unwrap();
        std::fs::write(&files.key, own.signing_key.serialize_pem()).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(listener, Some(files.load().unwrap()), Protocol::Grpc);
        connections.max_handshakes = 2;
        tokio::spawn(async move { connections.next().await });
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Only the first was closed: the others may still send, and get an alert about what they sent.
        assert!(matches!(silent[0].read(&mut [0; 8]).await, Ok(0) | Err(_)));
        silent[2].write_all(b"nonsense").await.unwrap();
        assert!(silent[2].read(&mut [0; 8]).await.unwrap() > 0, "a TLS alert");
    }

    #[tokio::test]
    async fn a_connection_knows_both_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(listener, None, Protocol::Grpc);
        let client = TcpStream::connect(address).await.unwrap();
        let connection = connections.next().await.unwrap().unwrap();
        let info = Connected::connect_info(&connection);
        assert_eq!(info.remote_addr(), Some(client.local_addr().unwrap()));
        assert_eq!(info.local_addr(), Some(address));
    }
}
