//! Who a command runs as: `USER` text against the image's own passwd and group files.

use super::accounts::{self, AccountsError};
use crate::snapshot::FileTree;

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
    Accounts(#[from] AccountsError),
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
    let users = accounts::users(tree)?;
    let number = user.parse::<i64>().ok();
    let entry = users.iter().find(|known| match number {
        Some(uid) => known.uid == uid,
        None => known.name == user,
    });
    let uid = entry.map(|known| known.uid).or(number);
    let uid = in_range(uid.ok_or_else(|| IdentityError::UnknownUser(user.to_owned()))?)?;
    let with_number = users.iter().find(|known| known.uid == i64::from(uid));
    let home = with_number.map_or_else(|| "/".to_owned(), |known| known.home.clone());
    let (gid, mut groups) = match entry {
        _ if !group.is_empty() => (find_group(group, tree)?, Vec::new()),
        Some(known) => (in_range(known.gid)?, groups_of(&known.name, tree)?),
        None => (0, Vec::new()),
    };
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups, home })
}

fn in_range(number: i64) -> Result<u32, IdentityError> {
    u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32).ok_or(IdentityError::Range(number))
}

/// The groups that list `user` as a member.
fn groups_of(user: &str, tree: &dyn FileTree) -> Result<Vec<u32>, IdentityError> {
    let groups = accounts::groups(tree)?.into_iter();
    groups.filter(|group| group.members.iter().any(|member| member == user)).map(|group| in_range(group.gid)).collect()
}

fn find_group(group: &str, tree: &dyn FileTree) -> Result<u32, IdentityError> {
    if let Ok(gid) = group.parse::<i64>() {
        return in_range(gid);
    }
    let known = accounts::groups(tree)?.into_iter().find(|known| known.name == group);
    in_range(known.ok_or_else(|| IdentityError::UnknownGroup(group.to_owned()))?.gid)
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
