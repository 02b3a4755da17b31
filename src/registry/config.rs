//! What decides how a host is reached: plain data, filled in by a door, and what directories of hosts add to it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::error::RegistryError;
use super::hosts;

/// How registries, and the web in general, are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// By host with port, as people write it: `docker.io`, `registry.example.com:5000`.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Directories with one directory per host, such as `/etc/containerd/certs.d`; the first that has a host says it all. A
    /// host of `hosts` is not looked for.
    pub directories: Vec<PathBuf>,
    /// Proxies for everything but loopback.
    pub proxies: Proxies,
    /// When to give up.
    pub retry: Retry,
}

/// How one host is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostConfig {
    /// Speak plain http.
    pub http: bool,
    /// Take any certificate, and plain http where there is no TLS.
    pub insecure: bool,
    /// PEM files of certificates that are trusted for this host, beside the system's.
    pub ca: Vec<PathBuf>,
    /// Certificates of ours to show to it.
    pub identities: Vec<Identity>,
    /// Hosts that are asked before this one, in order: `HOST`, `HOST/PATH`, or either as a URL.
    pub mirrors: Vec<String>,
}

/// A client certificate and its key, PEM files both; they may be one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The certificate, its issuers behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
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
    /// Longest silence of a server. One that was silent twice is given up.
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

/// Whom to trust on a connection, and who we are there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Trust {
    /// PEM files of further authorities.
    pub ca: Vec<PathBuf>,
    /// Certificates of ours.
    pub identities: Vec<Identity>,
    /// Whether any certificate will do.
    pub anybody: bool,
}

/// One place where the repositories of a host may be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host with port, as it is connected to.
    pub authority: String,
    /// What stands before `/REPOSITORY/…`: `/v2` for most.
    pub path: String,
    /// Host with port, as people write it: what credentials are kept under.
    pub host: String,
    /// For a mirror: the host that it stands for, which is told to it (`?ns=`) as containerd does.
    pub mirror_of: Option<String>,
    /// Whom to trust there.
    pub trust: Trust,
    /// Sent with every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What may be asked there.
    pub serves: Serves,
}

/// What a place may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Serves {
    /// What a tag points at.
    pub tags: bool,
    /// Manifests and blobs by digest.
    pub blobs: bool,
    /// Writing.
    pub pushes: bool,
}

impl Serves {
    /// Everything.
    pub const ALL: Serves = Serves { tags: true, blobs: true, pushes: true };
    /// Everything but writing: a mirror.
    pub const READS: Serves = Serves { pushes: false, ..Serves::ALL };
}

impl RegistryConfig {
    /// Where to ask for repositories of `host`, best first: its mirrors, then itself. A place whose scheme is a guess appears
    /// twice in a row: a loopback host with plain http first, an insecure one with https first. Reads files.
    ///
    /// # Errors
    /// `RegistryError::BadHosts` for a file of the directories that cannot be understood.
    pub(super) fn endpoints(&self, host: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let Some(config) = self.hosts.get(host) else {
            return Ok(match hosts::find(&self.directories, host)? {
                Some(endpoints) => endpoints,
                None => self.endpoints_of(host),
            });
        };
        let mirror = |place: &String| {
            let mut endpoints = self.endpoints_of(place);
            for endpoint in &mut endpoints {
                endpoint.mirror_of = Some(host.to_owned());
                endpoint.serves = Serves::READS;
            }
            endpoints
        };
        Ok(config.mirrors.iter().flat_map(mirror).chain(self.endpoints_of(host)).collect())
    }

