//! The time of the source that `SOURCE_DATE_EPOCH` names: when a commit was made, when a server says that a file changed, else
//! the newest file of an archive.

use std::fs::File;

use super::build::Build;
use super::inputs::Inputs;
use super::{BuildError, NamedContextSource, report};
use crate::digest::Digest;
use crate::dockerfile::Dockerfile;
use crate::graph::{GitOp, HttpOp};
use crate::layer::archive::{self, EntryKind};
use crate::plan::{self, Epoch, EpochSource, Options};
use crate::snapshot::{FileKind, FileTree, SnapshotError, TreePath};
use crate::source::{SourceError, git, http};
use crate::store::Store;
use crate::task;
use crate::worker::Credentials;

impl Build {
    /// Puts the time of the source that `SOURCE_DATE_EPOCH` names in its place, for all platforms. Nothing is asked if it names
    /// none.
    pub(super) async fn settle_epoch(
        &self,
        dockerfile: &Dockerfile,
        inputs: &Inputs,
        variants: &mut [Options],
    ) -> Result<(), BuildError> {
        let Epoch::Of(source) = plan::epoch(dockerfile, &variants[0]) else { return Ok(()) };
        let seconds = match source {
            EpochSource::Context(name) => self.context_time(&name, inputs).await?,
            EpochSource::Http(op) => self.download_time(op).await?,
            EpochSource::Git(op) => self.commit_time(op).await?,
            EpochSource::Image => None,
        };
        variants.iter_mut().for_each(|options| options.settle_epoch(seconds));
        Ok(())
    }

    async fn context_time(&self, name: &str, inputs: &Inputs) -> Result<Option<i64>, BuildError> {
        if let Some(seconds) = self.times.get(name) {
            return Ok(Some(*seconds));
        }
        if name == "context" {
            if !inputs.is_archive {
                return Ok(None);
            }
            let context = inputs.contexts["context"].clone();
            let newest = task::blocking(move || newest_file(&*context, &TreePath::root())).await;
            return newest.map_err(|error| report::environment_error(&error));
        }
        let named = self.request.named_contexts.iter().find(|(known, _)| known == name);
        let Some((_, NamedContextSource::Remote(url))) = named else { return Ok(None) };
        match self.names.urls.get(url) {
            Some(digest) => Ok(self.archive_time(*digest).await),
            None => Ok(None),
        }
    }

    async fn download_time(&self, op: HttpOp) -> Result<Option<i64>, BuildError> {
        let checksum = op.checksum.or_else(|| self.lock.url(&op.url));
        let auth = Credentials(&self.request.secrets).http(&op.url);
        let fetching = http::fetch(&self.store, &self.client, &op.url, checksum, auth.as_ref());
        let file = self.unless_canceled(async { fetching.await.map_err(|error| failed(&error)) }).await?;
        match file.last_modified_secs {
            Some(seconds) => Ok(Some(seconds)),
            None => Ok(self.archive_time(file.digest).await),
        }
    }

    async fn commit_time(&self, op: GitOp) -> Result<Option<i64>, BuildError> {
        let op = self.lock.pin_tree(op);
        let access = Credentials(&self.request.secrets).git(&op.remote, self.request.default_agent(), self.request.proxies());
        let checking_out = async {
            let commit = git::resolve(&op, &access).await.map_err(|error| failed(&error))?;
            git::checkout(&self.store, &op, &commit, &access).await.map_err(|error| failed(&error))
        };
        Ok(self.unless_canceled(checking_out).await?.committed_secs)
    }

    async fn archive_time(&self, digest: Digest) -> Option<i64> {
        let store = self.store.clone();
        task::blocking(move || newest_entry(&store, digest)).await
    }
}

fn failed(error: &SourceError) -> BuildError {
    let mut failed = report::source_error(error);
    for diagnostic in &mut failed.diagnostics {
        diagnostic.notes.insert(0, "SOURCE_DATE_EPOCH is to be its time".to_owned());
    }
    failed
}

/// The time of the newest regular file below a directory.
fn newest_file(tree: &dyn FileTree, directory: &TreePath) -> Result<Option<i64>, SnapshotError> {
    let mut newest = None;
    for (name, meta) in tree.read_dir(directory)? {
        newest = newest.max(match meta.kind {
            FileKind::Directory => newest_file(tree, &directory.child(&name))?,
            FileKind::File => Some(meta.mtime.seconds),
            _ => None,
        });
    }
    Ok(newest)
}

/// The time of the newest regular file of an archive; what cannot be read as one has none.
fn newest_entry(store: &Store, digest: Digest) -> Option<i64> {
    let mut reader = archive::open(File::open(store.blob_path(&digest)).ok()?).ok()??;
    let mut newest = None;
    while let Some(entry) = reader.next_entry().ok()? {
        if entry.kind == EntryKind::File {
            newest = newest.max(Some(entry.mtime.seconds));
        }
    }
    newest
}
