//! Git trees, fetched by the `git` program.
//!
//! A reference is resolved to a commit first, which is the tree's identity; the checkout fetches that commit alone where the
//! server lets it. The program runs without the configuration of user and system, asks no questions, and speaks no protocol
//! that the remote does not call for, since what it reads was written by others.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::SourceError;
use crate::diagnostic;
use crate::graph::GitOp;
use crate::store::{Store, TempDir};
use crate::task;

mod command;

use command::{Git, Leash, Programs};

/// What a fetch may use of the client's.
#[derive(Clone, Debug, Default)]
pub struct GitAccess {
    /// A token for http(s) remotes (the secret `GIT_AUTH_TOKEN`).
    pub token: Option<String>,
    /// A whole `Authorization` value for http(s) remotes (the secret `GIT_AUTH_HEADER`); wins over the token.
    pub header: Option<String>,
    /// The socket of an ssh agent.
    pub ssh_agent: Option<PathBuf>,
    /// Where programs are looked for, as in `PATH`; the usual directories when not set.
    pub search_path: Option<OsString>,
    /// Proxies: `http_proxy` and its like, with their values.
    pub proxy_env: Vec<(String, String)>,
}

/// What a reference means now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Full hexadecimal name of the commit.
    pub id: String,
    /// Full name of the branch or tag it was found under, such as `refs/heads/main`; `None` when the commit itself was asked for.
    pub ref_name: Option<String>,
}

/// A tree on disk, inside the store; goes with the value.
pub struct Checkout {
    /// The directory that was asked for: the tree, or the subdirectory.
    pub path: PathBuf,
    /// The commit it is of.
    pub commit: String,
    /// When it was committed, seconds since 1970.
    pub committed_secs: Option<i64>,
    _temp: TempDir,
}

/// Asks the remote which commit the reference of `op` is: a branch before a tag before any other ref of that name. A full
/// commit name asks nobody.
///
/// # Errors
/// `SourceError::NoGitRef` with a near name; `SourceError::GitChecksum` when the commit is not the one that `op` wants;
/// `SourceError::Git` with the program's last words.
pub async fn resolve(op: &GitOp, access: &GitAccess) -> Result<Commit, SourceError> {
    let leash = Leash::default();
    let (op, access, programs) = (op.clone(), access.clone(), leash.programs());
    task::blocking(move || resolve_now(&programs, &op, &access)).await
}

/// Checks `commit` out below a temporary directory of the store, with its submodules. Files are 0644 or 0755, directories
/// 0755; `.git` stays only if `op` keeps it.
///
/// # Errors
/// `SourceError::NoGitSubdir` when the tree has no such directory; `SourceError::Git` with the program's last words.
pub async fn checkout(store: &Store, op: &GitOp, commit: &Commit, access: &GitAccess) -> Result<Checkout, SourceError> {
    let leash = Leash::default();
    let (programs, store, op, commit, access) = (leash.programs(), store.clone(), op.clone(), commit.clone(), access.clone());
    task::blocking(move || checkout_now(&programs, &store, &op, &commit, &access)).await
}

fn resolve_now(programs: &Programs, op: &GitOp, access: &GitAccess) -> Result<Commit, SourceError> {
    let reference = op.reference.as_str();
    if is_full_commit(reference) {
        let commit = Commit { id: reference.to_owned(), ref_name: None };
        return checked(op, commit, reference);
    }
    let wanted = if reference.is_empty() { "HEAD" } else { reference };
    let git = Git::new(programs, &op.remote, access)?;
    let peeled = format!("{wanted}^{{}}");
    let listing = git.run(None, "ask", &["ls-remote", "--", &op.remote, wanted, &peeled])?;
    match pick(&listing, wanted) {
        Some(found) => {
            let ref_name = Some(found.name.to_owned());
            checked(op, Commit { id: found.commit.to_owned(), ref_name }, found.object)
        }
        None => {
            let all = git.run(None, "ask", &["ls-remote", "--heads", "--tags", "--", &op.remote])?;
            let names = all.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| short_name(name));
            let nearest = diagnostic::nearest(reference, names).map(str::to_owned);
            Err(SourceError::NoGitRef { remote: op.remote.clone(), reference: reference.to_owned(), nearest })
        }
    }
}

/// A line of `ls-remote` that was chosen.
#[derive(PartialEq, Eq, Debug)]
struct Found<'a> {
    name: &'a str,
    /// What the ref points at: the tag object of an annotated tag.
    object: &'a str,
    /// The commit.
    commit: &'a str,
}

/// Chooses among the lines `OBJECT<tab>NAME` the one that `wanted` means.
fn pick<'a>(listing: &'a str, wanted: &str) -> Option<Found<'a>> {
    let lines: Vec<(&str, &str)> = listing.lines().filter_map(|line| line.split_once('\t')).collect();
    let object_of = |name: &str| lines.iter().find(|(_, found)| *found == name).map(|(object, name)| (*object, *name));
    let candidates = [wanted.to_owned(), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}"), format!("refs/{wanted}")];
    let (object, name) = candidates.iter().find_map(|name| object_of(name))?;
    let commit = object_of(&format!("{name}^{{}}")).map_or(object, |(commit, _)| commit);
    Some(Found { name, object, commit })
}

