//! Where credentials are kept: Docker's `config.json`, the containers tools' `auth.json`, and the helpers that they name.
//!
//! Sources of the formats: docker/cli, `docs/reference/commandline/cli.md` ("Docker CLI configuration file") and `login.md`
//! ("Credential helpers"); containers/image, `docs/containers-auth.json.5.md`.

use std::fmt;
use std::path::PathBuf;

mod file;
mod helper;
mod keyring;

pub use keyring::{Kept, Keyring};

/// Where credentials come from; asked when a registry wants some. May block: it reads files and runs helpers.
pub trait Credentials: Send + Sync {
    /// Those for `repository` of `host`, which is written as people write it (`docker.io`, `registry.example.com:5000`).
    ///
    /// # Errors
    /// There is a place for them that cannot be read.
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>, CredentialError>;
}

/// A user and what proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// The user; empty where a token says it all.
    pub username: String,
    /// What proves it.
    pub secret: Secret,
    /// Where it was found, for messages: `~/.docker/config.json`.
    pub origin: String,
}

/// What proves who a user is. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Password or personal access token.
    Password(String),
    /// Exchanged for a token at the server that the registry names (OAuth's refresh token).
    IdentityToken(String),
    /// Shown to the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Password(_) => "Password(…)",
            Secret::IdentityToken(_) => "IdentityToken(…)",
            Secret::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

/// Has no credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn find(&self, _host: &str, _repository: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}

/// Why a place for credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is none of the known form.
    #[error("`{path}` is no file of credentials: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// In words; never a piece of the file.
        reason: String,
    },
    /// A helper that cannot be run or does not do its work.
    #[error("credential helper `{program}`, which `{path}` names, fails: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The file that names it.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// No variable says where the files are.
    #[error("no place for credentials: neither `HOME` nor `DOCKER_CONFIG` is set")]
    NoPlace,
}
