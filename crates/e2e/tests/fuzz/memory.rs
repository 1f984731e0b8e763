//! A network in memory: services in one process, connected by pipes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_util::rt::TokioIo;
use tandem_orchestrator::{Boxed, Network};
use tandem_serving::{Serving, Shutdown};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes that a connection holds in each direction.
const PIPE_BYTES: usize = 64 << 10;
/// Connections that a service has not accepted yet.
const BACKLOG: usize = 8;

type Listeners = HashMap<u16, mpsc::Sender<io::Result<DuplexStream>>>;

/// Services by port, all on one host.
#[derive(Clone, Default)]
pub(super) struct MemoryNetwork {
    listeners: Arc<Mutex<Listeners>>,
}

impl MemoryNetwork {
    /// Serves on `port`.
    pub(super) fn serve(&self, port: u16, serving: Serving) {
        let (connect, connections) = mpsc::channel(BACKLOG);
        self.listeners().insert(port, connect);
        tokio::spawn(serving.run(ReceiverStream::new(connections), Shutdown::new()));
    }

    /// A channel to the service on `port`.
    pub(super) fn connect(&self, port: u16) -> Channel {
        self.channel_to(&Endpoint::from_shared(format!("http://memory:{port}")).unwrap())
    }

    fn channel_to(&self, endpoint: &Endpoint) -> Channel {
        let network = self.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let listener = uri.port_u16().and_then(|port| network.listeners().get(&port).cloned());
            async move {
                let listener = listener.ok_or_else(|| io::Error::other("no such host"))?;
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                listener.send(Ok(far)).await.map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        }))
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for MemoryNetwork {
    fn resolve(&self, _: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]) })
    }

    fn channel(&self, endpoint: Endpoint, _: Option<String>) -> Channel {
        self.channel_to(&endpoint)
    }
}
