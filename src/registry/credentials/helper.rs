//! Programs that keep credentials: `docker-credential-NAME`, spoken to in JSON over standard input and output.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{Credential, CredentialError, Secret};

/// A user of this name stands for an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper says that has nothing (docker/docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A helper that a file of credentials names.
pub(super) struct Helper<'a> {
    program: String,
    named_by: &'a Path,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl<'a> Helper<'a> {
    /// `docker-credential-SUFFIX`, as the search path finds it.
    pub fn new(suffix: &str, named_by: &'a Path) -> Helper<'a> {
        Helper { program: format!("docker-credential-{suffix}"), named_by }
    }

    /// What it keeps for `server`.
    pub fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        let answer = match self.run("get", server)? {
            Answer::Good(answer) => answer,
            Answer::Bad(words) if words.contains(NOT_FOUND) => return Ok(None),
            Answer::Bad(words) => return Err(self.failed(words)),
        };
        // an answer holds the secret, so none of it is told
        let kept: Kept =
            serde_json::from_slice(&answer).map_err(|_| self.failed("its answer is not the JSON of one".to_owned()))?;
        let secret = if kept.username == TOKEN_USER { Secret::IdentityToken(kept.secret) } else { Secret::Password(kept.secret) };
        Ok(Some(Credential { username: kept.username, secret, origin: self.program.clone() }))
    }

    /// Gives it a credential to keep.
    pub fn store(&self, server: &str, credential: &Credential) -> Result<(), CredentialError> {
        let (username, secret) = match &credential.secret {
            Secret::Password(secret) => (credential.username.clone(), secret.clone()),
            Secret::IdentityToken(secret) | Secret::RegistryToken(secret) => (TOKEN_USER.to_owned(), secret.clone()),
        };
        let kept = Kept { server_url: server.to_owned(), username, secret };
        let input = serde_json::to_string(&kept).map_err(|error| self.failed(error.to_string()))?;
        match self.run("store", &input)? {
            Answer::Good(_) => Ok(()),
            Answer::Bad(words) => Err(self.failed(words)),
        }
    }

    /// Makes it forget; whether it knew something. A helper that has nothing for `server` may call that a failure.
    pub fn erase(&self, server: &str) -> Result<bool, CredentialError> {
        if self.get(server)?.is_none() {
            return Ok(false);
        }
        match self.run("erase", server)? {
            Answer::Good(_) => Ok(true),
            Answer::Bad(words) => Err(self.failed(words)),
        }
    }

    fn run(&self, action: &str, input: &str) -> Result<Answer, CredentialError> {
        let mut command = Command::new(&self.program);
        command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.failed("it is not installed".to_owned()),
            _ => self.failed(error.to_string()),
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // one that does not read is judged by its answer
            let _lost = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| self.failed(error.to_string()))?;
        if output.status.success() {
            return Ok(Answer::Good(output.stdout));
        }
        let words = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        let words = words.trim().lines().next().unwrap_or_default().to_owned();
        Ok(Answer::Bad(if words.is_empty() { output.status.to_string() } else { words }))
    }

    fn failed(&self, reason: String) -> CredentialError {
        CredentialError::Helper { program: self.program.clone(), path: self.named_by.to_owned(), reason }
    }
}

enum Answer {
    Good(Vec<u8>),
    /// Its first words.
    Bad(String),
}
