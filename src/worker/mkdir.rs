//! `WORKDIR`: makes a directory and what is missing above it.

use std::path::Path;

use super::copy::layout::Layout;
use super::copy::owner::Owner;
use super::copy::{CopyError, make_layer, new_directory};
use crate::digest::Digest;
use crate::graph::MkdirOp;
use crate::snapshot::{FileTree, Time};

/// A `WORKDIR` that is decided: its key is known, its layer can be made.
pub struct Prepared {
    layout: Layout,
    key: Digest,
}

impl Prepared {
    /// Names the layer's content without times.
    pub fn key(&self) -> Digest {
        self.key
    }
}

/// Decides what is made in `parent`: each missing directory, 0755, owned by the op's user. Nothing if it is there already.
///
/// # Errors
/// `NoPlace` when something else is in the way; `Owner` when the user cannot be looked up.
pub fn prepare(op: &MkdirOp, parent: &dyn FileTree) -> Result<Prepared, CopyError> {
    let owner = match op.user.as_str() {
        "" => Owner::default(),
        user => Owner::parse(user, parent).map_err(|source| CopyError::Owner { text: user.to_owned(), source })?,
    };
    let layout = new_directory(&op.path, owner, parent)?;
    let key = layout.key();
    Ok(Prepared { layout, key })
}

/// Makes the layer in the empty directory `tree`; new directories get the time `created`.
///
/// # Errors
/// Those of writing.
pub fn run(prepared: &Prepared, parent: &dyn FileTree, tree: &Path, created: Time) -> Result<(), CopyError> {
    make_layer(&prepared.layout, &[], parent, tree, created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::make;
    use crate::snapshot::{TreePath, View};

    /// What `WORKDIR path` makes above `script`: mode, owner and path of each directory.
    fn made(script: &str, user: &str, path: &str) -> Option<Result<Vec<String>, CopyError>> {
        let (parent, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if !make(parent.path(), script) {
            return None;
        }
        let parent = View::new(vec![parent.path().to_owned()]).unwrap();
        let op = MkdirOp { path: path.to_owned(), user: user.to_owned() };
        Some(prepare(&op, &parent).map(|prepared| {
            run(&prepared, &parent, tree.path(), Time { seconds: 7, nanoseconds: 0 }).unwrap();
            let layer = View::new(vec![tree.path().to_owned()]).unwrap();
            let mut listed = Vec::new();
            let mut todo = vec![TreePath::root()];
            while let Some(path) = todo.pop() {
                for (name, meta) in layer.read_dir(&path).unwrap() {
                    let path = path.child(&name);
                    listed.push(format!("{path} {:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime.seconds));
                    todo.push(path);
                }
            }
            listed
        }))
    }

    #[test]
    fn every_missing_level_belongs_to_the_user() {
        let script = "dir etc; file etc/passwd app:x:1000:1001::/:; dir a; mode a 711; time a 3";
        assert_eq!(
            made(script, "app", "/a/b/c").unwrap().unwrap(),
            ["/a 711 0:0 3", "/a/b 755 1000:1001 7", "/a/b/c 755 1000:1001 7"]
        );
    }

    #[test]
    fn what_is_there_stays_out_of_the_layer() {
        assert!(made("dir a; link l a", "", "/l").unwrap().unwrap().is_empty());
    }

    #[test]
    fn links_lead_inside_the_root() {
        assert_eq!(made("dir a; time a 3; link l /../../a", "", "/l/b").unwrap().unwrap(), ["/a 755 0:0 3", "/a/b 755 0:0 7"]);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        for path in ["/f", "/f/x"] {
            assert!(matches!(made("file f x", "", path).unwrap(), Err(CopyError::NoPlace { .. })), "{path}");
        }
    }
}
