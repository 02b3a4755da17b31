//! Secrets and ssh agents of the client's that steps and fetches may use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::agent::{AgentSocket, Behind};
use super::keyring::{KeyError, Keyring};
use crate::source::git::GitAccess;
use crate::source::http::HttpAuth;
use crate::store::{Store, TempDir};

/// `--secret id=ID,src=FILE` or `env=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// Where its value is read, when a step asks.
    pub source: SecretSource,
    /// `cache-key=`.
    pub in_key: InKey,
}

/// Whether a secret's value takes part in the keys of the steps that mount it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InKey {
    /// As in BuildKit: another value runs nothing again.
    No,
    /// By a keyed digest: one without a key could be guessed by whoever reads an exported cache.
    Digest,
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// Taken from the client's environment already.
    Value(Vec<u8>),
}

impl Secret {
    /// The value.
    ///
    /// # Errors
    /// Those of reading its file.
    pub fn value(&self) -> io::Result<Vec<u8>> {
        match &self.source {
            SecretSource::Value(value) => Ok(value.clone()),
            SecretSource::File(path) => std::fs::read(path),
        }
    }
}

/// `--ssh ID=SOCKET` or `ID=KEY[,KEY]`: an agent that steps may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAgent {
    /// Its name; `default` for a mount without one.
    pub id: String,
    /// Who answers.
    pub source: AgentSource,
}

/// Who answers for an [`SshAgent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSource {
    /// The agent that listens on this socket.
    Socket(PathBuf),
    /// An agent of our own, with the keys of these files.
    Keys(Vec<PathBuf>),
}

impl SshAgent {
    /// Where it listens; `None` for keys that nobody serves yet.
    pub fn socket(&self) -> Option<&Path> {
        match &self.source {
            AgentSource::Socket(path) => Some(path),
            AgentSource::Keys(_) => None,
        }
    }
}

/// The agents of a build that serve keys given as files; they stop when this is dropped.
#[derive(Default)]
pub struct KeyAgents {
    _served: Vec<(AgentSocket, TempDir)>,
}

impl KeyAgents {
    /// Serves the keys among `agents`, which have sockets then.
    ///
    /// # Errors
    /// A file that is not there or holds no key that can be used; the making of a socket.
    pub fn serve(agents: &mut [SshAgent], store: &Store) -> Result<KeyAgents, KeyError> {
        let mut served = Vec::new();
        for agent in agents {
            let AgentSource::Keys(paths) = &agent.source else { continue };
            let keys = Arc::new(Keyring::read(paths)?);
            let directory = store.temp_dir()?;
            let socket = AgentSocket::open(&directory.path, Behind::Keys(keys), (0, 0), 0o600).map_err(KeyError::Socket)?;
            agent.source = AgentSource::Socket(socket.address());
            served.push((socket, directory));
        }
        Ok(KeyAgents { _served: served })
    }
}

/// Secrets that fetches use, by BuildKit's names.
pub struct Credentials<'a>(pub &'a [Secret]);

impl Credentials<'_> {
    /// What a web server at `url` is shown: `HTTP_AUTH_HEADER_<host>` before `HTTP_AUTH_TOKEN_<host>`.
    pub fn http(&self, url: &str) -> Option<HttpAuth> {
        let host = host_of(url)?;
        let header = self.text(&format!("HTTP_AUTH_HEADER_{host}")).map(HttpAuth::Header);
        header.or_else(|| self.text(&format!("HTTP_AUTH_TOKEN_{host}")).map(HttpAuth::Token))
    }

    /// What a git server at `remote` is shown: the secret with its host's name before the one for all.
    pub fn git(&self, remote: &str, ssh_agent: Option<PathBuf>, proxy_env: Vec<(String, String)>) -> GitAccess {
        let host = host_of(remote).unwrap_or_default();
        let find = |name: &str| self.text(&format!("{name}.{host}")).or_else(|| self.text(name));
        GitAccess { token: find("GIT_AUTH_TOKEN"), header: find("GIT_AUTH_HEADER"), ssh_agent, proxy_env, ..GitAccess::default() }
    }

    fn text(&self, id: &str) -> Option<String> {
        let secret = self.0.iter().find(|secret| secret.id == id)?;
        let value = secret.value().ok()?;
        Some(String::from_utf8_lossy(&value).trim().to_owned())
    }
}

/// The host of a URL, without user and port.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    Some(host.split(':').next().unwrap_or(host)).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_belongs_to_its_host() {
        let secret = |id: &str| Secret { id: id.into(), source: SecretSource::Value(b" word\n".to_vec()), in_key: InKey::No };
        let secrets = [secret("HTTP_AUTH_TOKEN_example.com"), secret("GIT_AUTH_TOKEN")];
        let credentials = Credentials(&secrets);
        assert!(matches!(credentials.http("https://example.com:8443/a"), Some(HttpAuth::Token(token)) if token == "word"));
        assert!(credentials.http("https://example.org/example.com").is_none());
        assert_eq!(credentials.git("https://example.org/x.git", None, Vec::new()).token.as_deref(), Some("word"));
    }
}