/// Holds the commit against the checksum, which may be a prefix, and of an annotated tag's object too.
fn checked(op: &GitOp, commit: Commit, object: &str) -> Result<Commit, SourceError> {
    match &op.checksum {
        Some(expected) if !commit.id.starts_with(expected.as_str()) && !object.starts_with(expected.as_str()) => {
            Err(SourceError::GitChecksum {
                remote: op.remote.clone(),
                reference: op.reference.clone(),
                expected: expected.clone(),
                found: commit.id,
            })
        }
        _ => Ok(commit),
    }
}

fn checkout_now(
    programs: &Programs,
    store: &Store,
    op: &GitOp,
    commit: &Commit,
    access: &GitAccess,
) -> Result<Checkout, SourceError> {
    let git = Git::new(programs, &op.remote, access)?;
    let temp = store.temp_dir()?;
    let tree = temp.path.join("tree");
    make_directory(&tree)?;
    let at = Some(tree.as_path());
    git.run(at, "prepare", &["init", "--quiet", "--template=", "--initial-branch=main"])?;
    git.run(at, "prepare", &["remote", "add", "--", "origin", &op.remote])?;
    fetch(&git, &tree, commit)?;
    git.run(at, "check out", &["checkout", "--quiet", "--detach", &commit.id, "--"])?;
    if op.submodules {
        git.run(at, "fetch submodules of", &["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
    }
    let committed_secs = git.run(at, "read", &["show", "--no-patch", "--format=%ct", &commit.id])?.trim().parse().ok();
    let repository = tree.join(".git");
    if op.keep_git_dir {
        // It tells when the fetch was, and nothing else.
        remove_if_there(&repository.join("FETCH_HEAD"))?;
    } else {
        store.trash(&repository)?;
    }
    if let Some(seconds) = committed_secs.filter(|_| op.commit_times) {
        set_times(&tree, seconds)?;
    }
    let path = subdirectory(&tree, op, commit)?;
    Ok(Checkout { path, commit: commit.id.clone(), committed_secs, _temp: temp })
}

/// Fetches the commit alone; from a server that gives none by name, the tip of its branch or tag; else everything.
fn fetch(git: &Git, tree: &Path, commit: &Commit) -> Result<(), SourceError> {
    let shallow = ["fetch", "--quiet", "--no-tags", "--depth=1", "origin"];
    let by_id = git.run(Some(tree), "fetch", &[&shallow[..], &[&commit.id]].concat());
    let Err(first) = by_id else { return Ok(()) };
    if let Some(ref_name) = &commit.ref_name
        && git.run(Some(tree), "fetch", &[&shallow[..], &[ref_name]].concat()).is_ok()
        && has(git, tree, commit)
    {
        return Ok(());
    }
    let everything = ["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"];
    git.run(Some(tree), "fetch", &everything)?;
    if has(git, tree, commit) { Ok(()) } else { Err(first) }
}

fn has(git: &Git, tree: &Path, commit: &Commit) -> bool {
    git.run(Some(tree), "read", &["cat-file", "-e", &format!("{}^{{commit}}", commit.id)]).is_ok()
}

/// The directory that was asked for, reached without following links.
fn subdirectory(tree: &Path, op: &GitOp, commit: &Commit) -> Result<PathBuf, SourceError> {
    let missing = || SourceError::NoGitSubdir { remote: op.remote.clone(), subdir: op.subdir.clone(), commit: commit.id.clone() };
    let mut path = tree.to_owned();
    for component in Path::new(&op.subdir).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(missing()),
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            _ => return Err(missing()),
        }
    }
    Ok(path)
}

fn make_directory(path: &Path) -> Result<(), SourceError> {
    let failed = |source| SourceError::Io { action: "create", path: path.to_owned(), source };
    DirBuilder::new().mode(0o755).create(path).map_err(failed)?;
    // The process's umask may have taken bits away.
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)
}

/// Gives a tree one modification time; what is in a directory before the directory itself.
fn set_times(path: &Path, seconds: i64) -> Result<(), SourceError> {
    let failed = |source| SourceError::Io { action: "set the time of", path: path.to_owned(), source };
    if fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            set_times(&entry.map_err(failed)?.path(), seconds)?;
        }
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(error.into()))
}

fn remove_if_there(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SourceError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whether a reference is no name but the commit itself.
pub fn is_full_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn short_name(ref_name: &str) -> &str {
    let name = ref_name.strip_prefix("refs/heads/").or_else(|| ref_name.strip_prefix("refs/tags/")).unwrap_or(ref_name);
    name.strip_suffix("^{}").unwrap_or(name)
}

#[cfg(test)]
mod tests;
