//! The client's end.

use std::io;
use std::path::{Path, PathBuf};
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

use super::{HANDSHAKE, certificates, identity, provider, roots};
use crate::reload::{FileError, Reloaded, SourceFile};

/// Where systems keep the certificates of public CAs: Debian and Alpine, Fedora, OpenSUSE.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// What a client checks servers with, and shows them.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsFiles {
    /// CA certificates, PEM; otherwise those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate and key, PEM, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A client's certificates, always those that are in the files now. Clones share them.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<Reloaded<ClientConfig>>,
}

/// A connection of a client.
pub type ClientStream = TokioIo<TlsStream<TcpStream>>;

impl ClientTls {
    /// Reads the files.
    pub fn load(files: &ClientTlsFiles) -> Result<Self, FileError> {
        let own = files.ca.is_some();
        let ca = files.ca.clone().map_or_else(system_roots, Ok)?;
        let (cert, key) = files.identity.clone().unzip();
        let paths = [Some(ca), cert, key].into_iter().flatten().collect();
        let config = Reloaded::start(paths, move |files, _| config(files, own))?;
        Ok(Self { config })
    }

    /// Looks at the files now, not at the next of its own looks: whether they changed.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.config.refresh()
    }

    /// Connects to the address of a URL, where the server must prove that it is `host`.
    pub fn connector(
        &self,
        host: String,
    ) -> impl Service<Uri, Response = ClientStream, Error = io::Error, Future: Send> + Clone + Send + 'static
    {
        let tls = self.clone();
        tower::service_fn(move |uri: Uri| {
            let (tls, host) = (tls.clone(), host.clone());
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
        let handshake = tokio::time::timeout(HANDSHAKE, connector.connect(name, tcp)).await;
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer the TLS handshake");
        handshake.map_err(silent)?
    }
}

fn config(files: &[SourceFile], own: bool) -> Result<ClientConfig, FileError> {
    // Systems trust certificates that are not all readable by everyone.
    let roots = if own { roots(&files[0])? } else { readable_roots(&files[0])? };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| FileError::Content { path: "TLS".into(), reason: e.to_string() })?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match files {
        [_, cert, key] => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity(cert, key)?)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn readable_roots(file: &SourceFile) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(file)?);
    Ok(roots)
}

fn system_roots() -> Result<PathBuf, FileError> {
    let found = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let found = found.or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|p| Path::is_file(p)));
    found.ok_or_else(|| FileError::Content {
        path: SYSTEM_ROOTS[0].into(),
        reason: "not here, nor elsewhere: this system has no CA certificates, so the CA of the server must be given".into(),
    })
}
