//! TLS of a server.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::certificates::{HANDSHAKE_TIMEOUT, identity, provider, roots};
use crate::reload::{FileError, Reloaded, SourceFile};

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2. With a client CA the handshake fails without a client certificate.
    Grpc,
    /// HTTP/2 and HTTP/1.1. With a client CA a client certificate is requested; clients without one reach only the paths for probes.
    Http,
}

/// The files with the certificates of a server, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of the server, followed by any intermediate certificates.
    pub cert: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// CA certificates. With them, clients must present a certificate that one of them signed.
    pub client_ca: Option<PathBuf>,
}

/// Certificates of a server, always those that are in its files now. Clones share them.
#[derive(Clone)]
pub struct ServerTls {
    configs: Arc<Reloaded<Configs>>,
}

struct Configs {
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    requires_client_certificate: bool,
}

impl TlsFiles {
    /// Reads the files. A certificate that has expired, or that does not belong to the key, is an error.
    pub fn load(&self) -> Result<ServerTls, FileError> {
        let files = [&self.cert, &self.key].into_iter().chain(&self.client_ca).cloned().collect();
        let configs = Reloaded::start(files, |files, _| Configs::load(files))?;
        Ok(ServerTls { configs })
    }
}

impl ServerTls {
    /// Checks the files now, without waiting for the next periodic check. Returns whether they changed.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.configs.refresh()
    }

    /// Whether clients must present a certificate.
    pub fn requires_client_certificate(&self) -> bool {
        self.configs.current().requires_client_certificate
    }

    /// Performs a handshake. `None` if it fails or times out: the client gets an alert by TLS itself, and the reason is only logged.
    pub(crate) async fn accept(&self, tcp: TcpStream, protocol: Protocol) -> Option<TlsStream<TcpStream>> {
        let configs = self.configs.current();
        let config = match protocol {
            Protocol::Grpc => configs.grpc.clone(),
            Protocol::Http => configs.http.clone(),
        };
        let peer = tcp.peer_addr().ok();
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(tcp)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(?peer, %error, "the TLS handshake failed"),
            Err(_) => {
                tracing::debug!(
                    ?peer,
                    "the TLS handshake took longer than {} s",
                    HANDSHAKE_TIMEOUT.as_secs()
                );
            }
        }
        None
    }
}

impl Configs {
    fn load(files: &[SourceFile]) -> Result<Self, FileError> {
        let identity = identity(&files[0], &files[1])?;
        let clients = match files.get(2) {
            Some(file) => Some((file, Arc::new(roots(file)?))),
            None => None,
        };
        Ok(Self {
            grpc: Arc::new(config(Protocol::Grpc, &identity, clients.clone())?),
            http: Arc::new(config(Protocol::Http, &identity, clients.clone())?),
            requires_client_certificate: clients.is_some(),
        })
    }
}

fn config(
    protocol: Protocol,
    identity: &CertifiedKey,
    clients: Option<(&SourceFile, Arc<RootCertStore>)>,
) -> Result<ServerConfig, FileError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    // Cannot happen: the provider supports both versions of TLS.
    let builder = builder.map_err(|e| FileError::Content { path: "TLS".into(), reason: e.to_string() })?;
    let builder = match clients {
        Some((file, roots)) => {
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            if protocol == Protocol::Http {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|e| file.bad(e))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.clone())));
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(config)
}
