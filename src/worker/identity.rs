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
    /// All groups, sorted, the primary one among them.
    pub groups: Vec<u32>,
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
/// A number needs no entry; its primary group is the entry's, else 0. The groups that list a known user as a member are its
/// groups too, unless a group is asked for.
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
    let name = entry.as_ref().map(|fields| fields[0].to_owned());
    let (uid, primary, home) = match (entry, number) {
        (Some(fields), _) => (
            fields[2].parse().map_err(|_| IdentityError::UnknownUser(user.to_owned()))?,
            fields[3].parse().unwrap_or(0),
            fields.get(5).copied().filter(|home| !home.is_empty()).unwrap_or("/").to_owned(),
        ),
        (None, Some(uid)) => (uid, 0, "/".to_owned()),
        (None, None) => return Err(IdentityError::UnknownUser(user.to_owned())),
    };
    let (gid, mut groups) = match (group.filter(|group| !group.is_empty()), name) {
        (Some(group), _) => (find_group(group, tree)?, Vec::new()),
        (None, Some(name)) => (primary, groups_of(&name, tree)?),
        (None, None) => (primary, Vec::new()),
    };
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups, home })
}

/// The groups that list `user` as a member.
fn groups_of(user: &str, tree: &dyn FileTree) -> Result<Vec<u32>, IdentityError> {
    let text = read(tree, "etc/group")?;
    let entries = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    Ok(entries
        .filter(|fields| fields[3].split(',').any(|member| member == user))
        .filter_map(|fields| fields[2].parse().ok())
        .collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::View;

    #[track_caller]
    fn check(user: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let tree = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(tree.path().join("etc")).expect("a directory");
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n1234:x:4321:4322::/:/bin/sh\n";
        std::fs::write(tree.path().join("etc/passwd"), passwd).expect("passwd");
        std::fs::write(tree.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\napp:x:1000:\nextra:x:3000:x,app\n")
            .expect("group");
        let view = View::new(vec![tree.path().to_owned()]).expect("a view");
        let found = identify(user, &view).map_err(|error| error.to_string());
        let found = found.as_ref().map(|found| (found.uid, found.gid, found.groups.as_slice(), found.home.as_str()));
        assert_eq!(found.map_err(String::as_str), expected);
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        check("", Ok((0, 0, &[0], "/root")));
        check("app", Ok((1000, 1000, &[50, 1000, 3000], "/home/app")));
        check("1000", Ok((1000, 1000, &[50, 1000, 3000], "/home/app")));
        check("1234", Ok((4321, 4322, &[4322], "/")));
        check("4242", Ok((4242, 0, &[0], "/")));
    }

    #[test]
    fn a_group_that_is_asked_for_stands_alone() {
        check("app:staff", Ok((1000, 50, &[50], "/home/app")));
        check("4242:5", Ok((4242, 5, &[5], "/")));
    }

    #[test]
    fn unknown_names_are_told() {
        check("nobody", Err("unable to find user `nobody`: no matching entries in passwd file"));
        check("app:wheel", Err("unable to find group `wheel`: no matching entries in group file"));
    }

    #[test]
    fn an_image_without_files_knows_numbers_only() {
        let view = View::new(Vec::new()).expect("a view");
        assert!(identify("0", &view).is_ok());
        assert!(identify("root", &view).is_err());
    }
}
