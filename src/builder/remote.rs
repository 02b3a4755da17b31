//! Contexts that are not on this machine: git trees and downloads, fetched before anything is read.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::lock::{self, Lock, Locking};
use super::{BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind, NamedContextSource, report};
use crate::diagnostic::Diagnostic;
use crate::graph::Op;
use crate::plan::{SourceKind, classify};
use crate::registry::Client;
use crate::source::git::{self, Checkout};
use crate::source::http::{self, HttpFile};
use crate::store::{Store, StoreError, TempDir};
use crate::task;
use crate::worker::{Credentials, Sources};

/// What was fetched.
#[derive(Default)]
pub struct Arrived {
    /// By context name (`context` is the main one).
    pub files: HashMap<String, Files>,
    /// What the names of named contexts stood for.
    pub names: Sources,
    /// When they changed last, as far as their servers say, by context name in seconds since 1970.
    pub times: HashMap<String, i64>,
    /// The digest of the main context, and its algorithm.
    pub main_digest: Option<(&'static str, String)>,
}

/// The files of a context that came from elsewhere.
pub enum Files {
    /// A git tree.
    Checkout(Checkout),
    /// A download, as the one file of a directory.
    Download(TempDir),
}

/// Fetches what the request names by URL. A downloaded main context becomes a stream: an archive or a Dockerfile; so does a
/// Dockerfile of its own.
pub async fn fetch(store: &Store, client: &Client, request: &mut BuildRequest, lock: &Lock) -> Result<Arrived, BuildError> {
    let mut arrived = Arrived::default();
    let mut streamed = None;
    if let ContextSource::Remote(text) = &request.context {
        match fetch_one(store, client, text, request, lock).await? {
            Fetched::Checkout(checkout, _) => {
                arrived.times.extend(checkout.committed_secs.map(|seconds| ("context".to_owned(), seconds)));
                arrived.main_digest = Some(("sha1", checkout.commit.clone()));
                arrived.files.insert("context".to_owned(), Files::Checkout(checkout));
            }
            Fetched::File(file) => {
                arrived.main_digest = Some(("sha256", file.digest.hex()));
                arrived.times.extend(file.last_modified_secs.map(|seconds| ("context".to_owned(), seconds)));
                streamed = Some(open(store, &file)?);
            }
        }
    }
    if let Some(file) = streamed {
        request.context = ContextSource::Stream(Box::new(file));
    }
    if let DockerfileSource::Url(text) = &request.dockerfile {
        let Fetched::File(file) = fetch_one(store, client, text, request, lock).await? else {
            return Err(bad(text, "a Dockerfile from a URL must be a file"));
        };
        request.dockerfile = DockerfileSource::Stream(Box::new(open(store, &file)?));
    }
    for (name, source) in &request.named_contexts {
        if let NamedContextSource::Remote(text) = source {
            if request.locking == Locking::Require && !is_pinned(text, lock) {
                let diagnostics = vec![lock::unpinned_context(name, text)];
                return Err(BuildError { kind: ErrorKind::Policy, diagnostics });
            }
            let files = match fetch_one(store, client, text, request, lock).await? {
                Fetched::Checkout(checkout, key) => {
                    arrived.times.extend(checkout.committed_secs.map(|seconds| (name.clone(), seconds)));
                    arrived.names.commits.insert(key, checkout.commit.clone());
                    Files::Checkout(checkout)
                }
                Fetched::File(file) => {
                    arrived.times.extend(file.last_modified_secs.map(|seconds| (name.clone(), seconds)));
                    arrived.names.urls.insert(text.clone(), file.digest);
                    let store = store.clone();
                    let placed = task::blocking(move || place(&store, &file)).await;
                    Files::Download(placed.map_err(|error| report::store_error(&error))?)
                }
            };
            arrived.files.insert(name.clone(), files);
        }
    }
    Ok(arrived)
}

/// Whether a name says by itself, or by the lock file, which bytes it means.
fn is_pinned(text: &str, lock: &Lock) -> bool {
    match classify(text) {
        Ok(SourceKind::Git(reference)) => lock::is_pinned(&lock.pin(Op::Git(reference.into_op()))),
        Ok(SourceKind::Url { .. }) => lock.url(text).is_some(),
        // nothing that can be fetched, which is told when it is tried
        _ => true,
    }
}

enum Fetched {
    /// With its remote and reference.
    Checkout(Checkout, (String, String)),
    File(HttpFile),
}

fn open(store: &Store, file: &HttpFile) -> Result<File, BuildError> {
    let path = store.blob_path(&file.digest);
    File::open(&path).map_err(|source| report::store_error(&StoreError::Io { action: "open", path, source }))
}

/// A directory with the download in it. BuildKit calls the file `context`, whatever its URL.
fn place(store: &Store, file: &HttpFile) -> Result<TempDir, StoreError> {
    let directory = store.temp_dir()?;
    let path = directory.path.join("context");
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(file.last_modified_secs.unwrap_or(0).try_into().unwrap_or(0));
    let write = |path: &Path| {
        fs::copy(store.blob_path(&file.digest), path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        File::options().write(true).open(path)?.set_modified(changed)
    };
    write(&path).map_err(|source| StoreError::Io { action: "write", path: path.clone(), source })?;
    Ok(directory)
}

async fn fetch_one(
    store: &Store,
    client: &Client,
    text: &str,
    request: &BuildRequest,
    lock: &Lock,
) -> Result<Fetched, BuildError> {
    let failed = |error: crate::source::SourceError| {
        let mut failed = report::source_error(&error);
        for diagnostic in &mut failed.diagnostics {
            diagnostic.notes.insert(0, format!("needed for the context `{text}`"));
        }
        failed
    };
    match classify(text).map_err(|reason| bad(text, &reason))? {
        SourceKind::Git(reference) => {
            let op = reference.into_op();
            let key = (op.remote.clone(), op.reference.clone());
            let op = lock.pin_tree(op);
            let access = Credentials(&request.secrets).git(&op.remote, request.default_agent(), request.proxies());
            let commit = git::resolve(&op, &access).await.map_err(failed)?;
            Ok(Fetched::Checkout(git::checkout(store, &op, &commit, &access).await.map_err(failed)?, key))
        }
        SourceKind::Url { .. } => {
            let auth = Credentials(&request.secrets).http(text);
            let file = http::fetch(store, client, text, lock.url(text), auth.as_ref()).await.map_err(failed)?;
            Ok(Fetched::File(file))
        }
        SourceKind::Path => Err(bad(text, "it is neither a directory nor a URL that can be fetched")),
    }
}

fn bad(text: &str, reason: &str) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("bad-context", format!("context `{text}` cannot be used: {reason}"));
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}
