//! Whom to trust.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};

use crate::registry::RegistryError;
use crate::registry::config::Trust;

/// Trusts the system's roots, read once into `roots`, and the authorities of `trust`; shows its identities.
pub fn client_config(roots: &OnceLock<RootCertStore>, trust: &Trust) -> Result<ClientConfig, RegistryError> {
    let mut store = roots.get_or_init(system_roots).clone();
    for path in &trust.ca {
        let bad = |reason: String| RegistryError::BadCertificates { path: path.clone(), reason };
        let before = store.len();
        for certificate in certificates(path)? {
            store.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if store.len() == before {
            return Err(bad("it holds no certificate".to_owned()));
        }
    }
    let builder = builder()?;
    let builder = if trust.anybody {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody))
    } else {
        builder.with_root_certificates(store)
    };
    // one identity for all: a server that knows several of ours takes the first
    let Some(identity) = trust.identities.first() else { return Ok(builder.with_no_client_auth()) };
    let bad = |path: &Path, reason: String| RegistryError::BadCertificates { path: path.to_owned(), reason };
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|error| bad(&identity.key, error.to_string()))?;
    let chain = certificates(&identity.certificate)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad(&identity.certificate, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| RegistryError::BadCertificates { path: path.to_owned(), reason: error.to_string() })
}

/// Trusts nobody: for connections that never speak TLS.
pub fn never() -> Result<ClientConfig, RegistryError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Certificates that cannot be read are left out: a host that needs them fails with its own error.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, RegistryError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Tls { host: String::new(), reason: error.to_string() })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes every certificate, as `insecure` and `skip_verify` ask for; signatures are looked at all the same.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
