//! What a copy leaves as it is: names that the tree copied into has just so. BuildKit's layers hold only what differs, so a
//! `COPY . .` behind a `COPY package.json .` does not bring that file again.
//!
//! BuildKit brings it if its time differs. Here times do not count: those of a cached layer are as old as it is, and a build after
//! others must give the bytes that one from nothing gives.

use std::collections::HashSet;

use super::TreeInput;
use super::layout::{Data, Layout, Node, NodeContent};
use super::select::{CARRIED_XATTR, carried_xattrs};
use crate::digest::Digest;
use crate::snapshot::{FileKind, Meta, SnapshotError, TreePath, Xattrs};

/// Marks what `parent` has just as the layout would put it there. A directory counts if everything in it does.
///
/// Nothing does if there are archives: what they hold is not known yet. Nor does a file with several names.
pub(super) fn leave_out(layout: &mut Layout, parent: TreeInput<'_>) -> Result<(), SnapshotError> {
    let same = same_in(parent, layout)?;
    if same.is_empty() {
        return Ok(());
    }
    let mut holders = HashSet::new();
    for (path, node) in layout.nodes.iter_mut().rev() {
        node.is_left_out = same.contains(path) && !holders.contains(path);
        if !node.is_left_out {
            holders.insert(path.parent());
        }
    }
    Ok(())
}

/// The names at which `parent` has the same, whatever is in the directories among them.
fn same_in(parent: TreeInput<'_>, layout: &Layout) -> Result<HashSet<TreePath>, SnapshotError> {
    let mut same = HashSet::new();
    if !layout.archives.is_empty() {
        return Ok(same);
    }
    let mut files: Vec<(TreePath, Meta)> = Vec::new();
    let mut wanted: Vec<Digest> = Vec::new();
    for (path, node) in layout.nodes.iter().filter(|(_, node)| !node.fresh) {
        let Some(there) = parent.tree.lookup(path)? else { continue };
        if !looks_the_same(node, &there) || carried_xattrs(parent.tree, path)? != capability(node) {
            continue;
        }
        let is_same = match &node.content {
            NodeContent::Directory | NodeContent::Special(_) => true,
            NodeContent::Symlink(target) => parent.tree.read_link(path)? == *target,
            NodeContent::File(Data::Tree { meta, digest: Some(digest), .. }) => {
                if meta.links <= 1 && meta.size_bytes == there.size_bytes {
                    files.push((path.clone(), there));
                    wanted.push(*digest);
                }
                false
            }
            NodeContent::File(_) => false,
        };
        if is_same {
            same.insert(path.clone());
        }
    }
    let asked: Vec<(&TreePath, &Meta)> = files.iter().map(|(path, meta)| (path, meta)).collect();
    let found = parent.digests.digests(&asked)?;
    let pairs = files.into_iter().zip(wanted.into_iter().zip(found));
    same.extend(pairs.filter(|(_, (wanted, found))| wanted == found).map(|((path, _), _)| path));
    Ok(same)
}

fn looks_the_same(node: &Node, there: &Meta) -> bool {
    let has_mode = there.kind == FileKind::Symlink || there.mode == node.mode;
    there.kind == node.kind() && has_mode && (there.uid, there.gid) == (node.owner.uid, node.owner.gid)
}

fn capability(node: &Node) -> Xattrs {
    node.xattrs.iter().filter(|(name, _)| name == CARRIED_XATTR).cloned().collect()
}
