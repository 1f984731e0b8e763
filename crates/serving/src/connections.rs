//! The connections that come to a port, plain or over TLS.

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
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::either::Either;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{Protocol, ServerTls};

/// Handshakes at once. When one more begins, the oldest ends: whoever connects and says nothing shuts out nobody.
const HANDSHAKES: usize = 1024;
/// Between two signs of life on a connection.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(20);
/// Before the next connection is accepted, when the system has no room for it.
const PAUSE: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it presented a certificate that the client CA signed.
    pub certified: bool,
}

/// A connection that was accepted, and over TLS has its handshake behind it.
pub struct Connection {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    peer: Peer,
}

/// The connections of a listener, without end. Handshakes go on side by side.
pub struct Connections {
    listener: TcpListener,
    tls: Option<(ServerTls, Protocol)>,
    handshakes: JoinSet<Option<Connection>>,
    /// Of the handshakes, the oldest first; some have ended.
    oldest: VecDeque<AbortHandle>,
    most_handshakes: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Of `listener`, over TLS if there are certificates.
    pub fn new(listener: TcpListener, tls: Option<ServerTls>, protocol: Protocol) -> Self {
        Self {
            listener,
            tls: tls.map(|tls| (tls, protocol)),
            handshakes: JoinSet::new(),
            oldest: VecDeque::new(),
            most_handshakes: HANDSHAKES,
            pause: None,
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(cx) {
                if let Ok(Some(connection)) = ended {
                    return Poll::Ready(connection);
                }
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((tcp, address)) => {
                    // Small messages go out at once, not when a packet is full.
                    let _ = tcp.set_nodelay(true);
                    // Who vanished without a word is noticed by the system, whatever is spoken here, and be it TLS's handshake.
                    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
                    let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
                    let Some((tls, protocol)) = &self.tls else {
                        let peer = Peer { address, certified: false };
                        return Poll::Ready(Connection { stream: Either::Left(tcp), peer });
                    };
                    let handshake = handshake(tls.clone(), *protocol, tcp, address);
                    self.shake_hands(handshake);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    self.pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + PAUSE)));
                }
            }
        }
    }

    fn shake_hands(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        if self.oldest.len() >= self.most_handshakes {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        if self.oldest.len() >= self.most_handshakes
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        self.oldest.push_back(self.handshakes.spawn(handshake));
    }
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
    /// Who is at the other end.
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
    use crate::TlsArgs;

    #[tokio::test]
    async fn among_too_many_handshakes_the_oldest_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let own = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [cert, key] = ["cert", "key"].map(|name| Some(dir.path().join(name)));
        std::fs::write(cert.as_ref().unwrap(), own.cert.pem()).unwrap();
        std::fs::write(key.as_ref().unwrap(), own.signing_key.serialize_pem()).unwrap();
        let args = TlsArgs { tls_cert: cert, tls_key: key, tls_client_ca: None };

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(listener, args.load().unwrap(), Protocol::Grpc);
        connections.most_handshakes = 2;
        tokio::spawn(async move { connections.next().await });
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Only the first was closed: the others may still speak, and are told what they did wrong.
        assert!(matches!(silent[0].read(&mut [0; 8]).await, Ok(0) | Err(_)));
        silent[2].write_all(b"nonsense").await.unwrap();
        assert!(silent[2].read(&mut [0; 8]).await.unwrap() > 0, "a TLS alert");
    }

    #[tokio::test]
    async fn a_connection_knows_where_it_comes_from() {
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
