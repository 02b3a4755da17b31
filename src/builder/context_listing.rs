//! What a context holds, what its ignore file drops, and what costs most.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::inputs::{checked_directory, ignore_patterns};
use super::{BuildError, report};
use crate::dockerfile::ignore::{DirState, Patterns};
use crate::snapshot::{DirTree, FileKind, FileTree, SnapshotError, TreePath};

/// A context, added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextListing {
    /// The directory.
    pub context: PathBuf,
    /// What the ignore file is called; `None` without one.
    pub ignore_file: Option<String>,
    /// What a build is offered.
    pub offered: Sum,
    /// What the ignore file drops.
    pub ignored: Sum,
    /// Folders and files at the top: those first that offer most, then those that drop most.
    pub entries: Vec<TopEntry>,
    /// The largest files that are offered, at most [`LARGEST`].
    pub largest: Vec<LargeFile>,
    /// The patterns that drop something, the one that drops most first.
    pub ignored_by: Vec<PatternSum>,
}

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Sum {
    /// Bytes of regular files.
    pub bytes: u64,
    /// Everything but directories.
    pub files: u64,
}

/// What is at the top of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopEntry {
    /// Its name; a folder's ends with a slash.
    pub path: String,
    /// What of it is offered.
    pub offered: Sum,
    /// What of it is dropped.
    pub ignored: Sum,
}

/// A file that is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LargeFile {
    /// Its path.
    #[serde(serialize_with = "as_text")]
    pub path: TreePath,
    /// Its size.
    pub bytes: u64,
}

/// What one pattern drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatternSum {
    /// Such as `.dockerignore:3: *.md`.
    pub pattern: String,
    /// What it drops.
    #[serde(flatten)]
    pub dropped: Sum,
}

/// So many of the largest files are told.
pub const LARGEST: usize = 20;

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.bytes += other.bytes;
        self.files += other.files;
    }
}

/// Adds up the context in `directory`, as a build with this Dockerfile (`CONTEXT/Dockerfile` if none is named) would see it.
/// Blocks.
///
/// # Errors
/// It is no directory, or cannot be read; a pattern of the ignore file is none.
pub fn list(directory: &Path, dockerfile: Option<&Path>) -> Result<ContextListing, BuildError> {
    let root = checked_directory(directory)?;
    let beside = dockerfile.map_or_else(|| root.join("Dockerfile"), Path::to_owned);
    let patterns = ignore_patterns(&root, Some(&beside))?;
    let failed = |error: SnapshotError| report::environment_error(&error);
    let tree = DirTree::open(&root).map_err(failed)?;
    let mut walk = Walk { tree: &tree, patterns: patterns.as_deref(), largest: Vec::new(), dropped: BTreeMap::new() };
    let mut listing = ContextListing {
        context: root,
        ignore_file: patterns.as_ref().and_then(|patterns| patterns.file_name()).map(str::to_owned),
        offered: Sum::default(),
        ignored: Sum::default(),
        entries: Vec::new(),
        largest: Vec::new(),
        ignored_by: Vec::new(),
    };
    let state = patterns.as_ref().map(|patterns: &Arc<Patterns>| patterns.root());
    for (name, meta) in tree.read_dir(&TreePath::root()).map_err(failed)? {
        let slash = if meta.kind == FileKind::Directory { "/" } else { "" };
        let mut entry = TopEntry {
            path: format!("{}{slash}", String::from_utf8_lossy(&name)),
            offered: Sum::default(),
            ignored: Sum::default(),
        };
        walk.add(&TreePath::root().child(&name), (meta.kind, meta.size_bytes), state.as_ref(), &mut entry).map_err(failed)?;
        listing.offered += entry.offered;
        listing.ignored += entry.ignored;
        listing.entries.push(entry);
    }
    listing.entries.sort_by(|one, other| (other.offered, other.ignored, &one.path).cmp(&(one.offered, one.ignored, &other.path)));
    walk.keep_largest();
    listing.largest = walk.largest;
    listing.ignored_by = walk.dropped.into_iter().map(|(pattern, dropped)| PatternSum { pattern, dropped }).collect();
    listing.ignored_by.sort_by_key(|pattern| std::cmp::Reverse(pattern.dropped));
    Ok(listing)
}

struct Walk<'a> {
    tree: &'a DirTree,
    patterns: Option<&'a Patterns>,
    largest: Vec<LargeFile>,
    /// By pattern.
    dropped: BTreeMap<String, Sum>,
}

impl Walk<'_> {
    /// Adds `path`, an entry of the directory that `state` speaks of, and all below it.
    fn add(
        &mut self,
        path: &TreePath,
        (kind, size_bytes): (FileKind, u64),
        state: Option<&DirState>,
        sums: &mut TopEntry,
    ) -> Result<(), SnapshotError> {
        let name = path.file_name().unwrap_or_default();
        let verdict = self.patterns.zip(state).map(|(patterns, state)| state.enter(patterns, name));
        if kind == FileKind::Directory {
            for (name, meta) in self.tree.read_dir(path)? {
                let below = verdict.as_ref().map(|verdict| &verdict.below);
                self.add(&path.child(&name), (meta.kind, meta.size_bytes), below, sums)?;
            }
            return Ok(());
        }
        let bytes = if kind == FileKind::File { size_bytes } else { 0 };
        let sum = Sum { bytes, files: 1 };
        if verdict.is_some_and(|verdict| verdict.ignored) {
            sums.ignored += sum;
            let pattern = self.patterns.and_then(|patterns| patterns.ignored_by(path.as_bytes())).unwrap_or_default();
            *self.dropped.entry(pattern).or_default() += sum;
        } else {
            sums.offered += sum;
            self.largest.push(LargeFile { path: path.clone(), bytes });
            if self.largest.len() >= 64 * LARGEST {
                self.keep_largest();
            }
        }
        Ok(())
    }

    fn keep_largest(&mut self) {
        self.largest.sort_by(|one, other| (other.bytes, &one.path).cmp(&(one.bytes, &other.path)));
        self.largest.truncate(LARGEST);
    }
}

fn as_text<S: Serializer>(path: &TreePath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(path.as_bytes()))
}
