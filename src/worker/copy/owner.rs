//! `--chown` and the `USER` of a `WORKDIR`: names looked up in a tree's passwd and group files.

use super::Remark;
use crate::snapshot::{FileTree, SnapshotError, TreePath};
use crate::worker::accounts::{self, AccountsError};

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
    Accounts(#[from] AccountsError),
}

impl From<SnapshotError> for OwnerError {
    fn from(error: SnapshotError) -> OwnerError {
        OwnerError::Accounts(error.into())
    }
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
        let mut owner = match number(user) {
            _ if user.is_empty() => Owner::default(),
            Some(uid) => Owner { uid, gid: uid },
            None => {
                check_for_root(tree, user)?;
                match accounts::users(tree)?.into_iter().find(|known| known.name == user) {
                    Some(known) => Owner { uid: id(known.uid), gid: id(known.gid) },
                    None => {
                        unknown.push(Remark::UnknownUser { name: user.to_owned() });
                        Owner::default()
                    }
                }
            }
        };
        match group {
            None => {}
            Some("") => owner.gid = 0,
            Some(group) => match number(group) {
                Some(gid) => owner.gid = gid,
                None => {
                    check_for_root(tree, group)?;
                    match accounts::groups(tree)?.into_iter().find(|known| known.name == group) {
                        Some(known) => owner.gid = id(known.gid),
                        None => unknown.push(Remark::UnknownGroup { name: group.to_owned() }),
                    }
                }
            },
        }
        Ok(owner)
    }
}

/// `root` is 0 without a look, and what does not fit into 31 bits is a name. -1 asks the kernel to change nothing: files of a
/// context stay root's.
fn number(text: &str) -> Option<u32> {
    match text {
        "root" => Some(0),
        "-1" => Some(0),
        text => text.parse::<i32>().ok().map(i32::cast_unsigned),
    }
}

fn id(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn check_for_root(tree: &dyn FileTree, name: &str) -> Result<(), OwnerError> {
    match tree.lookup(&TreePath::root())? {
        Some(_) => Ok(()),
        None => Err(OwnerError::EmptyImage { name: name.to_owned() }),
    }
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
        check("root", (0, 0));
        check("4294967294", (0, 0));
        check("-1", (0, 0));
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
        assert_eq!(Owner::parse("root:root", &empty).unwrap(), Owner { uid: 0, gid: 0 });
        assert_eq!(Owner::parse("5", &empty).unwrap(), Owner { uid: 5, gid: 5 });
    }
}
