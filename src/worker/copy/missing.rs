//! Sources that are not there: found before anything runs, and told with what may have been meant.

use super::plan::split_at_pivot;
use super::{CopyError, TreeInput};
use crate::diagnostic::nearest;
use crate::dockerfile::has_wildcards;
use crate::graph::{CopyOp, CopySource};
use crate::snapshot::{FileTree, Last, SnapshotError, TreePath, resolve};

/// The plain paths among the sources of `op` that do not exist, all of them, in order; `tree` gives the inputs that can be
/// looked at already. Patterns with wildcards may match nothing.
///
/// Trees that cannot be read are left to the copy itself.
pub fn missing_sources<'a>(op: &CopyOp, tree: impl Fn(usize) -> Option<TreeInput<'a>>) -> Vec<CopyError> {
    let missing = |(number, source): (usize, &CopySource)| {
        let CopySource::Path { input, pattern } = source else { return None };
        let tree = tree(*input)?;
        let (path, last) = plain_path(pattern.as_bytes(), op.parents)?;
        match resolve(tree.tree, &path, last) {
            Ok(found) if found.meta.is_some() => None,
            Ok(_) | Err(SnapshotError::NotADirectory { .. }) => Some(missing_error(tree, &path, number)),
            Err(_) => None,
        }
    };
    op.sources.iter().enumerate().filter_map(missing).collect()
}

/// What a source without wildcards names, and whether a link at its end is followed.
fn plain_path(pattern: &[u8], parents: bool) -> Option<(TreePath, Last)> {
    if pattern.split(|byte| *byte == b'/').any(has_wildcards) {
        return None;
    }
    if !parents {
        return Some((TreePath::clean(pattern), Last::Follow));
    }
    let (pivot, below) = split_at_pivot(pattern);
    Some((TreePath::clean(&pivot).join(&TreePath::clean(&below)), Last::Keep))
}

/// The error for a path that is not there.
pub(super) fn missing_error(source: TreeInput<'_>, path: &TreePath, source_number: usize) -> CopyError {
    let hidden_by = source.hidden.and_then(|hidden_by| hidden_by(path));
    let nearest = if hidden_by.is_none() { near(source.tree, path) } else { None };
    CopyError::Missing { source_number, path: path.clone(), nearest, hidden_by }
}

/// The path with its first missing name replaced by the nearest one in that directory.
fn near(tree: &dyn FileTree, path: &TreePath) -> Option<TreePath> {
    let mut here = TreePath::root();
    let mut names = path.components();
    let slip = loop {
        let name = names.next()?;
        let next = resolve(tree, &here.child(name), Last::Follow).ok()?;
        if next.meta.is_none() {
            break name;
        }
        here = next.path;
    };
    let entries = tree.read_dir(&here).ok()?;
    let entries: Vec<String> = entries.into_iter().map(|(name, _)| String::from_utf8_lossy(&name).into_owned()).collect();
    let name = nearest(&String::from_utf8_lossy(slip), entries.iter().map(String::as_str))?;
    let mended = names.fold(here.child(name.as_bytes()), |path, name| path.child(name));
    let exists = resolve(tree, &mended, Last::Follow).is_ok_and(|found| found.meta.is_some());
    exists.then_some(mended)
}
