//! The version file: what makes a directory a store, and whom it suits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use super::{StoreError, temp};

const VERSION: &str = "croze store 1";
const VERSION_FILE: &str = "version";
const DIRECTORIES: [&str; 9] = ["blobs", "blobs/sha256", "layers", "names", "cache-mounts", "leases", "locks", "tmp", "trash"];

/// Set on the version file of a [`Flavour::Trusted`] store: only who may write `trusted.*` can see it, and a copy of the
/// store that lost such attributes (and with them its opaque marks) has lost this one too.
const MARK: &str = "trusted.croze";

/// How layer trees keep what plain files cannot say: whiteouts and opaque directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Overlayfs's `trusted.*` attributes and character devices 0:0: root of the machine.
    Trusted,
    /// Overlayfs's `user.*` attributes: a user namespace, or root without all privileges.
    User,
    /// No extended attributes here: steps run on copies.
    Plain,
}

impl Flavour {
    const ALL: [Flavour; 3] = [Flavour::Trusted, Flavour::User, Flavour::Plain];

    fn word(self) -> &'static str {
        match self {
            Flavour::Trusted => "trusted",
            Flavour::User => "user",
            Flavour::Plain => "plain",
        }
    }
}

/// Checks the store at `root`, or makes one where nothing is.
pub(super) fn open_or_create(root: &Path) -> Result<Flavour, StoreError> {
    let path = root.join(VERSION_FILE);
    match File::open(&path) {
        Ok(file) => check(root, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(root)?;
            check(root, &File::open(&path).map_err(StoreError::io("open", &path))?)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let me = rustix::process::geteuid().as_raw();
            let reason = format!("it is closed to user {me}; choose another directory");
            Err(StoreError::Unusable { path: root.to_owned(), reason })
        }
        Err(error) => Err(StoreError::io("open", &path)(error)),
    }
}

fn check(root: &Path, mut file: &File) -> Result<Flavour, StoreError> {
    let unusable = |reason: String| StoreError::Unusable { path: root.to_owned(), reason };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StoreError::io("read", &root.join(VERSION_FILE)))?;
    // a damaged one is no text, and told like another version
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version != VERSION {
        return Err(unusable(format!("its format is `{version}`, this program knows `{VERSION}`; choose another directory")));
    }
    let word = lines.next().unwrap_or_default();
    let Some(flavour) = Flavour::ALL.into_iter().find(|flavour| word.strip_prefix("flavour ") == Some(flavour.word())) else {
        return Err(unusable(format!("its version file says `{word}`, which this program does not know")));
    };
    let owner = file.metadata().map_err(StoreError::io("inspect", &root.join(VERSION_FILE)))?.uid();
    let me = rustix::process::geteuid().as_raw();
    if owner != me {
        return Err(unusable(format!("it belongs to user {owner}, you are user {me}; choose another directory")));
    }
    if flavour == Flavour::Trusted && fgetxattr(file, MARK, &mut [0_u8; 8]).is_err() {
        return Err(unusable(
            "it was made by root of the machine, and its `trusted.*` attributes are lost or hidden from this process; \
             choose another directory"
                .to_owned(),
        ));
    }
    Ok(flavour)
}

/// Several processes may do this at once: each step is harmless when repeated, and the version file comes last.
fn create(root: &Path) -> Result<(), StoreError> {
    // layer trees hold set-uid programs of unknown origin: nobody else may reach them
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(root).map_err(StoreError::io("create", root))?;
    for entry in fs::read_dir(root).map_err(StoreError::io("read", root))? {
        let name = entry.map_err(StoreError::io("read", root))?.file_name();
        let ours = name.to_str().is_some_and(|name| DIRECTORIES.contains(&name) || name.starts_with(VERSION_FILE));
        if !ours {
            let reason = format!("it is no store and not empty (it holds `{}`); choose another directory", name.display());
            return Err(StoreError::Unusable { path: root.to_owned(), reason });
        }
    }
    for name in DIRECTORIES {
        let path = root.join(name);
        private.create(&path).map_err(StoreError::io("create", &path))?;
    }
    let path = root.join(format!("{VERSION_FILE}.{}", temp::fresh_name()));
    let mut file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
    let flavour = probe(&file).map_err(StoreError::io("set an attribute of", &path))?;
    file.write_all(format!("{VERSION}\nflavour {}\n", flavour.word()).as_bytes()).map_err(StoreError::io("write", &path))?;
    // whoever else creates it now writes the same bytes
    fs::rename(&path, root.join(VERSION_FILE)).map_err(StoreError::io("rename", &path))
}

fn probe(file: &File) -> io::Result<Flavour> {
    for (name, flavour) in [(MARK, Flavour::Trusted), ("user.croze", Flavour::User)] {
        match fsetxattr(file, name, b"1", XattrFlags::empty()) {
            Ok(()) => return Ok(flavour),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Flavour::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(root: &Path, words: &str) {
        match open_or_create(root) {
            Err(StoreError::Unusable { reason, .. }) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_created_opens_with_the_same_flavour() {
        let space = tempfile::tempdir().expect("space");
        let root = space.path().join("a/store");
        let created = open_or_create(&root).expect("created");
        assert_eq!(open_or_create(&root).expect("opened"), created);
        assert_eq!(fs::metadata(&root).expect("there").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_with_other_content_is_left_alone() {
        let space = tempfile::tempdir().expect("space");
        fs::write(space.path().join("thesis.tex"), "x").expect("write");
        refused(space.path(), "thesis.tex");
        assert_eq!(fs::read_dir(space.path()).expect("read").count(), 1);
    }

    #[test]
    fn an_interrupted_creation_is_finished() {
        let space = tempfile::tempdir().expect("space");
        fs::create_dir(space.path().join("blobs")).expect("mkdir");
        fs::write(space.path().join("version.0123"), "cro").expect("write");
        open_or_create(space.path()).expect("created");
    }

    #[test]
    fn a_later_format_is_refused() {
        let space = tempfile::tempdir().expect("space");
        open_or_create(space.path()).expect("created");
        fs::write(space.path().join("version"), "croze store 2\nflavour user\n").expect("write");
        refused(space.path(), "`croze store 2`");
        fs::write(space.path().join("version"), b"\xe3roze store 1\nflavour user\n").expect("write");
        refused(space.path(), "its format is `\u{fffd}roze store 1`");
    }

    #[test]
    fn a_trusted_store_without_its_mark_is_refused() {
        let space = tempfile::tempdir().expect("space");
        open_or_create(space.path()).expect("created");
        let path = space.path().join("version");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, format!("{VERSION}\nflavour trusted\n")).expect("write");
        refused(space.path(), "trusted.*");
    }
}
