//! A context: files that the client offers, seen through its ignore patterns.
//!
//! A [`Context`] is a [`FileTree`] in which everything belongs to 0:0 and has no xattrs, as BuildKit's transfer leaves it.
//! Digests of its files come from a persistent index of what was hashed before, see [`stat_index`](super::stat_index).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::AtFlags;

use super::digest::{FileDigests, Hashing};
use super::extract::{ExtractError, Target};
use super::follow;
use super::git::Checkout;
use super::stat_index::{Identity, StatChange, StatIndex};
use crate::digest::Digest;
use crate::dockerfile::ignore::{DirState, PatternError, Patterns};
use crate::layer::archive::{Packing, Reader};
use crate::snapshot::builder::LayerBuilder;
use crate::snapshot::{Dir, DirTree, FileKind, FileTree, Meta, SnapshotError, Time, TreeFile, TreePath, View, Xattrs, dir};
use crate::store::{Store, StoreError, TempDir};

/// What an ignore file says of paths.
pub trait Ignore: Send + Sync {
    /// Whether the path (relative, `/` between components) is ignored, itself or with a directory above it.
    fn is_ignored(&self, path: &[u8]) -> bool;

    /// Whether something below an ignored directory may not be ignored.
    fn may_keep_below(&self, directory: &[u8]) -> bool;

    /// The pattern that decides, for messages, such as `.dockerignore:3: *.md`; `None` if the path is not ignored.
    fn ignored_by(&self, path: &[u8]) -> Option<String>;
}

impl Ignore for Arc<Patterns> {
    fn is_ignored(&self, path: &[u8]) -> bool {
        Patterns::is_ignored(self, path)
    }

    fn may_keep_below(&self, directory: &[u8]) -> bool {
        self.has_exceptions() && {
            let mut state = self.root();
            for name in directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
                state = state.enter(self, name).below;
            }
            state.may_contain_exceptions(self)
        }
    }

    fn ignored_by(&self, path: &[u8]) -> Option<String> {
        Patterns::ignored_by(self, path)
    }
}

/// Why a context could not be opened or kept.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A context sent as an archive could not be unpacked.
    #[error("cannot unpack the context")]
    Archive(#[from] ExtractError),
    /// A directory could not be opened.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Files that a client offers.
pub struct Context {
    files: DirTree,
    root: Dir,
    directory: PathBuf,
    ignore: Option<Box<dyn Ignore>>,
    /// What the build asks for; everything until that is known.
    asked: OnceLock<Patterns>,
    store: Store,
    /// Loaded when the first digest is asked for.
    index: Mutex<Option<StatIndex>>,
    /// Whether owners are those of the files, as in an archive that somebody sent, or root for all, as in a directory.
    owners: Owners,
    modes: Modes,
    /// What must stay for as long as the context is read.
    _held: Option<Box<dyn Send + Sync>>,
}

/// Whom the files of a context belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owners {
    /// 0:0.
    Root,
    /// Whom they belong to on disk.
    Kept,
}

/// Which modes the files of a context have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Modes {
    /// Those on disk.
    #[default]
    AsIs,
    /// What can be executed, and directories: 0755; the rest: 0644. So git's, a umask or another system's notion of modes
    /// makes no difference to a copy.
    Normalized,
}

impl Modes {
    fn of(self, meta: &Meta) -> u32 {
        match (self, meta.kind) {
            (Modes::AsIs, _) | (_, FileKind::Symlink) => meta.mode,
            (Modes::Normalized, FileKind::Directory) => 0o755,
            (Modes::Normalized, _) if meta.mode & 0o111 != 0 => 0o755,
            (Modes::Normalized, _) => 0o644,
        }
    }
}

/// Enough of a stream to tell how it is packed.
const MAGIC_BYTES: u64 = 512;

impl Context {
    /// The directory `directory` of this machine; its own links are followed.
    ///
    /// # Errors
    /// `Io` when it is no directory or cannot be opened.
    pub fn open(store: &Store, directory: &Path, ignore: Option<Box<dyn Ignore>>) -> Result<Context, ContextError> {
        let failed = |action| move |source| ContextError::Io { action, path: directory.to_owned(), source };
        let canonical = directory.canonicalize().map_err(failed("find the context"))?;
        let root = Dir::open(&canonical).map_err(failed("open the context"))?;
        let files = DirTree::new(root.reopen().map_err(failed("open the context"))?);
        Ok(Context {
            files,
            root,
            directory: canonical,
            ignore,
            asked: OnceLock::new(),
            store: store.clone(),
            index: Mutex::default(),
            owners: Owners::Root,
            modes: Modes::AsIs,
            _held: None,
        })
    }

