//! Directories with one directory per registry host: containerd's `hosts.toml`, Docker's and the containers tools'
//! certificates.
//!
//! Sources: containerd, `docs/hosts.md`; docker/docs, "Verify repository client with certificates"; containers/image,
//! `docs/containers-certs.d.5.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::config::{Endpoint, Identity, Serves, Trust, is_loopback, real_authority};
use super::error::RegistryError;

/// Where repositories of `host` may be asked for, as the first of `directories` that knows it says; `None` if none does.
pub(super) fn find(directories: &[PathBuf], host: &str) -> Result<Option<Vec<Endpoint>>, RegistryError> {
    // containerd's spellings: a colon may stand in no file name of Windows
    let escaped = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    for directory in directories {
        for name in [Some(host), escaped.as_deref(), Some("_default")].into_iter().flatten() {
            let place = directory.join(name);
            if let Some(endpoints) = read(&place, host)? {
                return Ok(Some(endpoints));
            }
        }
    }
    Ok(None)
}

/// What one host's directory says; `None` if there is none, or nothing in it.
fn read(directory: &Path, host: &str) -> Result<Option<Vec<Endpoint>>, RegistryError> {
    let path = directory.join("hosts.toml");
    match fs::read_to_string(&path) {
        Ok(text) => return parse(&text, host, directory).map(Some).map_err(|reason| RegistryError::BadHosts { path, reason }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // `_default` or the host is a file, or the directory is not for us
        Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied) => return Ok(None),
        Err(error) => return Err(RegistryError::BadHosts { path, reason: error.to_string() }),
    }
    let trust = certificates(directory)?;
    Ok((trust != Trust::default()).then(|| vec![endpoint("https", host, trust)]))
}

/// Docker's: every `*.crt` is an authority, every `*.cert` ours, with its key in `*.key`.
fn certificates(directory: &Path) -> Result<Trust, RegistryError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(Trust::default()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut trust = Trust::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => trust.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    let reason = format!("it has no key beside it in `{}`", key.display());
                    return Err(RegistryError::BadCertificates { path, reason });
                }
                trust.identities.push(Identity { certificate: path, key });
            }
            _ => {}
        }
    }
    Ok(trust)
}

fn endpoint(scheme: &'static str, host: &str, trust: Trust) -> Endpoint {
    Endpoint {
        scheme,
        authority: real_authority(host).to_owned(),
        path: "/v2".to_owned(),
        host: host.to_owned(),
        mirror_of: None,
        trust,
        headers: Vec::new(),
        serves: Serves::ALL,
    }
}

#[derive(Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(flatten)]
    own: Place,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Place>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Place {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    skip_verify: bool,
    header: BTreeMap<String, OneOrMore>,
    override_path: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// `"both.pem"`, `["both.pem"]`, or `[["certificate.pem", "key.pem"]]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    More(Vec<OneOrMore>),
}

impl OneOrMore {
    fn list(&self) -> Vec<&str> {
        match self {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts.iter().map(String::as_str).collect(),
        }
    }
}

fn parse(text: &str, host: &str, directory: &Path) -> Result<Vec<Endpoint>, String> {
    let file: HostsFile = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    // the order in the file is the order of asking
    let mut places: Vec<(&Spanned<String>, &Place)> = file.host.iter().collect();
    places.sort_by_key(|(name, _)| name.span().start);
    let mut endpoints = Vec::new();
    for (name, place) in places {
        endpoints.extend(place.endpoints(name.as_ref(), host, directory)?);
    }
    let server = file.server.as_deref().unwrap_or(host);
    endpoints.extend(file.own.endpoints(server, host, directory)?);
    Ok(endpoints)
}

