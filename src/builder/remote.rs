//! Contexts that are not on this machine: git trees and downloads, fetched before anything is read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use super::lock::{self, Lock, Locking};
use super::{BuildError, BuildRequest, ContextSource, ErrorKind, NamedContextSource, report};
use crate::diagnostic::Diagnostic;
use crate::graph::Op;
use crate::plan::{SourceKind, classify};
use crate::registry::Client;
use crate::source::git::{self, Checkout};
use crate::source::http;
use crate::store::Store;
use crate::worker::Credentials;

/// Git trees that contexts are, by context name (`context` is the main one).
pub type Checkouts = HashMap<String, Checkout>;

/// What the names of git trees stood for: remote and reference to commit.
pub type Commits = BTreeMap<(String, String), String>;

/// Fetches what the request names by URL. A downloaded main context becomes a stream: an archive or a Dockerfile.
pub async fn fetch(
    store: &Store,
    client: &Client,
    request: &mut BuildRequest,
    lock: &Lock,
) -> Result<(Checkouts, Commits), BuildError> {
    let mut checkouts = Checkouts::new();
    let mut commits = Commits::new();
    let mut streamed = None;
    if let ContextSource::Remote(text) = &request.context {
        match fetch_one(store, client, text, request, lock).await? {
            Fetched::Checkout(checkout, _) => {
                checkouts.insert("context".to_owned(), checkout);
            }
            Fetched::File(file) => streamed = Some(file),
        }
    }
    if let Some(file) = streamed {
        request.context = ContextSource::Stream(Box::new(file));
    }
    for (name, source) in &request.named_contexts {
        if let NamedContextSource::Remote(text) = source {
            if request.locking == Locking::Require && !is_pinned(text, lock) {
                let diagnostics = vec![lock::unpinned_context(name, text)];
                return Err(BuildError { kind: ErrorKind::Policy, diagnostics });
            }
            match fetch_one(store, client, text, request, lock).await? {
                Fetched::Checkout(checkout, key) => {
                    commits.insert(key, checkout.commit.clone());
                    checkouts.insert(name.clone(), checkout);
                }
                Fetched::File(_) => return Err(bad(text, "a named context from a URL must be a git repository")),
            }
        }
    }
    Ok((checkouts, commits))
}

/// Whether a git reference says by itself, or by the lock file, which commit it means.
fn is_pinned(text: &str, lock: &Lock) -> bool {
    match classify(text) {
        Ok(SourceKind::Git(reference)) => lock::is_pinned(&lock.pin(Op::Git(reference.into_op()))),
        // no tree, which is told when it is fetched
        _ => true,
    }
}

enum Fetched {
    /// With its remote and reference.
    Checkout(Checkout, (String, String)),
    File(File),
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
            let file = http::fetch(store, client, text, None, auth.as_ref()).await.map_err(failed)?;
            let path = store.blob_path(&file.digest);
            let opened = File::open(&path).map_err(|source| crate::store::StoreError::Io { action: "open", path, source });
            opened.map(Fetched::File).map_err(|error| report::store_error(&error))
        }
        SourceKind::Path => Err(bad(text, "it is neither a directory nor a URL that can be fetched")),
    }
}

fn bad(text: &str, reason: &str) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("bad-context", format!("context `{text}` cannot be used: {reason}"));
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}
