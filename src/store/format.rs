//! The version file: what makes a directory a store, and whom it suits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use super::sum::{sum_of, with_sum};
use super::{StoreError, temp};

const VERSION: &str = "croze store 1";
/// What every version's first line begins with.
const PRODUCT: &str = "croze store ";
/// What its second begins with.
const FLAVOUR: &str = "flavour ";
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

    /// As the second line of a version file has it.
    fn parse(line: &str) -> Option<Flavour> {
        Flavour::ALL.into_iter().find(|flavour| line.strip_prefix(FLAVOUR) == Some(flavour.word()))
    }

    /// As a damaged version file has it, if that word is whole.
    fn guess(bytes: &[u8]) -> Option<Flavour> {
        let text = String::from_utf8_lossy(bytes);
        Flavour::ALL.into_iter().find(|flavour| text.split_whitespace().any(|word| word == flavour.word()))
    }
}

/// Checks the store at `root`, or makes one where nothing is. A version file that was damaged is written anew.
pub(super) fn open_or_create(root: &Path) -> Result<Opened, StoreError> {
    let path = root.join(VERSION_FILE);
    match File::open(&path) {
        Ok(file) => check(root, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(root)?;
            check(root, &File::open(&path).map_err(StoreError::io("open", &path))?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let reason = "it is a file; choose another directory".to_owned();
            Err(StoreError::Unusable { path: root.to_owned(), reason })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let me = rustix::process::geteuid().as_raw();
            let reason = format!("it is closed to user {me}; choose another directory");
            Err(StoreError::Unusable { path: root.to_owned(), reason })
        }
        Err(error) => Err(StoreError::io("open", &path)(error)),
    }
}

/// A store that may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Opened {
    pub(super) flavour: Flavour,
    /// Whether its version file was damaged, and is whole again.
    pub(super) was_mended: bool,
}

/// What a version file says.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    /// This version, and a flavour.
    Ours(Flavour),
    /// Another version, by its first line.
    Other(String),
    /// It is not what any version wrote.
    Damaged,
}

impl Said {
    /// The file is two lines and, since there is one, their sum.
    fn parse(bytes: &[u8]) -> Said {
        let Ok(text) = str::from_utf8(bytes) else { return Said::Damaged };
        let (told, sum) = match text.match_indices('\n').nth(1) {
            Some((end, _)) => (&text[..end], text[end + 1..].trim_end_matches('\n')),
            None => return Said::Damaged,
        };
        if !sum.is_empty() && sum_of(told.as_bytes()) != sum {
            return Said::Damaged;
        }
        match told.split_once('\n') {
            Some((VERSION, second)) => Flavour::parse(second).map_or(Said::Damaged, Said::Ours),
            Some((first, second)) if first.starts_with(PRODUCT) && second.starts_with(FLAVOUR) => Said::Other(first.to_owned()),
            _ => Said::Damaged,
        }
    }
}

fn check(root: &Path, mut file: &File) -> Result<Opened, StoreError> {
    let unusable = |reason: String| StoreError::Unusable { path: root.to_owned(), reason };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StoreError::io("read", &root.join(VERSION_FILE)))?;
    let said = Said::parse(&bytes);
    if let Said::Other(version) = said {
        return Err(unusable(format!("its format is `{version}`, this program knows `{VERSION}`; choose another directory")));
    }
    let owner = file.metadata().map_err(StoreError::io("inspect", &root.join(VERSION_FILE)))?.uid();
    let me = rustix::process::geteuid().as_raw();
    if owner != me {
        return Err(unusable(format!("it belongs to user {owner}, you are user {me}; choose another directory")));
    }
    let is_marked = fgetxattr(file, MARK, &mut [0_u8; 8]).is_ok();
    match said {
        Said::Ours(Flavour::Trusted) if !is_marked => Err(unusable(
            "it was made by root of the machine, and its `trusted.*` attributes are lost or hidden from this process; \
             choose another directory"
                .to_owned(),
        )),
        Said::Ours(flavour) => Ok(Opened { flavour, was_mended: false }),
        _ if !looks_like_a_store(root) => {
            Err(unusable("its file `version` is damaged, and what is beside it is no store; choose another directory".to_owned()))
        }
        // what the file said is written nowhere else, but follows from where the store is and whose it is
        _ => {
            let flavour = if is_marked { Some(Flavour::Trusted) } else { Flavour::guess(&bytes) };
            let flavour = write_version(root, flavour)?;
            Ok(Opened { flavour, was_mended: true })
        }
    }
}

/// Whether all that a store is made of is there.
fn looks_like_a_store(root: &Path) -> bool {
    DIRECTORIES.iter().all(|name| root.join(name).is_dir())
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
    write_version(root, None).map(drop)
}

/// Writes the version file, of this flavour or of what the file system allows.
fn write_version(root: &Path, flavour: Option<Flavour>) -> Result<Flavour, StoreError> {
    let path = root.join(format!("{VERSION_FILE}.{}", temp::fresh_name()));
    let mut file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
    let possible = probe(&file).map_err(StoreError::io("set an attribute of", &path))?;
    let flavour = flavour.unwrap_or(possible);
    let mut text = with_sum(format!("{VERSION}\n{FLAVOUR}{}", flavour.word()).into_bytes());
    text.push(b'\n');
    file.write_all(&text).map_err(StoreError::io("write", &path))?;
    // whoever else creates it now writes the same bytes
    fs::rename(&path, root.join(VERSION_FILE)).map_err(StoreError::io("rename", &path))?;
    Ok(flavour)
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
        let newer = with_sum(b"croze store 2\nflavour user".to_vec());
        fs::write(space.path().join("version"), newer).expect("write");
        refused(space.path(), "its format is `croze store 2`");
    }

    #[test]
    fn every_flipped_bit_of_a_version_file_is_mended() {
        let space = tempfile::tempdir().expect("space");
        let created = open_or_create(space.path()).expect("created");
        let path = space.path().join("version");
        let whole = fs::read(&path).expect("read");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).expect("write");
            let opened = open_or_create(space.path()).expect("mended");
            assert_eq!(opened, Opened { was_mended: true, ..created }, "bit {bit}");
            assert_eq!(fs::read(&path).expect("read"), whole);
        }
        fs::write(&path, "").expect("write");
        assert!(open_or_create(space.path()).expect("mended").was_mended);
        assert!(!open_or_create(space.path()).expect("opened").was_mended);
    }

    #[test]
    fn a_version_file_beside_something_else_is_nobody_s() {
        let space = tempfile::tempdir().expect("space");
        fs::write(space.path().join("version"), "1.2.3\n").expect("write");
        refused(space.path(), "is damaged, and what is beside it is no store");
    }

    #[test]
    fn a_version_file_without_a_sum_is_of_an_earlier_version() {
        let space = tempfile::tempdir().expect("space");
        let created = open_or_create(space.path()).expect("created");
        let text = format!("{VERSION}\nflavour {}\n", created.flavour.word());
        // in place, since the mark is an attribute of the file
        fs::write(space.path().join("version"), text).expect("write");
        assert_eq!(open_or_create(space.path()).expect("opened"), created);
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
