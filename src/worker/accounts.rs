//! The users and groups of an image, as its own `/etc/passwd` and `/etc/group` tell.
//!
//! Owns: reading the two files. What a name or a number comes to differs: see `identity` for commands, `copy::owner` for files.
//! Source: moby/sys `user`, which BuildKit reads both with: fields that are missing are empty, numbers that are none are 0.

use std::io::Read;
use std::num::IntErrorKind;

use crate::snapshot::{FileKind, FileTree, Last, SnapshotError, TreePath, resolve};

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Its number, which need not be one that the kernel knows.
    pub uid: i64,
    /// Number of the primary group.
    pub gid: i64,
    /// Home directory, may be empty.
    pub home: String,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Its number, which need not be one that the kernel knows.
    pub gid: i64,
    /// Names of further users that belong to it.
    pub members: Vec<String>,
}

/// Why the files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The tree could not be looked at.
    #[error(transparent)]
    Tree(#[from] SnapshotError),
    /// A file could not be read.
    #[error("cannot read `{path}` of the image")]
    Read {
        /// Which.
        path: TreePath,
        /// Why.
        source: std::io::Error,
    },
}

/// All users in the order of the file; none if there is no such file.
pub fn users(tree: &dyn FileTree) -> Result<Vec<User>, AccountsError> {
    let text = read(tree, b"etc/passwd")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let user = |line: &str| {
        let fields = Fields(line.split(':').collect());
        User { name: fields.text(0), uid: fields.number(2), gid: fields.number(3), home: fields.text(5) }
    };
    Ok(lines.map(user).collect())
}

/// All groups in the order of the file; none if there is no such file.
pub fn groups(tree: &dyn FileTree) -> Result<Vec<Group>, AccountsError> {
    let text = read(tree, b"etc/group")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let group = |line: &str| {
        let fields = Fields(line.split(':').collect());
        let members = fields.text(3).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Group { name: fields.text(0), gid: fields.number(2), members }
    };
    Ok(lines.map(group).collect())
}

struct Fields<'a>(Vec<&'a str>);

impl Fields<'_> {
    fn text(&self, index: usize) -> String {
        self.0.get(index).copied().unwrap_or_default().to_owned()
    }

    fn number(&self, index: usize) -> i64 {
        match self.0.get(index).map_or(Ok(0), |field| field.parse()) {
            Ok(number) => number,
            // as Go's `strconv.Atoi` has it: not 0, which is root
            Err(error) => match error.kind() {
                IntErrorKind::PosOverflow => i64::MAX,
                IntErrorKind::NegOverflow => i64::MIN,
                _ => 0,
            },
        }
    }
}

/// Files larger than this are read in part.
const LIMIT_BYTES: u64 = 16 << 20;

/// The text of a file, links followed inside the tree; empty if it is not there.
fn read(tree: &dyn FileTree, path: &[u8]) -> Result<String, AccountsError> {
    let found = match resolve(tree, &TreePath::clean(path), Last::Follow) {
        Ok(found) => found,
        Err(SnapshotError::NotADirectory { .. }) => return Ok(String::new()),
        Err(err) => return Err(err.into()),
    };
    if found.meta.is_none_or(|meta| meta.kind != FileKind::File) {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    let read = tree.open(&found.path)?.take(LIMIT_BYTES).read_to_end(&mut bytes);
    read.map_err(|source| AccountsError::Read { path: found.path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
