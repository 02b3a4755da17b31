//! Whom to trust.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::registry::RegistryError;

/// Trusts the system's roots, read once into `roots`, and the certificates of `ca`.
pub fn client_config(roots: &OnceLock<RootCertStore>, ca: Option<&PathBuf>) -> Result<ClientConfig, RegistryError> {
    let mut roots = roots.get_or_init(system_roots).clone();
    if let Some(path) = ca {
        let bad = |reason: String| RegistryError::BadCa { path: path.clone(), reason };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
        let before = roots.len();
        for certificate in certificates {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(bad("it holds no certificate".to_owned()));
        }
    }
    with_roots(roots)
}

/// Trusts nobody: for connections that never speak TLS.
pub fn never() -> Result<ClientConfig, RegistryError> {
    with_roots(RootCertStore::empty())
}

/// Certificates that cannot be read are left out: a host that needs them fails with its own error.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Tls { host: String::new(), reason: error.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
