//! One file of credentials: `config.json` or `auth.json`, which share a format.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Credential, CredentialError, Secret};
use crate::base64;

/// The key that Docker keeps its own registry under.
const HUB: &str = "https://index.docker.io/v1/";

/// A file of credentials as it was read; what croze does not know in it stays as it is.
pub(super) struct AuthFile {
    pub path: PathBuf,
    /// How people are told of it.
    called: String,
    document: Map<String, Value>,
    known: Known,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthFile {
    /// Reads `path`; a file that is not there, or empty, has nothing. `home` shortens its name for people.
    pub fn read(path: &Path, home: Option<&Path>) -> Result<AuthFile, CredentialError> {
        let called = match home.and_then(|home| path.strip_prefix(home).ok()) {
            Some(below) => format!("~/{}", below.display()),
            None => path.display().to_string(),
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(CredentialError::Io { action: "read", path: path.to_owned(), source }),
        };
        let text = if bytes.trim_ascii().is_empty() { b"{}".as_slice() } else { &bytes };
        // serde's words may quote a value, so only the place is told
        let malformed = |error: serde_json::Error| CredentialError::Malformed {
            path: path.to_owned(),
            reason: format!("see line {}, column {}", error.line(), error.column()),
        };
        let document = serde_json::from_slice(text).map_err(malformed)?;
        let known = serde_json::from_slice(text).map_err(malformed)?;
        Ok(AuthFile { path: path.to_owned(), called, document, known })
    }

    /// What the file itself has for `repository` of `host`: the longest key that fits (`host/team/app`, `host/team`, `host`).
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        let mut place = format!("{host}/{repository}");
        loop {
            for key in self.known.auths.keys().filter(|key| place_of(key) == place) {
                if let Some(credential) = self.credential(key, &self.known.auths[key])? {
                    return Ok(Some(credential));
                }
            }
            match place.rfind('/') {
                Some(end) => place.truncate(end),
                None => return Ok(None),
            }
        }
    }

    /// The suffix of the helper that keeps the credentials of `host`, and the name that it keeps them under.
    pub fn helper(&self, host: &str) -> Option<(&str, String)> {
        let own = self.known.cred_helpers.iter().find(|(key, _)| place_of(key) == host);
        match own {
            Some((_, helper)) if helper.is_empty() => None,
            Some((key, helper)) => Some((helper, key.clone())),
            None if self.known.creds_store.is_empty() => None,
            None => Some((&self.known.creds_store, key_of(host))),
        }
    }

    /// Writes the file with `credential` for `host`; an empty entry where a helper keeps it, as Docker does.
    pub fn set(&mut self, host: &str, credential: Option<&Credential>) -> Result<(), CredentialError> {
        let entry = match credential.map(|credential| (&credential.username, &credential.secret)) {
            None => Map::new(),
            Some((name, Secret::Password(password))) => {
                Map::from_iter([("auth".to_owned(), base64::encode(format!("{name}:{password}").as_bytes()).into())])
            }
            Some((name, Secret::IdentityToken(token))) => Map::from_iter([
                ("auth".to_owned(), base64::encode(format!("{name}:").as_bytes()).into()),
                ("identitytoken".to_owned(), token.as_str().into()),
            ]),
            Some((_, Secret::RegistryToken(token))) => Map::from_iter([("registrytoken".to_owned(), token.as_str().into())]),
        };
        self.forget(host);
        let auths = self.document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(auths) = auths {
            auths.insert(key_of(host), Value::Object(entry));
        }
        self.write()
    }

    /// Takes out what the file has for `host` as a whole; says whether there was something.
    pub fn remove(&mut self, host: &str) -> Result<bool, CredentialError> {
        let removed = self.forget(host);
        if removed {
            self.write()?;
        }
        Ok(removed)
    }

    fn forget(&mut self, host: &str) -> bool {
        let Some(Value::Object(auths)) = self.document.get_mut("auths") else { return false };
        let before = auths.len();
        auths.retain(|key, _| place_of(key) != host);
        auths.len() < before
    }

