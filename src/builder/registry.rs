//! What is done with registries outside builds: log-ins, and images that are only fetched or sent.

use std::sync::Arc;

use super::{BuildError, report, settings};
use crate::registry::{Client, Credential, Keyring, Secret};

pub use crate::registry::Kept;

/// The client for the files and variables of `client_env`.
pub(super) fn client(client_env: &[(String, String)]) -> Result<Client, BuildError> {
    Ok(Client::new(settings::registry_config(client_env)?, Arc::new(keyring(client_env))))
}

/// Keeps user and password for `host` once the registry has accepted them.
///
/// # Errors
/// `Source` where it does not; `Environment` where they cannot be kept.
pub async fn log_in(client_env: &[(String, String)], host: &str, user: String, password: String) -> Result<Kept, BuildError> {
    let credential = Credential { username: user, secret: Secret::Password(password), origin: "the command line".to_owned() };
    client(client_env)?.log_in(host, &credential).await.map_err(|error| report::registry_error(&error))?;
    keyring(client_env).log_in(host, &credential).map_err(|error| report::environment_error(&error))
}

/// Forgets the credentials for `host`; says whether there were any.
///
/// # Errors
/// `Environment` where a place for credentials cannot be read or written.
pub fn log_out(client_env: &[(String, String)], host: &str) -> Result<bool, BuildError> {
    keyring(client_env).log_out(host).map_err(|error| report::environment_error(&error))
}

fn keyring(client_env: &[(String, String)]) -> Keyring {
    Keyring::new(|name| client_env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}