    /// `HOST[/PATH]`, or a URL.
    fn endpoints_of(&self, place: &str) -> Vec<Endpoint> {
        let place = place.trim_end_matches('/');
        let (scheme, bare) = match place.split_once("://") {
            Some(("http", bare)) => (Some("http"), bare),
            Some((_, bare)) => (Some("https"), bare),
            None => (None, place),
        };
        let (host, path) = bare.split_once('/').map_or((bare, ""), |(host, path)| (host, path));
        let path =
            if path.is_empty() || path == "v2" { "/v2".to_owned() } else { format!("/v2/{}", path.trim_start_matches("v2/")) };
        let config = self.hosts.get(host).cloned().unwrap_or_default();
        let secured = !config.ca.is_empty() || !config.identities.is_empty();
        let schemes: &[&str] = match scheme {
            Some("http") => &["http"],
            Some(_) => &["https"],
            None if config.http => &["http"],
            None if config.insecure => &["https", "http"],
            None if is_loopback(host) && !secured => &["http", "https"],
            None => &["https"],
        };
        let trust = Trust { ca: config.ca, identities: config.identities, anybody: config.insecure };
        let endpoint = |scheme: &&'static str| Endpoint {
            scheme,
            authority: real_authority(host).to_owned(),
            path: path.clone(),
            host: host.to_owned(),
            mirror_of: None,
            trust: trust.clone(),
            headers: Vec::new(),
            serves: Serves::ALL,
        };
        schemes.iter().map(endpoint).collect()
    }

    /// Whom to trust at `authority`, under its real name or the one people write.
    pub(super) fn trust(&self, authority: &str) -> Trust {
        let named = self.hosts.iter().find(|(host, _)| real_authority(host) == authority);
        named.map(|(_, config)| config.clone()).map_or_else(Trust::default, |config| Trust {
            ca: config.ca,
            identities: config.identities,
            anybody: config.insecure,
        })
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
pub(super) fn real_authority(host: &str) -> &str {
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
        let found: Vec<String> = config
            .endpoints(host)
            .expect("no files")
            .iter()
            .map(|endpoint| format!("{}://{}{}", endpoint.scheme, endpoint.authority, endpoint.path))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hosts_are_reached_over_https_except_on_loopback() {
        let config = RegistryConfig::default();
        check(&config, "quay.io", &["https://quay.io/v2"]);
        check(&config, "docker.io", &["https://registry-1.docker.io/v2"]);
        check(&config, "127.8.0.1:5000", &["http://127.8.0.1:5000/v2", "https://127.8.0.1:5000/v2"]);
        check(&config, "[::1]:5000", &["http://[::1]:5000/v2", "https://[::1]:5000/v2"]);
        check(&config, "localhost", &["http://localhost/v2", "https://localhost/v2"]);
        check(&config, "127.example.com", &["https://127.example.com/v2"]);
    }

    #[test]
    fn mirrors_come_first_with_their_own_settings() {
        let mut config = RegistryConfig::default();
        let mirrors = vec![
            "127.0.0.1:1".to_owned(),
            "http://plain.example/".to_owned(),
            "m.example".to_owned(),
            "harbor.example/hub".to_owned(),
        ];
        config.hosts.insert("docker.io".into(), HostConfig { mirrors, ..HostConfig::default() });
        config.hosts.insert("m.example".into(), HostConfig { http: true, ..HostConfig::default() });
        let expected = [
            "http://127.0.0.1:1/v2",
            "https://127.0.0.1:1/v2",
            "http://plain.example/v2",
            "http://m.example/v2",
            "https://harbor.example/v2/hub",
            "https://registry-1.docker.io/v2",
        ];
        check(&config, "docker.io", &expected);
    }

    #[test]
    fn an_insecure_host_may_speak_plain_http() {
        let mut config = RegistryConfig::default();
        config.hosts.insert("h".into(), HostConfig { insecure: true, ..HostConfig::default() });
        check(&config, "h", &["https://h/v2", "http://h/v2"]);
        assert!(config.endpoints("h").expect("no files")[0].trust.anybody);
        config.hosts.insert("127.0.0.1:1".into(), HostConfig { ca: vec!["ca".into()], ..HostConfig::default() });
        check(&config, "127.0.0.1:1", &["https://127.0.0.1:1/v2"]);
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
