//! How workers are found and reached: the seam where tests put a simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tandem_serving::{ClientStream, ClientTls, ClientTlsFiles, FileError};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::WorkerNames;

/// A future in a box.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Names to addresses, addresses to connections.
pub trait Network: Send + Sync + 'static {
    /// All addresses of a host name (or the one of an IP address), with `port`.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;

    /// A channel that connects when it is first used, and again whenever its connection is lost. `tls_name`: over TLS, to a worker that
    /// can prove that it is this host.
    fn channel(&self, endpoint: Endpoint, tls_name: Option<String>) -> Channel;
}

/// The network of this machine.
#[derive(Clone, Default)]
pub struct Tcp {
    tls: Option<ClientTls>,
}

/// With what `https://` workers are checked, and what they are shown.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct WorkerTlsArgs {
    /// CA certificates of https:// workers, PEM; read again when it changes [default: those of the system]
    #[arg(long, env = "TANDEM_WORKER_CA", value_name = "FILE")]
    pub worker_ca: Option<PathBuf>,

    /// Certificate to show to workers that ask for one (mutual TLS), PEM
    #[arg(long, env = "TANDEM_WORKER_CERT", value_name = "FILE", requires = "worker_key")]
    pub worker_cert: Option<PathBuf>,

    /// Key of that certificate, PEM
    #[arg(long, env = "TANDEM_WORKER_KEY", value_name = "FILE", requires = "worker_cert")]
    pub worker_key: Option<PathBuf>,
}

/// Why workers cannot be reached as asked for.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WorkerTlsError {
    #[error(
        "{flag} is for https:// workers, and all of --draft and --target are http://: write https:// if they speak TLS, or \
         leave {flag} out"
    )]
    PlainWorkers { flag: &'static str },
    #[error(transparent)]
    File(#[from] FileError),
}

impl WorkerTlsArgs {
    /// The network to `names`, with certificates if any of them is https://; to none of them there must be no flags for that.
    pub fn network(&self, names: &WorkerNames) -> Result<Tcp, WorkerTlsError> {
        if !names.draft.iter().chain(&names.target).any(|name| name.tls_name().is_some()) {
            let unused = [("--worker-ca", &self.worker_ca), ("--worker-cert", &self.worker_cert)];
            return match unused.into_iter().find(|(_, file)| file.is_some()) {
                Some((flag, _)) => Err(WorkerTlsError::PlainWorkers { flag }),
                None => Ok(Tcp::default()),
            };
        }
        let identity = self.worker_cert.clone().zip(self.worker_key.clone());
        let tls = ClientTls::load(&ClientTlsFiles { ca: self.worker_ca.clone(), identity })?;
        Ok(Tcp { tls: Some(tls) })
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

impl Tcp {
    /// As the orchestrator takes it.
    pub fn shared(self) -> Arc<dyn Network> {
        Arc::new(self)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::OrchestratorArgs;

    fn network(flags: &str) -> Result<Tcp, String> {
        let args = OrchestratorArgs::parse_from(flags.split(' '));
        args.worker_tls.network(&args.names()).map_err(|e| e.to_string())
    }

    #[test]
    fn certificates_for_workers_in_plain_text_are_refused() {
        let plain = "orchestrator --draft http://draft:1 --target http://target:1";
        assert!(network(plain).unwrap().tls.is_none());
        for (flag, flags) in [
            ("--worker-ca", "--worker-ca ca.pem"),
            ("--worker-cert", "--worker-cert c.pem --worker-key k.pem"),
        ] {
            let refused = network(&format!("{plain} {flags}")).err().unwrap();
            assert!(refused.starts_with(&format!("{flag} is for https:// workers")), "{refused}");
        }
        // With one https:// worker the file is read.
        let mixed = plain.replace("http://draft", "https://draft");
        let refused = network(&format!("{mixed} --worker-ca /no/such/ca.pem")).err().unwrap();
        assert!(refused.contains("/no/such/ca.pem"), "{refused}");
    }
}