    /// Replaces the file by one rename; nobody but the user may read it. A link to it stays.
    fn write(&self) -> Result<(), CredentialError> {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CredentialError::Io { action, path, source }
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create", directory))?;
        let mut text = Vec::new();
        let mut serializer =
            serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
        self.document.serialize(&mut serializer).map_err(|error| failed("write", &path)(error.into()))?;
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let _leftover = fs::remove_file(&draft);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        });
        if written.is_err() {
            // its own error is the one to tell
            let _leftover = fs::remove_file(&draft);
        }
        written.map_err(failed("write", &path))
    }

    fn credential(&self, key: &str, auth: &Auth) -> Result<Option<Credential>, CredentialError> {
        let malformed = || CredentialError::Malformed {
            path: self.path.clone(),
            reason: format!("`auth` of `{key}` is not USER:PASSWORD in base64"),
        };
        let (username, password) = if auth.auth.is_empty() {
            (auth.username.clone(), auth.password.clone())
        } else {
            let text = base64::decode(&auth.auth).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
            let (name, password) = text.split_once(':').ok_or_else(malformed)?;
            (name.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        let secret = if !auth.identitytoken.is_empty() {
            Secret::IdentityToken(auth.identitytoken.clone())
        } else if !auth.registrytoken.is_empty() {
            Secret::RegistryToken(auth.registrytoken.clone())
        } else if username.is_empty() && password.is_empty() {
            return Ok(None);
        } else {
            Secret::Password(password)
        };
        Ok(Some(Credential { username, secret, origin: self.called.clone() }))
    }
}

/// The key that `host` is kept under.
fn key_of(host: &str) -> String {
    if host == "docker.io" { HUB.to_owned() } else { host.to_owned() }
}

/// What a key stands for, as people write it: Docker writes URLs there, once with the path of its first API.
fn place_of(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let is_url = key.contains("://");
    let (host, path) = bare.split_once('/').map_or((bare, ""), |(host, path)| (host, path));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    if path.is_empty() || is_url || path == "v1" || path == "v2" { host.to_owned() } else { format!("{host}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, AuthFile) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        fs::write(&path, text).expect("writable");
        let file = AuthFile::read(&path, Some(directory.path())).expect("well formed");
        (directory, file)
    }

    #[track_caller]
    fn found(text: &str, host: &str, repository: &str, expected: Option<&str>) {
        let (_directory, file) = file(text);
        let found = file.find(host, repository).expect("well formed");
        assert_eq!(found.map(|credential| credential.username).as_deref(), expected, "{text}");
    }

    #[test]
    fn keys_stand_for_hosts_and_repositories() {
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"}}}"#;
        found(hub, "docker.io", "library/x", Some("me"));
        found(hub, "quay.io", "x", None);
        for key in ["docker.io", "index.docker.io", "registry-1.docker.io", "https://registry-1.docker.io/v2/"] {
            found(&hub.replace("https://index.docker.io/v1/", key), "docker.io", "library/x", Some("me"));
        }
        found(r#"{"auths":{"http://h:5000/v2/":{"username":"u","password":"p"}}}"#, "h:5000", "x", Some("u"));
        let nested = r#"{"auths":{"h":{"username":"host"},"h/team":{"username":"team"},"h/team/app":{"username":"app"}}}"#;
        found(nested, "h", "team/app", Some("app"));
        found(nested, "h", "team/other", Some("team"));
        found(nested, "h", "teams/other", Some("host"));
        found(r#"{"auths":{"h":{}}}"#, "h", "x", None);
        found("", "h", "x", None);
    }

    #[test]
    fn tokens_are_told_apart() {
        let (_directory, file) =
            file(r#"{"auths":{"a":{"auth":"bWU6","identitytoken":"i"},"b":{"registrytoken":"r"},"c":{"auth":"bWU6cDpxAAA="}}}"#);
        let secret = |host| file.find(host, "x").expect("well formed").expect("there").secret;
        assert_eq!(secret("a"), Secret::IdentityToken("i".into()));
        assert_eq!(secret("b"), Secret::RegistryToken("r".into()));
        assert_eq!(secret("c"), Secret::Password("p:q".into()), "padding of old writers is dropped");
        assert!(!format!("{:?}", file.find("a", "x")).contains("\"i\""));
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_content() {
        let (directory, file) = file(r#"{"auths":{"h":{"auth":"c2VjcmV0"}}}"#);
        let error = file.find("h", "x").expect_err("no colon").to_string();
        assert!(error.contains("`auth` of `h`") && !error.contains("secret"), "{error}");
        let path = directory.path().join("bad");
        fs::write(&path, "{\"auths\": {\"h\": \"s3cret\"}}").expect("writable");
        let error = AuthFile::read(&path, None).err().expect("malformed").to_string();
        assert!(error.contains("line 1, column") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn helpers_are_for_a_host_or_for_all() {
        let (_directory, file) = file(r#"{"credsStore":"all","credHelpers":{"https://gcr.io":"gcr","none.io":""}}"#);
        assert_eq!(file.helper("gcr.io"), Some(("gcr", "https://gcr.io".to_owned())));
        assert_eq!(file.helper("docker.io"), Some(("all", HUB.to_owned())));
        assert_eq!(file.helper("none.io"), None);
    }

    #[test]
    fn writing_keeps_the_rest_and_the_secret() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, mut file) = file(r#"{"currentContext":"x","auths":{"https://h/v1/":{"auth":"b2xkOm9sZA=="},"i":{}}}"#);
        let credential = Credential { username: "me".into(), secret: Secret::Password("secret".into()), origin: String::new() };
        file.set("h", Some(&credential)).expect("writable");
        let path = directory.path().join("config.json");
        let text = fs::read_to_string(&path).expect("there");
        assert_eq!(
            text,
            "{\n\t\"auths\": {\n\t\t\"h\": {\n\t\t\t\"auth\": \"bWU6c2VjcmV0\"\n\t\t},\n\t\t\"i\": {}\n\t},\n\t\"currentContext\": \"x\"\n}"
        );
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(AuthFile::read(&path, None).expect("well formed").remove("h").expect("writable"));
        assert!(!fs::read_to_string(&path).expect("there").contains("bWU6"));
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1, "no draft is left");
    }
}
