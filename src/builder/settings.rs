//! `config.toml`: what holds for all builds of a machine or a user.
//!
//! The keys below `[registry."HOST"]` are those of `buildkitd.toml`. A user's file comes before the machine's: what both say
//! of one host or setting is the user's alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{BuildError, ErrorKind};
use crate::diagnostic::{Diagnostic, Source, Span, with_causes};
use crate::layer::LayerLimits;
use crate::registry::{HostConfig, Identity, Proxies, RegistryConfig};

/// The machine's file and directory of hosts.
const SYSTEM: &str = "/etc/croze";
/// Other tools' directories of hosts.
const OTHERS: [&str; 3] = ["/etc/containerd/certs.d", "/etc/docker/certs.d", "/etc/containers/certs.d"];

/// What the files say, and the proxies of `client_env`.
#[derive(Debug, Default)]
pub struct Settings {
    /// How registries and the web are reached.
    pub registry: RegistryConfig,
    /// How much a layer of a base image may hold.
    pub limits: LayerLimits,
}

/// Reads the files; `client_env` says where they are.
///
/// # Errors
/// `Usage`, at the place in the file.
pub fn read(client_env: &[(String, String)]) -> Result<Settings, BuildError> {
    let get = |name: &str| {
        let value = client_env.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        value.filter(|value| !value.is_empty())
    };
    let home = get("HOME").map(|home| Path::new(&home).join(".config"));
    let own = get("XDG_CONFIG_HOME").map(PathBuf::from).or(home).map(|directory| directory.join("croze"));
    let places: Vec<PathBuf> = own.into_iter().chain([PathBuf::from(SYSTEM)]).collect();
    let none = get("no_proxy").map(|hosts| hosts.split(',').map(|host| host.trim().to_owned()).collect()).unwrap_or_default();
    let registry = RegistryConfig {
        proxies: Proxies { http: get("http_proxy"), https: get("https_proxy"), none },
        directories: places.iter().map(|place| place.join("certs.d")).chain(OTHERS.map(PathBuf::from)).collect(),
        ..RegistryConfig::default()
    };
    let mut settings = Settings { registry, limits: LayerLimits::default() };
    for place in places.iter().rev() {
        let path = place.join("config.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => apply(&mut settings, &path, text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot read `{}`", path.display());
                return Err(usage(Diagnostic::error_without_place("bad-config", message).note(with_causes(&error))));
            }
        }
    }
    Ok(settings)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    registry: BTreeMap<String, Host>,
    network: Network,
    layer: Layer,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Host {
    mirrors: Vec<String>,
    http: bool,
    insecure: bool,
    ca: OneOrMore,
    keypair: Vec<KeyPair>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPair {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Network {
    attempts: Option<std::num::NonZeroU32>,
    timeout_secs: Option<std::num::NonZeroU32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Layer {
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a file, or a list of files")]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl Default for OneOrMore {
    fn default() -> OneOrMore {
        OneOrMore::More(Vec::new())
    }
}

fn apply(settings: &mut Settings, path: &Path, text: String) -> Result<(), BuildError> {
    let file: File = match toml::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            let source = Source::new(path.display().to_string(), text);
            let span = error.span().unwrap_or(0..0);
            return Err(usage(Diagnostic::error("bad-config", error.message(), &source, Span::new(span.start, span.end))));
        }
    };
    let Settings { registry: config, limits } = settings;
    let directory = path.parent().unwrap_or(Path::new("/"));
    for (host, Host { mirrors, http, insecure, ca, keypair }) in file.registry {
        let ca = match ca {
            OneOrMore::One(path) => vec![path],
            OneOrMore::More(paths) => paths,
        };
        let identity = |pair: KeyPair| Identity { certificate: directory.join(pair.cert), key: directory.join(pair.key) };
        let host_config = HostConfig {
            http,
            insecure,
            ca: ca.into_iter().map(|path| directory.join(path)).collect(),
            identities: keypair.into_iter().map(identity).collect(),
            mirrors,
        };
        let host = if host == "index.docker.io" { "docker.io".to_owned() } else { host };
        config.hosts.insert(host, host_config);
    }
    if let Some(attempts) = file.network.attempts {
        config.retry.attempts = attempts.get();
    }
    if let Some(seconds) = file.network.timeout_secs {
        config.retry.stall = Duration::from_secs(u64::from(seconds.get()));
    }
    limits.entries = file.layer.max_entries.unwrap_or(limits.entries);
    limits.bytes = file.layer.max_bytes.unwrap_or(limits.bytes);
    Ok(())
}

fn usage(diagnostic: Diagnostic) -> BuildError {
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Settings, BuildError> {
        let space = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(space.path().join("croze")).expect("writable");
        std::fs::write(space.path().join("croze/config.toml"), text).expect("writable");
        let directory = space.path().to_str().expect("text").to_owned();
        read(&[("XDG_CONFIG_HOME".to_owned(), directory), ("https_proxy".to_owned(), "http://p".to_owned())])
    }

    #[test]
    fn keys_are_those_of_buildkitd() {
        let config = config(
            r#"
            [registry."docker.io"]
            mirrors = ["mirror.example", "127.0.0.1:5000"]
            [registry."r.example:5000"]
            ca = ["ca.pem", "/etc/other.pem"]
            [[registry."r.example:5000".keypair]]
            cert = "c.pem"
            key = "k.pem"
            [registry.plain]
            http = true
            [network]
            attempts = 2
            timeout_secs = 7
            [layer]
            max_entries = 9
            "#,
        );
        let Settings { registry: config, limits } = config.expect("well formed");
        assert_eq!(limits, LayerLimits { entries: 9, ..LayerLimits::default() });
        assert_eq!(config.hosts["docker.io"].mirrors, ["mirror.example", "127.0.0.1:5000"]);
        let host = &config.hosts["r.example:5000"];
        assert!(host.ca[0].ends_with("croze/ca.pem") && host.ca[1] == Path::new("/etc/other.pem"));
        assert!(host.identities[0].key.ends_with("croze/k.pem"));
        assert!(config.hosts["plain"].http);
        assert_eq!((config.retry.attempts, config.retry.stall), (2, Duration::from_secs(7)));
        assert_eq!(config.proxies.https.as_deref(), Some("http://p"));
    }

    #[track_caller]
    fn refused(text: &str, expected: &str, word: &str) {
        let error = config(text).expect_err(text);
        let diagnostic = &error.diagnostics[0];
        assert!(diagnostic.message.contains(expected), "{}", diagnostic.message);
        let (source, span) = diagnostic.place.as_ref().expect("it has a place");
        assert_eq!(source.text().get(span.range()), Some(word));
    }

    #[test]
    fn mistakes_are_pointed_at() {
        refused("[registry.\"x\"]\nmirors = []\n", "unknown field `mirors`", "mirors");
        refused("[registry.\"x\"]\nhttp = 1\n", "expected a boolean", "1");
        refused("[registries]\n", "unknown field `registries`", "registries");
        refused("[network]\nattempts = 0\n", "expected a nonzero", "0");
    }
}
