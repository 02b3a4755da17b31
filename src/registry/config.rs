//! What decides how a host is reached: plain data, filled in by a door.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

/// How registries, and the web in general, are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// By host with port, as people write it: `docker.io`, `registry.example.com:5000`.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Proxies for everything but loopback.
    pub proxies: Proxies,
    /// When to give up.
    pub retry: Retry,
}

/// How one host is reached.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    /// Speak plain http.
    pub http: bool,
    /// A PEM file of certificates that are trusted for this host, beside the system's.
    pub ca: Option<PathBuf>,
    /// Hosts that are asked before this one, in order.
    pub mirrors: Vec<String>,
}

/// HTTP proxies, as the usual environment variables give them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// URL of the proxy for `http` URLs.
    pub http: Option<String>,
    /// URL of the proxy for `https` URLs.
    pub https: Option<String>,
    /// Hosts reached without one: names (with their subdomains), addresses, `*`.
    pub none: Vec<String>,
}

/// When a request is tried again and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How often a request is sent at most; at least 1.
    pub attempts: u32,
    /// Pause before the second attempt; doubles with each further one.
    pub backoff: Duration,
    /// Longest pause, whatever the server asks for.
    pub longest_pause: Duration,
    /// Longest silence of a server.
    pub stall: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts: 5,
            backoff: Duration::from_millis(250),
            longest_pause: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// One place where the repositories of a host may be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host with port, as it is connected to.
    pub authority: String,
    /// Host with port, as people write it: what credentials are kept under.
    pub host: String,
}

impl RegistryConfig {
    /// Where to ask for repositories of `host`, best first: its mirrors, then itself. A loopback host appears with plain
    /// http first and https second.
    pub(super) fn endpoints(&self, host: &str) -> Vec<Endpoint> {
        let mirrors = self.hosts.get(host).map(|config| config.mirrors.as_slice()).unwrap_or_default();
        mirrors.iter().map(String::as_str).chain([host]).flat_map(|place| self.endpoints_of(place)).collect()
    }

    fn endpoints_of(&self, place: &str) -> Vec<Endpoint> {
        let endpoint =
            |scheme, host: &str| Endpoint { scheme, authority: real_authority(host).to_owned(), host: host.to_owned() };
        let place = place.trim_end_matches('/');
        if let Some(host) = place.strip_prefix("http://") {
            return vec![endpoint("http", host)];
        }
        let host = place.strip_prefix("https://").unwrap_or(place);
        match self.hosts.get(host) {
            Some(config) if config.http => vec![endpoint("http", host)],
            Some(config) if config.ca.is_some() => vec![endpoint("https", host)],
            _ if is_loopback(host) && host == place => vec![endpoint("http", host), endpoint("https", host)],
            _ => vec![endpoint("https", host)],
        }
    }

    /// The CA file for `authority`, under its real name or the one people write.
    pub(super) fn ca(&self, authority: &str) -> Option<&PathBuf> {
        let named = self.hosts.iter().find(|(host, _)| real_authority(host) == authority);
        named.and_then(|(_, config)| config.ca.as_ref())
    }
}

impl Proxies {
    /// The proxy for `url`, if one is to be used.
    pub(super) fn for_url(&self, url: &Uri) -> Option<&str> {
        let authority = url.authority()?;
        if is_loopback(authority.as_str()) {
            return None;
        }
        let name = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let excepted = self.none.iter().any(|exception| {
            let exception = exception.trim().trim_start_matches('.').to_ascii_lowercase();
            let exception = exception.strip_prefix("*.").unwrap_or(&exception);
            exception == "*"
                || exception == authority.as_str()
                || name
                    .strip_suffix(exception)
                    .is_some_and(|rest| !exception.is_empty() && (rest.is_empty() || rest.ends_with('.')))
        });
        if excepted {
            return None;
        }
        let proxy = if url.scheme_str() == Some("https") { &self.https } else { &self.http };
        proxy.as_deref().filter(|proxy| !proxy.is_empty())
    }
}

/// Docker Hub's registry has another name than its images.
fn real_authority(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}

/// Whether `authority` (with or without port) is this machine by name or literal address.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(config: &RegistryConfig, host: &str, expected: &[&str]) {
        let found: Vec<String> =
            config.endpoints(host).iter().map(|endpoint| format!("{}://{}", endpoint.scheme, endpoint.authority)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hosts_are_reached_over_https_except_on_loopback() {
        let config = RegistryConfig::default();
        check(&config, "quay.io", &["https://quay.io"]);
        check(&config, "docker.io", &["https://registry-1.docker.io"]);
        check(&config, "127.8.0.1:5000", &["http://127.8.0.1:5000", "https://127.8.0.1:5000"]);
        check(&config, "[::1]:5000", &["http://[::1]:5000", "https://[::1]:5000"]);
        check(&config, "localhost", &["http://localhost", "https://localhost"]);
        check(&config, "127.example.com", &["https://127.example.com"]);
    }

    #[test]
    fn mirrors_come_first_with_their_own_settings() {
        let mut config = RegistryConfig::default();
        let mirrors = vec!["127.0.0.1:1".to_owned(), "http://plain.example/".to_owned(), "m.example".to_owned()];
        config.hosts.insert("docker.io".into(), HostConfig { mirrors, ..HostConfig::default() });
        config.hosts.insert("m.example".into(), HostConfig { http: true, ..HostConfig::default() });
        let expected = [
            "http://127.0.0.1:1",
            "https://127.0.0.1:1",
            "http://plain.example",
            "http://m.example",
            "https://registry-1.docker.io",
        ];
        check(&config, "docker.io", &expected);
    }

    #[test]
    fn proxies_have_exceptions() {
        let proxies = Proxies {
            http: Some("http://proxy:1".into()),
            https: None,
            none: vec![".example.com".into(), "10.0.0.1".into(), "host:81".into()],
        };
        let used = |url: &str| proxies.for_url(&url.parse().expect(url)).is_some();
        assert!(used("http://other.org/"));
        assert!(used("http://notexample.com/"));
        assert!(used("http://host:80/"));
        for url in ["https://other.org/", "http://a.example.com/", "http://example.com/", "http://10.0.0.1/", "http://host:81/"] {
            assert!(!used(url), "{url}");
        }
        assert!(!used("http://127.0.0.1:5000/"));
    }
}