impl Place {
    fn endpoints(&self, place: &str, host: &str, directory: &Path) -> Result<Vec<Endpoint>, String> {
        let (scheme, bare) = match place.split_once("://") {
            Some(("http", bare)) => (Some("http"), bare),
            Some(("https", bare)) => (Some("https"), bare),
            Some((other, _)) => return Err(format!("`{other}://` of `{place}` is neither http nor https")),
            None => (None, place),
        };
        let bare = bare.trim_end_matches('/');
        let (name, path) = bare.find('/').map_or((bare, ""), |slash| bare.split_at(slash));
        let path = match path {
            path if self.override_path => path.to_owned(),
            path if path.ends_with("/v2") => path.to_owned(),
            path => format!("{path}/v2"),
        };
        let written = if real_authority(host) == name { host } else { name };
        let schemes: &[&'static str] = match scheme {
            Some("http") => &["http"],
            Some(_) => &["https"],
            None if is_loopback(name) && self.ca.is_none() && self.client.is_none() => &["http", "https"],
            None => &["https"],
        };
        let trust = Trust { ca: self.ca(directory), identities: self.identities(directory)?, anybody: self.skip_verify };
        let endpoint = |scheme: &&'static str| -> Result<Endpoint, String> {
            Ok(Endpoint {
                path: path.clone(),
                mirror_of: (written != host).then(|| host.to_owned()),
                headers: self.headers()?,
                serves: self.serves()?,
                ..endpoint(scheme, written, trust.clone())
            })
        };
        schemes.iter().map(endpoint).collect()
    }

    fn serves(&self) -> Result<Serves, String> {
        let Some(words) = &self.capabilities else { return Ok(Serves::ALL) };
        let mut serves = Serves { tags: false, blobs: false, pushes: false };
        for word in words {
            match word.as_str() {
                "pull" => serves.blobs = true,
                "resolve" => serves.tags = true,
                "push" => serves.pushes = true,
                "referrers" => {}
                other => return Err(format!("unknown capability `{other}`; there are `pull`, `resolve`, `push`")),
            }
        }
        Ok(serves)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = Vec::new();
        for (name, values) in &self.header {
            for value in values.list() {
                let pair = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
                // a header may be a secret
                headers.push(pair.ok_or_else(|| format!("`{name}` is no header that can be sent"))?);
            }
        }
        Ok(headers)
    }

    fn ca(&self, directory: &Path) -> Vec<PathBuf> {
        self.ca.iter().flat_map(OneOrMore::list).map(|path| directory.join(path)).collect()
    }

    fn identities(&self, directory: &Path) -> Result<Vec<Identity>, String> {
        let identity = |paths: &[&str]| match paths {
            [both] => Ok(Identity { certificate: directory.join(both), key: directory.join(both) }),
            [certificate, key] => Ok(Identity { certificate: directory.join(certificate), key: directory.join(key) }),
            _ => Err("`client` is a file, or a list of pairs of certificate and key".to_owned()),
        };
        match &self.client {
            None => Ok(Vec::new()),
            Some(Clients::One(both)) => Ok(vec![identity(&[both])?]),
            Some(Clients::More(entries)) => entries.iter().map(|entry| identity(&entry.list())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(text: &str, host: &str) -> Vec<Endpoint> {
        parse(text, host, Path::new("/d")).expect(text)
    }

    fn urls(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|endpoint| format!("{}://{}{}", endpoint.scheme, endpoint.authority, endpoint.path)).collect()
    }

    #[test]
    fn places_are_asked_in_the_order_of_the_file() {
        let endpoints = parsed(
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
            capabilities = ["pull", "resolve"]
            ca = ["ca.pem", "/abs.pem"]
            client = [["c.pem", "k.pem"]]
            [host."http://a.example/proxy"]
            [host."https://b.example/exact/path"]
            override_path = true
            skip_verify = true
            [host."https://b.example/exact/path".header]
            x-key = ["one"]
            "#,
            "docker.io",
        );
        assert_eq!(
            urls(&endpoints),
            [
                "https://z.example/v2",
                "http://a.example/proxy/v2",
                "https://b.example/exact/path",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert_eq!(endpoints[0].serves, Serves::READS);
        assert_eq!(endpoints[0].trust.ca, [PathBuf::from("/d/ca.pem"), PathBuf::from("/abs.pem")]);
        assert_eq!(endpoints[0].trust.identities[0].key, PathBuf::from("/d/k.pem"));
        assert_eq!(endpoints[0].mirror_of.as_deref(), Some("docker.io"));
        assert!(endpoints[2].trust.anybody && endpoints[2].headers.len() == 1);
        assert_eq!((endpoints[3].host.as_str(), &endpoints[3].mirror_of), ("docker.io", &None));
    }

    #[test]
    fn a_file_without_a_server_ends_with_the_host() {
        assert_eq!(urls(&parsed("", "h:5000")), ["https://h:5000/v2"]);
        assert_eq!(
            urls(&parsed("skip_verify = true\n", "127.0.0.1:5000")),
            ["http://127.0.0.1:5000/v2", "https://127.0.0.1:5000/v2"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("server = 1", "line 1"),
            ("[host.\"ftp://x\"]", "neither http nor https"),
            ("[host.\"https://x\"]\ncapabilities = [\"pul\"]", "unknown capability `pul`"),
            ("client = [[\"a\", \"b\", \"c\"]]", "pairs"),
        ] {
            let error = parse(text, "h", Path::new("/d")).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_first_directory_that_knows_a_host_counts() {
        let space = tempfile::tempdir().expect("a directory");
        let (first, second) = (space.path().join("first"), space.path().join("second"));
        let put = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().expect("has one")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        put(second.join("h_5000_/hosts.toml"), "server = \"http://plain:1\"");
        put(second.join("docker.example/ca.crt"), "");
        put(second.join("docker.example/me.cert"), "");
        let directories = [first.clone(), second.clone()];
        let found = |host| find(&directories, host);
        assert_eq!(urls(&found("h:5000").expect("read").expect("there")), ["http://plain:1/v2"]);
        assert!(found("other").expect("read").is_none());
        assert!(matches!(found("docker.example"), Err(RegistryError::BadCertificates { .. })));
        put(second.join("docker.example/me.key"), "");
        let endpoints = found("docker.example").expect("read").expect("there");
        assert_eq!((endpoints[0].trust.ca.len(), endpoints[0].trust.identities.len()), (1, 1));
        put(first.join("_default/hosts.toml"), "server = \"https://default\"");
        assert_eq!(urls(&found("other").expect("read").expect("there")), ["https://default/v2"]);
    }
}