    /// The same files with these modes.
    pub fn with_modes(mut self, modes: Modes) -> Context {
        self.modes = modes;
        self
    }

    /// Files that were put into a temporary directory of the store, see [`Context::extract`].
    pub fn in_temp(store: &Store, extracted: TempDir, ignore: Option<Box<dyn Ignore>>) -> Result<Context, ContextError> {
        let mut context = Context::open(store, &extracted.path, ignore)?;
        // a fresh directory: nothing was hashed before, and nothing will be found again
        context.index = Mutex::new(Some(StatIndex::off()));
        context.owners = Owners::Kept;
        context._held = Some(Box::new(extracted));
        Ok(context)
    }

    /// A git tree.
    ///
    /// # Errors
    /// `Io` when it cannot be opened.
    pub fn checkout(store: &Store, checkout: Checkout) -> Result<Context, ContextError> {
        let mut context = Context::open(store, &checkout.path, None)?;
        context.index = Mutex::new(Some(StatIndex::off()));
        context._held = Some(Box::new(checkout));
        Ok(context)
    }

    /// Unpacks a context that comes as a tar, plain or compressed; owners are dropped later, by the context itself.
    ///
    /// # Errors
    /// `Archive` for a damaged one; `Io` when the stream cannot be read.
    pub fn extract(store: &Store, stream: &mut (dyn Read + Send)) -> Result<TempDir, ContextError> {
        let temp = store.temp_dir()?;
        let failed = |source| ContextError::Io { action: "read the context", path: "-".into(), source };
        let mut start = Vec::new();
        stream.take(MAGIC_BYTES).read_to_end(&mut start).map_err(failed)?;
        let packing = Packing::detect(&start);
        let mut reader = Reader::new(packing.unpacked(io::Cursor::new(start).chain(stream)).map_err(failed)?);
        let nothing = View::new(Vec::new()).map_err(ExtractError::from)?;
        let created = Time::default();
        let builder = LayerBuilder::new(&nothing, &temp.path, created).map_err(ExtractError::from)?;
        let target = Target { builder: &builder, destination: &TreePath::root(), owner: None, created };
        target.unpack(&mut reader)?;
        builder.finish().map_err(ExtractError::from)?;
        Ok(temp)
    }

    /// A context without files.
    pub fn empty(store: &Store) -> Result<Context, ContextError> {
        Context::in_temp(store, store.temp_dir()?, None)
    }

    /// Hides, once, what is not named by `paths` (absolute, with wildcards) and not led to by links on them. Contexts that
    /// are no directory of the client's come whole.
    ///
    /// # Errors
    /// A path that cannot be read as a pattern; then nothing is hidden.
    pub fn ask_for<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> Result<(), PatternError> {
        if self._held.is_some() {
            return Ok(());
        }
        if let Some(patterns) = follow::patterns(&self.files, paths)? {
            self.asked.get_or_init(|| patterns);
        }
        Ok(())
    }

    /// Which ignore pattern hides `path`.
    pub fn hidden_by(&self, path: &TreePath) -> Option<String> {
        self.ignore.as_ref()?.ignored_by(path.as_bytes())
    }

