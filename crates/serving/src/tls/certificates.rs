//! Certificates and keys, as they are in PEM files.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, client as rustls_client};

use crate::reload::{FileError, SourceFile};

/// How long a handshake may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The cryptography that is used.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(tokio_rustls::rustls::crypto::ring::default_provider())
}

/// Reads the CA certificates in a file.
pub(super) fn roots(file: &SourceFile) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|e| file.bad(format!("has a certificate that cannot be used as a CA: {e}")))?;
    }
    Ok(roots)
}

/// Reads a certificate and its key. They must belong together, and the certificate must be valid now.
pub(super) fn identity(certificate: &SourceFile, key: &SourceFile) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate)?;
    check_time(&chain[0]).map_err(|reason| certificate.bad(reason))?;
    let private = PrivateKeyDer::from_pem_slice(&key.bytes)
        .map_err(|e| key.bad(format!("has no private key in PEM (PKCS#8, PKCS#1 or SEC1): {e}")))?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        Error::InconsistentKeys(_) => key.bad(format!("is not the key of {}", certificate.path.display())),
        e => key.bad(format!("cannot be used: {e}")),
    })
}

/// Reads the certificates in a file, of which there must be at least one.
fn certificates(file: &SourceFile) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(file.bad("has no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(e) => Err(file.bad(format!("is not valid PEM: {e}"))),
    }
}

/// Checks that the certificate is valid now, and nothing else: rustls has no function for that, but it checks the time before it
/// looks for an issuer, so it is given no CA and the error says which check failed.
fn check_time(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed =
        ParsedCertificate::try_from(certificate).map_err(|e| format!("is not a valid certificate: {e}"))?;
    let no_roots = RootCertStore::empty();
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    match rustls_client::verify_server_cert_signed_by_trust_anchor(&parsed, &no_roots, &[], now, algorithms) {
        Err(Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Err(error.to_string()),
        _ => Ok(()),
    }
}
