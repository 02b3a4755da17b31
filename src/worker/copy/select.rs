//! Which files below a source directory are copied.

use rayon::prelude::*;

use super::glob::{Excludes, Fit, PathPattern};
use crate::snapshot::{FileKind, FileTree, Meta, SnapshotError, TreePath, Xattrs};

/// What to take from below a directory.
pub struct Selection<'a> {
    /// Only what this pattern matches, with all below it; everything if there is none.
    pub include: Option<&'a PathPattern>,
    /// What not to take.
    pub excludes: &'a Excludes,
}

/// A file that is copied.
pub struct Selected {
    /// Its path below the source directory.
    pub path: TreePath,
    /// What it is.
    pub meta: Meta,
    /// Those of its xattrs that a copy carries.
    pub xattrs: Xattrs,
    /// Why it is here.
    pub reason: Reason,
}

/// Why a file was selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It was asked for.
    Chosen,
    /// A directory, for the sake of something below it.
    OnTheWay,
}

/// The only xattr that BuildKit's layers keep.
const CARRIED_XATTR: &[u8] = b"security.capability";

/// Everything selected below the directory `root`, depth first, names in byte order; sockets are in no layer.
pub fn select(tree: &dyn FileTree, root: &TreePath, selection: &Selection<'_>) -> Result<Vec<Selected>, SnapshotError> {
    walk(tree, root, selection, &TreePath::root())
}

/// The xattrs of a file that go with it.
pub fn carried_xattrs(tree: &dyn FileTree, path: &TreePath) -> Result<Xattrs, SnapshotError> {
    Ok(tree.xattrs(path)?.into_iter().filter(|(name, _)| name == CARRIED_XATTR).collect())
}

/// One directory; those in it are walked in parallel. Paths are bounded by the kernel, so is the depth.
fn walk(
    tree: &dyn FileTree,
    root: &TreePath,
    selection: &Selection<'_>,
    directory: &TreePath,
) -> Result<Vec<Selected>, SnapshotError> {
    let entries: Vec<(TreePath, Meta, Reason)> = tree
        .read_dir(&root.join(directory))?
        .into_iter()
        .filter(|(_, meta)| meta.kind != FileKind::Socket)
        .filter_map(|(name, meta)| {
            let path = directory.child(&name);
            let reason = selection.reason(&path, &meta)?;
            Some((path, meta, reason))
        })
        .collect();
    let visit = |(path, meta, reason): (TreePath, Meta, Reason)| -> Result<Vec<Selected>, SnapshotError> {
        let below = match meta.kind {
            FileKind::Directory => walk(tree, root, selection, &path)?,
            _ => Vec::new(),
        };
        if reason == Reason::OnTheWay && below.is_empty() {
            return Ok(below);
        }
        let xattrs = carried_xattrs(tree, &root.join(&path))?;
        let mut selected = vec![Selected { path, meta, xattrs, reason }];
        selected.extend(below);
        Ok(selected)
    };
    if entries.iter().filter(|(_, meta, _)| meta.kind == FileKind::Directory).count() < 2 {
        let parts = entries.into_iter().map(visit).collect::<Result<Vec<_>, _>>()?;
        return Ok(parts.into_iter().flatten().collect());
    }
    let parts = entries.into_par_iter().map(visit).collect::<Result<Vec<_>, _>>()?;
    Ok(parts.into_iter().flatten().collect())
}

impl Selection<'_> {
    /// Why to take or enter `path`; `None` to leave it with all below it.
    fn reason(&self, path: &TreePath, meta: &Meta) -> Option<Reason> {
        let enter = || (meta.kind == FileKind::Directory).then_some(Reason::OnTheWay);
        let included = match self.include.map_or(Fit::Whole, |pattern| pattern.fit(path.as_bytes())) {
            Fit::Whole => Some(Reason::Chosen),
            Fit::Start => enter(),
            Fit::None => None,
        }?;
        match self.excludes.fit(path.as_bytes()) {
            Fit::None => Some(included),
            Fit::Start => enter(),
            Fit::Whole => None,
        }
    }
}
