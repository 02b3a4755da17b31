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
    /// Home directory; empty if the user's entry has none, `/` if there is no entry.
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
    /// A number that cannot be a user's or a group's.
    #[error("{0} is no user or group: numbers are from 0 to 2147483647")]
    Range(i64),
    /// The files could not be read.
    #[error(transparent)]
    Tree(#[from] SnapshotError),
    /// The files could not be read.
    #[error("cannot read `{0}` of the image")]
    Read(TreePath, #[source] std::io::Error),
}

/// Looks `user` up in `tree`: empty, `name`, `number`, `name:group` in any mix of names and numbers.
///
/// What reads as a number is one, also where a name consists of the same digits; it needs no entry. The primary group is the
/// entry's, else 0. The groups that list a known user as a member are its groups too, unless a group is asked for. The home is
/// that of the first entry with the number, as runc finds it: empty if the entry has none, `/` without an entry.
///
/// # Errors
/// `UnknownUser` and `UnknownGroup` for names without an entry, `Range` for numbers that no user has.
pub fn identify(user: &str, tree: &dyn FileTree) -> Result<Identity, IdentityError> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let passwd = read(tree, "etc/passwd")?;
    let number = user.parse::<i64>().ok();
    let entry = entries(&passwd).find(|entry| match number {
        Some(uid) => entry.number(2) == uid,
        None => entry.field(0) == user,
    });
    let uid = entry.as_ref().map(|entry| entry.number(2)).or(number);
    let uid = in_range(uid.ok_or_else(|| IdentityError::UnknownUser(user.to_owned()))?)?;
    let with_number = entries(&passwd).find(|entry| entry.number(2) == i64::from(uid));
    let home = with_number.map_or_else(|| "/".to_owned(), |entry| entry.field(5).to_owned());
    let (gid, mut groups) = match entry {
        _ if !group.is_empty() => (find_group(group, tree)?, Vec::new()),
        Some(entry) => (in_range(entry.number(3))?, groups_of(entry.field(0), tree)?),
        None => (0, Vec::new()),
    };
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups, home })
}

/// A line of passwd or group; fields that are not there are empty or 0.
struct Entry<'a>(Vec<&'a str>);

impl Entry<'_> {
    fn field(&self, index: usize) -> &str {
        self.0.get(index).copied().unwrap_or_default()
    }

    fn number(&self, index: usize) -> i64 {
        self.field(index).parse().unwrap_or(0)
    }
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| Entry(line.split(':').collect()))
}

fn in_range(number: i64) -> Result<u32, IdentityError> {
    u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32).ok_or(IdentityError::Range(number))
}

/// The groups that list `user` as a member.
fn groups_of(user: &str, tree: &dyn FileTree) -> Result<Vec<u32>, IdentityError> {
    let text = read(tree, "etc/group")?;
    let member = |entry: &Entry<'_>| entry.field(3).split(',').any(|member| member == user);
    entries(&text).filter(member).map(|entry| in_range(entry.number(2))).collect()
}

fn find_group(group: &str, tree: &dyn FileTree) -> Result<u32, IdentityError> {
    if let Ok(gid) = group.parse::<i64>() {
        return in_range(gid);
    }
    let text = read(tree, "etc/group")?;
    let entry = entries(&text).find(|entry| entry.field(0) == group);
    in_range(entry.ok_or_else(|| IdentityError::UnknownGroup(group.to_owned()))?.number(2))
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
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n1234:x:4321:4322::/:/bin/sh\nother:x:1000:7::/home/other\n";
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
        check("1234", Ok((1234, 0, &[0], "/")));
        check("4321", Ok((4321, 4322, &[4322], "/")));
        check("4242", Ok((4242, 0, &[0], "/")));
    }

    #[test]
    fn a_group_that_is_asked_for_stands_alone() {
        check("app:staff", Ok((1000, 50, &[50], "/home/app")));
        check("4242:5", Ok((4242, 5, &[5], "/")));
        check("other:app", Ok((1000, 1000, &[1000], "/home/app")));
        check(":staff", Ok((0, 50, &[50], "/root")));
    }

    #[test]
    fn unknown_names_are_told() {
        check("nobody", Err("unable to find user `nobody`: no matching entries in passwd file"));
        check("4294967295", Err("4294967295 is no user or group: numbers are from 0 to 2147483647"));
        check("app:wheel", Err("unable to find group `wheel`: no matching entries in group file"));
    }

    #[test]
    fn an_image_without_files_knows_numbers_only() {
        let view = View::new(Vec::new()).expect("a view");
        assert!(identify("0", &view).is_ok());
        assert!(identify("root", &view).is_err());
    }
}
