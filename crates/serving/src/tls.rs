//! TLS of servers and clients: rustls, certificates from files.

mod client;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, client as rustls_client};

pub use client::{ClientStream, ClientTls, ClientTlsFiles};
pub use server::{Protocol, ServerTls};

use crate::reload::{FileError, SourceFile};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// TLS of a service.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// Certificate of this service and those between it and its CA, PEM: then it speaks TLS only; read again when it changes
    #[arg(long, env = "TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Key of the certificate, PEM
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// CA certificates, PEM: then clients must present a certificate that one of them signed (mutual TLS)
    #[arg(long, env = "TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(tokio_rustls::rustls::crypto::ring::default_provider())
}

/// The CA certificates in a file.
fn roots(file: &SourceFile) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| file.bad(format!("a certificate of it is no CA's: {e}")))?;
    }
    Ok(roots)
}

/// A certificate and its key, which belong together, and now is within the certificate's time.
fn identity(certificate: &SourceFile, key: &SourceFile) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate)?;
    check_time(&chain[0]).map_err(|reason| certificate.bad(reason))?;
    let private = PrivateKeyDer::from_pem_slice(&key.bytes)
        .map_err(|e| key.bad(format!("has no private key in PEM (PKCS#8, PKCS#1 or SEC1): {e}")))?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        Error::InconsistentKeys(_) => key.bad(format!("is not the key of {}", certificate.path.display())),
        e => key.bad(format!("cannot be used: {e}")),
    })
}

/// At least one.
fn certificates(file: &SourceFile) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(file.bad("has no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(e) => Err(file.bad(format!("is no PEM: {e}"))),
    }
}

/// A certificate is checked for its time before anything else is; that nobody signed it here does not matter.
fn check_time(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|e| format!("is no certificate: {e}"))?;
    let nobody = RootCertStore::empty();
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    match rustls_client::verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms) {
        Err(Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Err(error.to_string()),
        _ => Ok(()),
    }
}