    /// Remembers the digests that were made since the context was opened, if there are any. Call it after the build.
    ///
    /// # Errors
    /// `Store`; losing the index costs a re-hash, no more.
    pub fn save_index(&self) -> Result<(), ContextError> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match index.as_ref().and_then(StatIndex::changed) {
            Some(StatChange::All(entries)) => Ok(self.store.set_stat_index(&self.directory, &entries)?),
            Some(StatChange::Recent(entries)) => Ok(self.store.set_recent_stat_index(&self.directory, &entries)?),
            None => Ok(()),
        }
    }

    /// What `path` looks like in the image; `None` if it is hidden.
    fn visible(&self, path: &TreePath, meta: Meta) -> Result<Option<Meta>, SnapshotError> {
        if let Some(asked) = self.asked.get()
            && !is_asked(asked, path, &meta)
        {
            return Ok(None);
        }
        self.left_by_ignore(path, meta)
    }

    fn left_by_ignore(&self, path: &TreePath, meta: Meta) -> Result<Option<Meta>, SnapshotError> {
        let Some(ignore) = self.ignore.as_ref().filter(|ignore| !path.is_root() && ignore.is_ignored(path.as_bytes())) else {
            return Ok(Some(self.as_offered(meta)));
        };
        // a directory of ignored files is there for the sake of one that is not
        let kept = meta.kind == FileKind::Directory && ignore.may_keep_below(path.as_bytes()) && self.keeps_below(path)?;
        Ok(kept.then(|| self.as_offered(meta)))
    }

    /// The transfer of a directory keeps neither owners nor (see [`FileTree::xattrs`]) attributes.
    fn as_offered(&self, meta: Meta) -> Meta {
        let mode = self.modes.of(&meta);
        match self.owners {
            Owners::Root => Meta { uid: 0, gid: 0, mode, ..meta },
            Owners::Kept => Meta { mode, ..meta },
        }
    }

    fn keeps_below(&self, directory: &TreePath) -> Result<bool, SnapshotError> {
        for (name, meta) in self.files.read_dir(directory)? {
            if self.left_by_ignore(&directory.child(&name), meta)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl FileTree for Context {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        match self.files.lookup(path)? {
            Some(meta) => self.visible(path, meta),
            None => Ok(None),
        }
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let mut offered = Vec::new();
        let state = self.asked.get().and_then(|asked| state_of(asked, path));
        for (name, meta) in self.list(path)? {
            let asked = self.asked.get().zip(state.as_ref());
            if asked.is_some_and(|(asked, state)| !is_entry_asked(asked, state, &name, &meta)) {
                continue;
            }
            let visible = match &self.ignore {
                Some(_) => self.left_by_ignore(&path.child(&name), meta)?,
                None => Some(self.as_offered(meta)),
            };
            offered.extend(visible.map(|meta| (name, meta)));
        }
        Ok(offered)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        self.files.read_link(path)
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        self.files.open(path)
    }

    fn xattrs(&self, _path: &TreePath) -> Result<Xattrs, SnapshotError> {
        Ok(Xattrs::new())
    }
}

impl FileDigests for Context {
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = index.get_or_insert_with(|| {
            // an index that cannot be read is an index that is empty
            StatIndex::new(&self.root, self.store.stat_index(&self.directory).unwrap_or_default())
        });
        if index.is_off() {
            return Hashing(&self.files).digests(files);
        }
        let identities: Vec<Identity> = files.iter().map(|(_, meta)| Identity::of(meta)).collect();
        index.digests(&identities, |number| files[number].0.clone(), &self.files)
    }
}

impl Context {
    /// The names in a directory with the kernel's answers, sorted by bytes.
    fn list(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let failed = |err: io::Error| match err.raw_os_error() {
            Some(libc::ENOTDIR | libc::ELOOP) => SnapshotError::NotADirectory { path: path.clone() },
            _ => SnapshotError::io("read directory", path, err),
        };
        let mut dir = self.root.open_beneath(path).map_err(failed)?;
        let mut names = dir.names().map_err(failed)?;
        names.sort_unstable();
        let mut listed = Vec::with_capacity(names.len());
        for name in names {
            match rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => listed.push((name, dir::meta_of(&stat))),
                // deleted since it was listed
                Err(rustix::io::Errno::NOENT) => {}
                Err(err) => return Err(failed(err.into())),
            }
        }
        Ok(listed)
    }
}

/// What is known of the entries of a directory; `None` if all of them are asked for.
fn state_of(asked: &Patterns, directory: &TreePath) -> Option<DirState> {
    let mut state = asked.root();
    for name in directory.components() {
        let entry = state.enter(asked, name);
        if entry.ignored && !asked.has_exceptions() {
            return None;
        }
        state = entry.below;
    }
    Some(state)
}

/// Whether a path is asked for, itself or for the sake of something below it.
fn is_asked(asked: &Patterns, path: &TreePath, meta: &Meta) -> bool {
    let Some(name) = path.file_name() else { return true };
    state_of(asked, &path.parent()).is_none_or(|state| is_entry_asked(asked, &state, name, meta))
}

