//! TLS of a client.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Uri;
use tower::Service;

use super::certificates::{HANDSHAKE_TIMEOUT, identity, provider, roots};
use crate::reload::{FileError, Reloaded, SourceFile};

/// The files with the certificates of a client, PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// CA certificates that servers are checked against; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Certificate and key, for servers that require a client certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A client's certificates, always those that are in its files now. Clones share them.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<Reloaded<ClientConfig>>,
}

/// A connection of a client.
pub type ClientStream = TokioIo<TlsStream<TcpStream>>;

impl ClientTls {
    /// Reads the files. The certificates of the system are read once: a change of them takes effect with the next start.
    pub fn load(files: &ClientTlsFiles) -> Result<Self, FileError> {
        let system_roots = match files.ca {
            Some(_) => None,
            None => Some(Arc::new(system_roots()?)),
        };
        let (cert, key) = files.identity.clone().unzip();
        let paths = [files.ca.clone(), cert, key].into_iter().flatten().collect();
        let config = Reloaded::start(paths, move |files, _| match (&system_roots, files) {
            (Some(roots), identity) => config(roots.clone(), identity),
            (None, [ca, identity @ ..]) => config(Arc::new(roots(ca)?), identity),
            // Cannot happen: without the roots of the system the first file is the CA.
            (None, []) => config(Arc::new(RootCertStore::empty()), &[]),
        })?;
        Ok(Self { config })
    }

    /// Checks the files now, without waiting for the next periodic check. Returns whether they changed.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.config.refresh()
    }

    /// Connects to the address of a URL, where the server must have a certificate for `host`.
    pub fn connector(
        &self,
        host: String,
    ) -> impl Service<Uri, Response = ClientStream, Error = io::Error, Future: Send> + Clone + Send + 'static
    {
        let tls = self.clone();
        tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            let host = host.clone();
            async move {
                let address = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let tcp = TcpStream::connect((address, uri.port_u16().unwrap_or(443))).await?;
                tcp.set_nodelay(true)?;
                Ok(TokioIo::new(tls.handshake(tcp, host).await?))
            }
        })
    }

    async fn handshake(&self, tcp: TcpStream, host: String) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.config.current());
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connector.connect(name, tcp)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the TLS handshake")),
        }
    }
}

/// `identity` is the files of a certificate and its key, or empty.
fn config(roots: Arc<RootCertStore>, identity_files: &[SourceFile]) -> Result<ClientConfig, FileError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    // Cannot happen: the provider supports both versions of TLS.
    let builder = builder.map_err(|e| FileError::Content { path: "TLS".into(), reason: e.to_string() })?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity_files {
        [cert, key] => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity(cert, key)?)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The CA certificates that the system trusts, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn system_roots() -> Result<RootCertStore, FileError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some CA certificates of this system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    // Systems trust certificates that not every library can use: those are left out.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors.iter().map(|error| format!(": {error}")).collect();
        return Err(FileError::NoSystemRoots { errors });
    }
    Ok(roots)
}
