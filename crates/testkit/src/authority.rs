//! A certificate authority for tests, and the files that it writes.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tandem_serving::TlsFiles;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The file with its own certificate, PEM.
    pub ca: PathBuf,
}

impl Authority {
    /// Writes its certificate to `dir/name.pem`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let ca = dir.join(format!("{name}.pem"));
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), ca }
    }

    /// Writes a certificate and its key to `dir/name.pem` and `dir/name.key`. `change` edits the certificate before it is
    /// signed, for example to make it expired.
    pub fn sign(
        &self,
        (dir, name): (&Path, &str),
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert_path = dir.join(format!("{name}.pem"));
        let key_path = dir.join(format!("{name}.key"));
        std::fs::write(&cert_path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }

    /// TLS of a server on this machine. With `clients`, it requires client certificates that this authority has signed.
    pub fn server(&self, dir: &Path, clients: Option<&Self>) -> TlsFiles {
        let (cert, key) = self.sign((dir, "server"), &["localhost", "127.0.0.1"], |_| {});
        TlsFiles { cert, key, client_ca: clients.map(|authority| authority.ca.clone()) }
    }
}
