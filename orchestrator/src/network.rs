//! How workers are found and reached: the seam where tests put a simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};

/// A future in a box.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Names to addresses, addresses to connections.
pub trait Network: Send + Sync + 'static {
    /// All addresses of a host name (or the one of an IP address), with `port`.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;

    /// A channel that connects when it is first used, and again whenever its connection is lost.
    fn channel(&self, endpoint: Endpoint) -> Channel;
}

/// The network of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
            // A host with addresses of both families is one worker, not two.
            let v4 = all.iter().any(SocketAddr::is_ipv4);
            Ok(all.into_iter().filter(|a| a.is_ipv4() == v4).collect())
        })
    }

    fn channel(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}

impl Tcp {
    /// As the orchestrator takes it.
    pub fn shared() -> Arc<dyn Network> {
        Arc::new(Self)
    }
}
