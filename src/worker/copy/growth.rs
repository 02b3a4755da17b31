//! How the layout of a copy grows by a whole directory.

use super::layout::{Layout, Node};
use crate::snapshot::{FileTree, Meta, SnapshotError, TreePath};

/// What a directory's copy adds to a layout. A walk brings its names in order, so that all of them are put in at once, and
/// below a directory that the tree copied into does not have nothing is looked up.
pub struct Growth {
    /// Whether the layout held nothing at the destination before.
    pub is_first: bool,
    /// A directory, walked last, that is not in the tree copied into.
    fresh: Option<TreePath>,
    /// In the order of the walk.
    pub nodes: Vec<(TreePath, Node)>,
}

impl Growth {
    /// Of a layout that gets the files of a directory below `destination`.
    pub fn new(layout: &Layout, destination: &TreePath) -> Growth {
        let is_first = layout.nodes.keys().all(|path| destination.starts_with(path));
        let fresh = layout.nodes.get(destination).is_some_and(|node| node.fresh).then(|| destination.clone());
        Growth { is_first, fresh, nodes: Vec::new() }
    }

    /// What the tree copied into has at `path`, the next name of the walk.
    pub fn there(&mut self, path: &TreePath, parent: &dyn FileTree) -> Result<Option<Meta>, SnapshotError> {
        if self.fresh.as_ref().is_some_and(|fresh| path.starts_with(fresh)) {
            return Ok(None);
        }
        let there = parent.lookup(path)?;
        self.fresh = there.is_none().then(|| path.clone());
        Ok(there)
    }

    /// Puts in what there is so far.
    pub fn join(&mut self, layout: &mut Layout) {
        if !self.nodes.is_empty() {
            // none of them is in both
            let mut nodes = std::mem::take(&mut self.nodes);
            nodes.extend(std::mem::take(&mut layout.nodes));
            layout.nodes = nodes.into_iter().collect();
        }
    }
}
