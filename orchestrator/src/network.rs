//! How workers are found and reached: the seam where tests put a simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tandem_serving::{ClientStream, ClientTls, ClientTlsFiles, FileError};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::workers::WorkerNames;

/// A future in a box.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Resolves names to addresses, and makes connections to addresses.
pub trait Network: Send + Sync + 'static {
    /// All addresses of a host name, or the one of an IP address, with `port`.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;

    /// A channel that connects when it is first used, and again whenever its connection is lost. With a `tls_name` it uses TLS, and the
    /// worker must prove that it is this host.
    fn channel(&self, endpoint: Endpoint, tls_name: Option<String>) -> Channel;
}

/// The network of this machine.
#[derive(Clone, Default)]
pub struct Tcp {
    tls: Option<ClientTls>,
}

/// Why the connections to workers cannot be set up.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WorkerTlsError {
    #[error(
        "{flag} applies to https:// workers, but all of --draft and --target are http://: write https:// if the workers use TLS, \
         or omit {flag}"
    )]
    PlainWorkers { flag: &'static str },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Tcp {
    /// The network to the workers, with certificates if any of them is `https://`. Without one, there must be no files for that.
    pub fn new(workers: &WorkerNames, files: &ClientTlsFiles) -> Result<Self, WorkerTlsError> {
        let uses_tls = workers.draft.iter().chain(&workers.target).any(|name| name.tls_name().is_some());
        if uses_tls {
            return Ok(Self { tls: Some(ClientTls::load(files)?) });
        }
        if files.ca.is_some() {
            return Err(WorkerTlsError::PlainWorkers { flag: "--worker-ca" });
        }
        if files.identity.is_some() {
            return Err(WorkerTlsError::PlainWorkers { flag: "--worker-cert" });
        }
        Ok(Self::default())
    }

    /// The network as the orchestrator takes it.
    pub fn shared(self) -> Arc<dyn Network> {
        Arc::new(self)
    }
}

impl Network for Tcp {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
            // A host with addresses of both families is one worker, not two.
            let v4 = all.iter().any(SocketAddr::is_ipv4);
            Ok(all.into_iter().filter(|a| a.is_ipv4() == v4).collect())
        })
    }

    fn channel(&self, endpoint: Endpoint, tls_name: Option<String>) -> Channel {
        match (tls_name, &self.tls) {
            (None, _) => endpoint.connect_lazy(),
            (Some(name), Some(tls)) => endpoint.connect_with_connector_lazy(tls.connector(name)),
            // Never in plain text instead.
            (Some(_), None) => endpoint.connect_with_connector_lazy(tower::service_fn(|_| async {
                Err::<ClientStream, _>(io::Error::other("no certificates were loaded for https:// workers"))
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(urls: [&str; 2]) -> WorkerNames {
        let [draft, target] = urls.map(|url| vec![url.parse().unwrap()]);
        WorkerNames { draft, target }
    }

    fn refused(workers: &WorkerNames, files: ClientTlsFiles) -> String {
        Tcp::new(workers, &files).err().unwrap().to_string()
    }

    #[test]
    fn certificates_for_workers_in_plain_text_are_refused() {
        let plain = names(["http://draft:1", "http://target:1"]);
        assert!(Tcp::new(&plain, &ClientTlsFiles::default()).unwrap().tls.is_none());
        let ca = ClientTlsFiles { ca: Some("/no/such/ca.pem".into()), identity: None };
        assert!(refused(&plain, ca.clone()).starts_with("--worker-ca applies to https:// workers"));
        let identity = ClientTlsFiles { ca: None, identity: Some(("c.pem".into(), "k.pem".into())) };
        assert!(refused(&plain, identity).starts_with("--worker-cert applies to https:// workers"));
        // With one https:// worker the file is read.
        let mixed = names(["https://draft:1", "http://target:1"]);
        assert!(refused(&mixed, ca).contains("/no/such/ca.pem"));
    }
}
