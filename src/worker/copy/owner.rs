//! `--chown` and the `USER` of a `WORKDIR`: names looked up in a tree's passwd and group files.

use std::io::Read;

use super::Remark;
use crate::snapshot::{FileKind, FileTree, Last, SnapshotError, TreePath, resolve};

/// A user and a group by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Why an owner is not known.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// A name where there is no tree to look it up in.
    #[error("`{name}` cannot be looked up: the image is empty, only numbers work")]
    EmptyImage {
        /// The user or group.
        name: String,
    },
    /// The passwd or group file could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The passwd or group file could not be read.
    #[error("cannot read `{path}`")]
    Io {
        /// Which file.
        path: TreePath,
        /// Why.
        source: std::io::Error,
    },
}

impl Owner {
    /// Looks up `user`, `user:group`, `user:` (group 0) or `:group` (user 0) in `tree`, by number or by name.
    ///
    /// As in BuildKit a user by number has the group of the same number, an unknown user is 0:0, and an unknown group
    /// leaves the user's own.
    ///
    /// # Errors
    /// `EmptyImage` for a name when `tree` has no root at all; the others when a file cannot be read.
    pub fn parse(text: &str, tree: &dyn FileTree) -> Result<Owner, OwnerError> {
        Owner::parse_noting(text, tree, &mut Vec::new())
    }

    /// The same; names that nobody has are noted, since what they come to is seldom what was meant.
    pub fn parse_noting(text: &str, tree: &dyn FileTree, unknown: &mut Vec<Remark>) -> Result<Owner, OwnerError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let mut owner = match user.parse() {
            _ if user.is_empty() => Owner::default(),
            Ok(uid) => Owner { uid, gid: uid },
            Err(_) => match find(tree, b"etc/passwd", user)? {
                Some(fields) => Owner { uid: number(&fields, 2), gid: number(&fields, 3) },
                None => {
                    unknown.push(Remark::UnknownUser { name: user.to_owned() });
                    Owner::default()
                }
            },
        };
        match group {
            None => {}
            Some("") => owner.gid = 0,
            Some(group) => match group.parse() {
                Ok(gid) => owner.gid = gid,
                Err(_) => match find(tree, b"etc/group", group)? {
                    Some(fields) => owner.gid = number(&fields, 2),
                    None => unknown.push(Remark::UnknownGroup { name: group.to_owned() }),
                },
            },
        }
        Ok(owner)
    }
}

/// The fields of the line of `name`; `None` if the file or the line is missing.
fn find(tree: &dyn FileTree, file: &[u8], name: &str) -> Result<Option<Vec<String>>, OwnerError> {
    if tree.lookup(&TreePath::root())?.is_none() {
        return Err(OwnerError::EmptyImage { name: name.to_owned() });
    }
    let path = TreePath::clean(file);
    let found = match resolve(tree, &path, Last::Follow) {
        Ok(found) => found,
        Err(SnapshotError::NotADirectory { .. }) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    if found.meta.is_none_or(|meta| meta.kind != FileKind::File) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    tree.open(&found.path)?.read_to_end(&mut bytes).map_err(|source| OwnerError::Io { path, source })?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').map(str::to_owned).collect()))
}

/// A field that is no number counts as 0, as in the C library's and Go's readers of these files.
fn number(fields: &[String], index: usize) -> u32 {
    fields.get(index).and_then(|field| field.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{DirTree, View};

    #[track_caller]
    fn check(text: &str, expected: (u32, u32)) {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("etc")).unwrap();
        std::fs::write(temp.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:1000:1001::/:\n").unwrap();
        std::fs::write(temp.path().join("etc/group"), "root:x:0:\nstaff:x:50:\n").unwrap();
        let owner = Owner::parse(text, &DirTree::open(temp.path()).unwrap()).unwrap();
        assert_eq!((owner.uid, owner.gid), expected, "{text}");
    }

    #[test]
    fn names_and_numbers() {
        check("5", (5, 5));
        check("5:6", (5, 6));
        check("app", (1000, 1001));
        check("app:", (1000, 0));
        check(":staff", (0, 50));
        check("app:staff", (1000, 50));
        check("app:7", (1000, 7));
    }

    #[test]
    fn unknown_names_are_quiet() {
        check("nobody-knows", (0, 0));
        check("app:nobody-knows", (1000, 1001));
        check("nobody-knows:staff", (0, 50));
    }

    #[test]
    fn names_need_a_tree() {
        let empty = View::new(Vec::new()).unwrap();
        assert!(matches!(Owner::parse("app", &empty), Err(OwnerError::EmptyImage { name }) if name == "app"));
        assert_eq!(Owner::parse("5", &empty).unwrap(), Owner { uid: 5, gid: 5 });
    }
}