/// The same for an entry of a directory.
fn is_entry_asked(asked: &Patterns, state: &DirState, name: &[u8], meta: &Meta) -> bool {
    let entry = state.enter(asked, name);
    let is_on_the_way = meta.kind == FileKind::Directory && entry.below.may_match(asked);
    // what matches is asked for: these patterns are turned around
    entry.ignored || is_on_the_way
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::make;

    /// Ignores names in the list, but keeps `kept` below them.
    struct Named(&'static [&'static str]);

    impl Ignore for Named {
        fn is_ignored(&self, path: &[u8]) -> bool {
            let path = TreePath::clean(path);
            path.components().any(|name| self.0.iter().any(|ignored| ignored.as_bytes() == name))
                && path.file_name() != Some(b"kept")
        }

        fn may_keep_below(&self, directory: &[u8]) -> bool {
            directory != b"never"
        }

        fn ignored_by(&self, path: &[u8]) -> Option<String> {
            self.is_ignored(path).then(|| ".dockerignore:1: x".to_owned())
        }
    }

    fn context(script: &str, ignored: &'static [&'static str]) -> (tempfile::TempDir, Context) {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("files")).unwrap();
        assert!(make(&temp.path().join("files"), script), "these tests run as root");
        let store = Store::open(&temp.path().join("store")).unwrap();
        let context = Context::open(&store, &temp.path().join("files"), Some(Box::new(Named(ignored)))).unwrap();
        (temp, context)
    }

    fn names(context: &Context, path: &str) -> Vec<String> {
        let entries = context.read_dir(&TreePath::clean(path.as_bytes())).unwrap();
        entries.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn files_belong_to_nobody_else() {
        let (_temp, context) = context("file f x; own f 5; xattr f user.a 1", &[]);
        let path = TreePath::clean(b"f");
        let meta = context.lookup(&path).unwrap().unwrap();
        assert_eq!((meta.uid, meta.gid, context.xattrs(&path).unwrap()), (0, 0, Xattrs::new()));
    }

    #[test]
    fn ignored_files_are_not_there() {
        let (_temp, context) = context("file f x; file g x; dir d; file d/f x", &["f", "d"]);
        assert_eq!(names(&context, ""), ["g"]);
        assert_eq!(context.lookup(&TreePath::clean(b"f")).unwrap(), None);
        assert_eq!(context.hidden_by(&TreePath::clean(b"d/f")).as_deref(), Some(".dockerignore:1: x"));
    }

    #[test]
    fn an_ignored_directory_is_there_for_what_is_kept_below() {
        let (_temp, context) =
            context("dir d; file d/f x; dir d/e; file d/e/kept x; dir never; file never/kept x", &["d", "never"]);
        assert_eq!(names(&context, ""), ["d"]);
        assert_eq!(names(&context, "d"), ["e"]);
        assert_eq!(names(&context, "d/e"), ["kept"]);
    }

    #[test]
    fn digests_are_remembered_between_builds() {
        let (temp, context) = context("file f x; file g y", &[]);
        let file = |name: &str| {
            let path = TreePath::clean(name.as_bytes());
            let meta = context.lookup(&path).unwrap().unwrap();
            (path, meta)
        };
        let [(f, f_meta), (g, g_meta)] = [file("f"), file("g")];
        let files = [(&f, &f_meta), (&g, &g_meta)];
        assert_eq!(context.digests(&files).unwrap(), [Digest::of(b"x"), Digest::of(b"y")]);
        context.save_index().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        let again = Context::open(&store, &temp.path().join("files"), None).unwrap();
        assert_eq!(again.digests(&files).unwrap(), context.digests(&files).unwrap());
    }

    #[test]
    fn a_tar_becomes_a_context() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o640);
        header.set_uid(7);
        tar.append_data(&mut header, "d/f", &b"x"[..]).unwrap();
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let extracted = Context::extract(&store, &mut &bytes[..]).unwrap();
        let context = Context::in_temp(&store, extracted, None).unwrap();
        let path = TreePath::clean(b"d/f");
        let meta = context.lookup(&path).unwrap().unwrap();
        assert_eq!((meta.mode, meta.uid, meta.size_bytes), (0o640, 7, 1));
        assert_eq!(context.digests(&[(&path, &meta)]).unwrap(), [Digest::of(b"x")]);
        assert!(Context::extract(&store, &mut &bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn the_empty_context_has_a_root() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        let context = Context::empty(&store).unwrap();
        assert_eq!(context.lookup(&TreePath::root()).unwrap().map(|meta| meta.kind), Some(FileKind::Directory));
        assert!(names(&context, "").is_empty());
    }
}
