//! What an output of plain files consists of: the image's files, and the statements about them.
//!
//! Source of the names and places: moby/buildkit, `docs/attestations/attestation-storage.md`; its local and tar exporters.

use std::collections::BTreeMap;
use std::io;

use super::attestation::{Subject, known_blobs, statement_file};
use super::tree::{self, Part};
use super::{Built, BuiltImage, ExportError, Form};
use crate::digest::HashingReader;
use crate::snapshot::{FileTree, SnapshotError};
use crate::store::Store;

/// How plain files are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// `platform-split=`: whether files of each platform have a directory of their own; `None` where there is an index.
    pub split: Option<bool>,
    /// `attestation-prefix=`: what the names of statements begin with.
    pub prefix: String,
    /// `mode=`.
    pub stale: Stale,
}

/// What becomes of files in the destination that the image does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stale {
    /// They stay.
    #[default]
    Keep,
    /// They are deleted, after all others are written.
    Delete,
}

/// The files of all images, each below a directory of its platform's name where they are kept apart. Statements have the time
/// `now_secs` (seconds since 1970) unless the build has one of its own.
pub(super) fn parts(store: &Store, built: &Built, options: &FileOptions, now_secs: i64) -> Result<Vec<Part>, ExportError> {
    let split = options.split.unwrap_or(built.form == Form::Index);
    let part = |image: &BuiltImage| {
        let platform = image.draft.config.platform().to_string();
        let directory = platform.replace('/', "_");
        let mut part = Part {
            directory: split.then(|| directory.clone()),
            platform,
            view: tree::view(store, image)?,
            statements: BTreeMap::new(),
            statements_secs: built.epoch.unwrap_or(now_secs),
        };
        let together = (built.form == Form::Index && !split).then_some(directory);
        part.statements = statements(image, &part.view, &options.prefix, together.as_deref())?;
        Ok(part)
    };
    let parts = built.images.iter().map(part).collect::<Result<Vec<_>, ExportError>>()?;
    if !split && parts.len() > 1 {
        tree::refuse_clashes(&parts)?;
    }
    Ok(parts)
}

/// The statements about an image's regular files, by the names of their own files; `platform` is part of these where files of
/// several platforms lie together.
fn statements(
    image: &BuiltImage,
    tree: &dyn FileTree,
    prefix: &str,
    platform: Option<&str>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, ExportError> {
    let mut files = BTreeMap::new();
    if image.claims.is_empty() {
        return Ok(files);
    }
    let (subjects, blobs) = (subjects(tree)?, known_blobs(image));
    for claim in &image.claims {
        let mut name = format!("{prefix}{}", claim.file_name);
        if let Some(platform) = platform {
            let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
            name = format!("{stem}.{platform}{}{extension}", if extension.is_empty() { "" } else { "." });
        }
        if files.insert(name.clone().into_bytes(), statement_file(claim, &blobs, &subjects)).is_some() {
            return Err(ExportError::SameStatement { name });
        }
    }
    Ok(files)
}

/// Every name of every regular file, in the order of a walk.
fn subjects(tree: &dyn FileTree) -> Result<Vec<Subject>, ExportError> {
    let mut subjects = Vec::new();
    for found in tree::regular_files(tree) {
        let path = found?;
        let failed = |source| SnapshotError::io("read", &path, source);
        let mut reader = HashingReader::new(tree.open(&path)?);
        io::copy(&mut reader, &mut io::sink()).map_err(failed)?;
        subjects.push(Subject::new(String::from_utf8_lossy(path.as_bytes()).into_owned(), reader.finish().1));
    }
    Ok(subjects)
}
