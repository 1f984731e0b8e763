//! Connections over turmoil's simulated network.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tandem_orchestrator::{Boxed, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::net::{TcpListener, TcpStream};

/// The port that every simulated host listens on.
pub const PORT: u16 = 7000;
/// Connections that a listener has accepted and that the server has not taken yet.
const BACKLOG: usize = 16;

/// The network of a simulation. A name stands for a group of hosts, as the name of a service does in a cluster.
#[derive(Clone, Default)]
pub struct SimulatedNetwork {
    names: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl SimulatedNetwork {
    /// Makes `name` stand for `hosts`.
    pub fn set_name(&self, name: &str, hosts: Vec<String>) {
        self.names().insert(name.to_owned(), hosts);
    }

    /// Adds a host to a name.
    pub fn add_host(&self, name: &str, host: &str) {
        if let Some(hosts) = self.names().get_mut(name).filter(|hosts| !hosts.iter().any(|h| h == host)) {
            hosts.push(host.to_owned());
        }
    }

    /// Removes a host from a name, unless it is the last one.
    pub fn remove_host(&self, name: &str, host: &str) {
        if let Some(hosts) = self.names().get_mut(name).filter(|hosts| hosts.len() > 1) {
            hosts.retain(|h| h != host);
        }
    }

    /// A channel that connects when it is first used.
    pub fn connect(endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }))
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for SimulatedNetwork {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        let hosts = self.names().get(&host).cloned();
        Box::pin(async move {
            let hosts = hosts.ok_or_else(|| io::Error::other("no such name"))?;
            Ok(hosts.iter().map(|h| SocketAddr::new(turmoil::lookup(h.as_str()), port)).collect())
        })
    }

    fn channel(&self, endpoint: Endpoint, _: Option<String>) -> Channel {
        Self::connect(&endpoint)
    }
}

/// The connections that reach this simulated host.
pub async fn incoming() -> io::Result<impl Stream<Item = io::Result<AcceptedStream>>> {
    let listener = TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    let (accepted, connections) = tokio::sync::mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(Ok(AcceptedStream(stream))).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(connections))
}

/// A connection that a simulated server accepted.
pub struct AcceptedStream(TcpStream);

impl Connected for AcceptedStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.0.local_addr().ok(), remote_addr: self.0.peer_addr().ok() }
    }
}

impl AsyncRead for AcceptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for AcceptedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
