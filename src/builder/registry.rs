//! What is done with registries outside builds: log-ins, and images that are only fetched or sent.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::settings::Settings;
use super::{BuildError, disk, images, report, settings};
use crate::digest::Digest;
use crate::export::{self, PushBy, Pushed, Whereabouts};
use crate::image::Descriptor;
use crate::reference::{ImageRef, Platform};
use crate::registry::{Client, Credential, Keyring, RegistryConfig, Secret};
use crate::source::image::{self, AnsweredBy, PullPolicy};
use crate::store::Store;
use crate::task;

pub use crate::registry::Kept;

/// A client with the credentials that files and variables of `client_env` name.
pub(super) fn client(config: RegistryConfig, client_env: &[(String, String)]) -> Client {
    Client::new(config, Arc::new(keyring(client_env)))
}

/// Keeps user and password for `host` once the registry has accepted them.
///
/// # Errors
/// `Source` where it does not; `Environment` where they cannot be kept.
pub async fn log_in(client_env: &[(String, String)], host: &str, user: String, password: String) -> Result<Kept, BuildError> {
    let credential = Credential { username: user, secret: Secret::Password(password), origin: "the command line".to_owned() };
    client(settings::read(client_env)?.registry, client_env)
        .log_in(host, &credential)
        .await
        .map_err(|error| report::registry_error(&error))?;
    keyring(client_env).log_in(host, &credential).map_err(|error| report::environment_error(&error))
}

/// Forgets the credentials for `host`; says whether there were any.
///
/// # Errors
/// `Environment` where a place for credentials cannot be read or written.
pub fn log_out(client_env: &[(String, String)], host: &str) -> Result<bool, BuildError> {
    keyring(client_env).log_out(host).map_err(|error| report::environment_error(&error))
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest for the platform.
    pub manifest: Digest,
    /// Digest of its config: the image's ID.
    pub config: Digest,
    /// What it is for.
    pub platform: Platform,
    /// Whether anything of it had to be fetched.
    pub is_new: bool,
}

/// Fetches the image that `image_ref` names at its registry now, with all its layers, and names it in the store.
///
/// # Errors
/// `Source` where the registry does not give it; `Environment` if the store fails.
pub async fn pull(
    store: &Store,
    client_env: Vec<(String, String)>,
    image_ref: &ImageRef,
    platform: &Platform,
    now: SystemTime,
) -> Result<Pulled, BuildError> {
    let Settings { registry, limits } = settings::read(&client_env)?;
    let client = client(registry, &client_env);
    let now_secs = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let failed = |error: crate::source::SourceError| disk::with_store(report::source_error(&error), store.root());
    let before = store.has_written();
    let found = image::resolve(store, &client, image_ref, platform, PullPolicy::Always, now_secs).await.map_err(failed)?;
    image::ensure_layers(store, &client, &found, Some(image_ref), limits).await.map_err(failed)?;
    let is_new = store.has_written() && !before && !matches!(found.answered_by, AnsweredBy::Store { .. });
    Ok(Pulled { manifest: found.manifest.digest, config: found.config_digest, platform: found.config.platform(), is_new })
}

/// Sends the images that the store has under `names`, each under its name.
///
/// # Errors
/// `Usage` for a name that the store does not have; `Source` where a registry does not take an image.
pub async fn push(store: &Store, client_env: Vec<(String, String)>, names: &[ImageRef]) -> Result<Vec<Pushed>, BuildError> {
    let client = client(settings::read(&client_env)?.registry, &client_env);
    let mut pushed = Vec::new();
    for name in names {
        let (store_too, wanted) = (store.clone(), name.clone());
        let root = task::blocking(move || {
            let record = images::record(&store_too, &wanted)?;
            let root = Descriptor::new(&record.media_type, record.manifest, record.size_bytes);
            export::publishable(&store_too, &root, &Platform::host()).map_err(|error| report::export_error(&error))
        });
        let root = root.await?;
        let names = std::slice::from_ref(name);
        let done = export::push(store, &client, &root, names, PushBy::Tag, Whereabouts::default()).await;
        pushed.push(done.map_err(|error| report::export_error(&error))?);
    }
    Ok(pushed)
}

fn keyring(client_env: &[(String, String)]) -> Keyring {
    Keyring::new(|name| client_env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}
