//! The server's end.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::{HANDSHAKE, TlsArgs, identity, provider, roots};
use crate::reload::{FileError, Reloaded, SourceFile};

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2; with a client CA nobody gets in without a certificate.
    Grpc,
    /// HTTP/2 and HTTP/1.1; with a client CA a certificate is asked for, and those without reach only what probes need.
    Http,
}

/// Certificates of a service, always those that are in its files now. Clones share them.
#[derive(Clone)]
pub struct ServerTls {
    configs: Arc<Reloaded<Configs>>,
}

struct Configs {
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    asks_clients: bool,
}

impl TlsArgs {
    /// The certificates, if there are to be any. An expired certificate or another's key is an error.
    pub fn load(&self) -> Result<Option<ServerTls>, FileError> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let files = [cert, key].into_iter().chain(&self.tls_client_ca).cloned().collect();
        let configs = Reloaded::start(files, |files, _| Configs::load(files))?;
        Ok(Some(ServerTls { configs }))
    }
}

impl ServerTls {
    /// Looks at the files now, not at the next of its own looks: whether they changed.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.configs.refresh()
    }

    /// Whether clients must prove who they are.
    pub fn asks_clients(&self) -> bool {
        self.configs.current().asks_clients
    }

    /// A handshake, which may not take long. Nobody is told why it failed but the log: the other end has its alert.
    pub(crate) async fn accept(&self, tcp: TcpStream, protocol: Protocol) -> Option<TlsStream<TcpStream>> {
        let configs = self.configs.current();
        let config = match protocol {
            Protocol::Grpc => configs.grpc.clone(),
            Protocol::Http => configs.http.clone(),
        };
        let peer = tcp.peer_addr().ok();
        match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(?peer, %error, "no handshake"),
            Err(_) => tracing::debug!(?peer, "no handshake within {} s", HANDSHAKE.as_secs()),
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
        let config = |protocol| config(protocol, &identity, clients.clone());
        Ok(Self {
            grpc: Arc::new(config(Protocol::Grpc)?),
            http: Arc::new(config(Protocol::Http)?),
            asks_clients: clients.is_some(),
        })
    }
}

fn config(
    protocol: Protocol,
    identity: &CertifiedKey,
    clients: Option<(&SourceFile, Arc<RootCertStore>)>,
) -> Result<ServerConfig, FileError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    // It has both versions of TLS.
    let builder = builder.map_err(|e| FileError::Content { path: "TLS".into(), reason: e.to_string() })?;
    let builder = match clients {
        Some((file, roots)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier =
                if protocol == Protocol::Http { verifier.allow_unauthenticated() } else { verifier };
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
