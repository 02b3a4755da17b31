//! Who a command runs as: `USER` text against the image's own passwd and group files.

use std::io::Read;

use crate::snapshot::{FileKind, FileTree, Last, SnapshotError, TreePath, resolve};

/// Numbers and home directory of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory; `/` when the image does not know the user.
    pub home: String,
}

/// Why a `USER` text names nobody.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name that passwd lacks.
    #[error("unable to find user `{0}`: no matching entries in passwd file")]
    UnknownUser(String),
    /// A name that group lacks.
    #[error("unable to find group `{0}`: no matching entries in group file")]
    UnknownGroup(String),
    /// The files could not be read.
    #[error(transparent)]
    Tree(#[from] SnapshotError),
    /// The files could not be read.
    #[error("cannot read `{0}` of the image")]
    Read(TreePath, #[source] std::io::Error),
}

/// Looks `user` up in `tree`: empty, `name`, `number`, `name:group` in any mix of names and numbers.
///
/// A number needs no entry; its primary group is the entry's, else 0. Supplementary groups are not looked up, as in BuildKit.
pub fn identify(user: &str, tree: &dyn FileTree) -> Result<Identity, IdentityError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd = read(tree, "etc/passwd")?;
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    let number = user.parse::<u32>().ok();
    let by_name = entries().find(|fields| fields[0] == user);
    let entry = by_name.or_else(|| number.and_then(|uid| entries().find(|fields| fields[2].parse() == Ok(uid))));
    let (uid, primary, home) = match (entry, number) {
        (Some(fields), _) => (
            fields[2].parse().map_err(|_| IdentityError::UnknownUser(user.to_owned()))?,
            fields[3].parse().unwrap_or(0),
            fields.get(5).copied().filter(|home| !home.is_empty()).unwrap_or("/").to_owned(),
        ),
        (None, Some(uid)) => (uid, 0, "/".to_owned()),
        (None, None) => return Err(IdentityError::UnknownUser(user.to_owned())),
    };
    let gid = match group.filter(|group| !group.is_empty()) {
        None => primary,
        Some(group) => find_group(group, tree)?,
    };
    Ok(Identity { uid, gid, home })
}

fn find_group(group: &str, tree: &dyn FileTree) -> Result<u32, IdentityError> {
    let text = read(tree, "etc/group")?;
    let by_name =
        text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.len() >= 3 && fields[0] == group);
    by_name
        .and_then(|fields| fields[2].parse().ok())
        .or_else(|| group.parse().ok())
        .ok_or_else(|| IdentityError::UnknownGroup(group.to_owned()))
}

/// The text of a small file, links followed inside the tree; empty if it is not there.
fn read(tree: &dyn FileTree, path: &str) -> Result<String, IdentityError> {
    let found = resolve(tree, &TreePath::clean(path.as_bytes()), Last::Follow);
    let found = match found {
        Ok(found) => found,
        Err(SnapshotError::NotADirectory { .. }) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    match found.meta {
        Some(meta) if meta.kind == FileKind::File => {
            let mut bytes = Vec::new();
            let limit = 16 << 20;
            tree.open(&found.path)?
                .take(limit)
                .read_to_end(&mut bytes)
                .map_err(|source| IdentityError::Read(found.path.clone(), source))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => Ok(String::new()),
    }
}
