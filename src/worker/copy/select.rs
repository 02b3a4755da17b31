//! Which files below a source directory are copied.

use rayon::prelude::*;

use crate::dockerfile::ignore::{DirState, Patterns};
use crate::snapshot::{FileKind, FileTree, Meta, SnapshotError, TreePath, Xattrs};

/// What to take from below a directory. Paths are matched from that directory on.
pub struct Selection<'a> {
    /// Only what these patterns match, with all below it; everything if there are none.
    pub include: Option<&'a Patterns>,
    /// What not to take.
    pub excludes: &'a Patterns,
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
pub(super) const CARRIED_XATTR: &[u8] = b"security.capability";

/// Everything selected below the directory `root`, depth first, names in byte order; in pieces, since large trees are not worth
/// putting together.
pub fn select(tree: &dyn FileTree, root: &TreePath, selection: &Selection<'_>) -> Result<Vec<Vec<Selected>>, SnapshotError> {
    walk(tree, root, selection, &TreePath::root(), &selection.start())
}

/// The xattrs of a file that go with it.
pub fn carried_xattrs(tree: &dyn FileTree, path: &TreePath) -> Result<Xattrs, SnapshotError> {
    Ok(tree.xattrs(path)?.into_iter().filter(|(name, _)| name == CARRIED_XATTR).collect())
}

/// What is known about a directory's entries before their names are seen.
struct Known {
    include: Option<DirState>,
    excludes: DirState,
}

/// One directory; those in it are walked in parallel. Paths are bounded by the kernel, so is the depth.
fn walk(
    tree: &dyn FileTree,
    root: &TreePath,
    selection: &Selection<'_>,
    directory: &TreePath,
    known: &Known,
) -> Result<Vec<Vec<Selected>>, SnapshotError> {
    let entries: Vec<(TreePath, Meta, Reason, Known)> = tree
        .read_dir(&root.join(directory))?
        .into_iter()
        .filter_map(|(name, meta)| {
            let (reason, below) = selection.judge(known, &name, &meta)?;
            Some((directory.child(&name), meta, reason, below))
        })
        .collect();
    let visit = |(path, meta, reason, known): (TreePath, Meta, Reason, Known)| -> Result<_, SnapshotError> {
        let below = match meta.kind {
            FileKind::Directory => walk(tree, root, selection, &path, &known)?,
            _ => Vec::new(),
        };
        if reason == Reason::OnTheWay && below.is_empty() {
            return Ok((None, below));
        }
        let xattrs = carried_xattrs(tree, &root.join(&path))?;
        Ok((Some(Selected { path, meta, xattrs, reason }), below))
    };
    let directories = entries.iter().filter(|(_, meta, ..)| meta.kind == FileKind::Directory).count();
    let mut pieces = Vec::with_capacity(2 * directories + 1);
    let mut piece = Vec::with_capacity(if directories == 0 { entries.len() } else { 0 });
    let mut put = |(selected, below): (Option<Selected>, Vec<Vec<Selected>>)| {
        piece.extend(selected);
        if !below.is_empty() {
            pieces.push(std::mem::take(&mut piece));
            pieces.extend(below);
        }
    };
    if directories < 2 {
        entries.into_iter().try_for_each(|entry| visit(entry).map(&mut put))?;
    } else {
        entries.into_par_iter().map(visit).collect::<Result<Vec<_>, _>>()?.into_iter().for_each(put);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    Ok(pieces)
}

impl Selection<'_> {
    fn start(&self) -> Known {
        Known { include: self.include.map(Patterns::root), excludes: self.excludes.root() }
    }

    /// Why to take or enter the entry `name`, and what is known below it; `None` to leave it with all below it.
    fn judge(&self, known: &Known, name: &[u8], meta: &Meta) -> Option<(Reason, Known)> {
        let include = self.include.zip(known.include.as_ref()).map(|(patterns, state)| (patterns, state.enter(patterns, name)));
        let excludes = known.excludes.enter(self.excludes, name);
        let included = include.as_ref().is_none_or(|(_, entry)| entry.ignored);
        let may_have_some = match &include {
            Some((patterns, entry)) => entry.below.may_match(patterns),
            None => true,
        };
        let may_be_kept = !excludes.ignored || excludes.below.may_contain_exceptions(self.excludes);
        let below = Known { include: include.map(|(_, entry)| entry.below), excludes: excludes.below };
        if included && !excludes.ignored {
            return Some((Reason::Chosen, below));
        }
        (meta.kind == FileKind::Directory && may_have_some && may_be_kept).then_some((Reason::OnTheWay, below))
    }
}
