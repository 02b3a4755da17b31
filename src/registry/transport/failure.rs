//! From the errors of the HTTP stack to ours.

use std::error::Error;
use std::io;

use serde::Deserialize;

use crate::registry::{Broken, RegistryError};

/// Says what an error of the HTTP stack means, by the first cause in its chain that is known.
pub fn classify(error: &(dyn Error + 'static), host: &str) -> RegistryError {
    let host = host.to_owned();
    let mut last = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        last = error.to_string();
        if let Some(tls) = error.downcast_ref() {
            return RegistryError::Tls { host, reason: tls_reason(tls) };
        }
        if last == "dns error" {
            let reason = error.source().map_or_else(|| last.clone(), |source| source.to_string());
            return RegistryError::Unreachable { host, broken: Broken::Name(reason) };
        }
        if last.starts_with("tunnel error") {
            return RegistryError::Unreachable { host, broken: Broken::Proxy(last) };
        }
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return RegistryError::Unreachable { host, broken: Broken::Refused },
            Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
                return RegistryError::Unreachable { host, broken: Broken::NoRoute };
            }
            _ => cause = next_cause(error),
        }
    }
    RegistryError::Unreachable { host, broken: Broken::Cut(last) }
}

/// The words of an error page: the messages of a registry's error list, or the first line of a short text.
pub fn words(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Page {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(page) = serde_json::from_slice::<Page>(body) {
        let say = |item: &Item| if item.message.is_empty() { item.code.clone() } else { item.message.clone() };
        return page.errors.iter().map(say).collect::<Vec<_>>().join("; ");
    }
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    if line.starts_with('<') || line.chars().any(char::is_control) { String::new() } else { line.chars().take(200).collect() }
}

/// `io::Error` answers `source()` for the error that it carries, so that one is asked for first.
fn next_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "its certificate is signed by an authority that is not trusted here; add a `ca` for it".to_owned()
        }
        rustls::Error::InvalidMessage(_) => "it does not answer in TLS; it may speak plain http".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: &str) {
        assert_eq!(words(body.as_bytes()), expected);
    }

    #[test]
    fn error_pages_are_cut_down_to_words() {
        check(r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#, "no; X");
        check("broken on purpose\nmore", "broken on purpose");
        check("<html>", "");
        check("", "");
    }

    #[test]
    fn a_tls_error_is_found_inside_io_errors() {
        let error = io::Error::other(io::Error::other(rustls::Error::DecryptError));
        assert!(matches!(classify(&error, "h"), RegistryError::Tls { .. }));
    }
}
