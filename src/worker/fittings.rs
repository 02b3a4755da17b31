//! What the commands of one build share on disk, each thing made once: files that are mounted into all of them, and layers of
//! the mount points that an image lacks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::WorkError;
use crate::snapshot::builder::{Attributes, Content, LayerBuilder};
use crate::snapshot::{FileKind, FileTree, Last, Time, TreePath, View, resolve};
use crate::store::{Store, TempDir};

/// Shared files and layers; gone when dropped. Commands only read them.
pub struct Fittings {
    store: Store,
    made: Mutex<Made>,
    without_overlays: AtomicBool,
}

#[derive(Default)]
struct Made {
    /// Where everything is.
    temp: Option<TempDir>,
    /// By content.
    files: HashMap<Vec<u8>, PathBuf>,
    /// Few: most steps of a build lack the same mount points.
    stub_layers: Vec<(Stubs, PathBuf)>,
}

/// What decides a layer of mount points.
#[derive(PartialEq, Eq)]
struct Stubs {
    missing: Vec<(TreePath, FileKind)>,
    /// The image's directories above them. Not the root: a command's own layer covers that of any lower one.
    above: Vec<(TreePath, Attributes)>,
}

impl Fittings {
    /// Nothing yet.
    pub fn new(store: Store) -> Fittings {
        Fittings { store, made: Mutex::default(), without_overlays: AtomicBool::new(false) }
    }

    /// Whether no command has met a kernel yet that makes no overlay of the store's directories.
    pub fn can_overlay(&self) -> bool {
        !self.without_overlays.load(Ordering::Relaxed)
    }

    /// Notes such a meeting; whether it is the first.
    pub fn give_up_overlays(&self) -> bool {
        !self.without_overlays.swap(true, Ordering::Relaxed)
    }

    /// A file with this content.
    pub fn file(&self, content: Vec<u8>) -> Result<PathBuf, WorkError> {
        let mut made = self.made();
        if let Some(path) = made.files.get(&content) {
            return Ok(path.clone());
        }
        let name = format!("file-{}", made.files.len());
        let path = made.directory(&self.store)?.join(name);
        std::fs::write(&path, &content).map_err(WorkError::system("write a file for the step"))?;
        made.files.insert(content, path.clone());
        Ok(path)
    }

    /// A layer that holds just the mount points that `view` lacks, with their parents as they are in `view`; `None` if it
    /// lacks none.
    ///
    /// It lies between the image and the command's own changes, so nothing has to be removed afterwards.
    pub fn stub_layer(&self, view: &View, targets: &[(TreePath, FileKind)]) -> Result<Option<PathBuf>, WorkError> {
        let stubs = Stubs::find(view, targets)?;
        if stubs.missing.is_empty() {
            return Ok(None);
        }
        let mut made = self.made();
        if let Some((_, path)) = made.stub_layers.iter().find(|(known, _)| *known == stubs) {
            return Ok(Some(path.clone()));
        }
        let name = format!("stubs-{}", made.stub_layers.len());
        let path = made.directory(&self.store)?.join(name);
        stubs.make(view, &path)?;
        made.stub_layers.push((stubs, path.clone()));
        Ok(Some(path))
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn directory(&mut self, store: &Store) -> Result<&Path, WorkError> {
        if self.temp.is_none() {
            self.temp = Some(store.temp_dir()?);
        }
        Ok(&self.temp.as_ref().expect("made above").path)
    }
}

impl Stubs {
    fn find(view: &View, targets: &[(TreePath, FileKind)]) -> Result<Stubs, WorkError> {
        let mut stubs = Stubs { missing: Vec::new(), above: Vec::new() };
        for (target, kind) in targets {
            // /dev, /proc and /sys are mounted whole; what lies below them is made there
            let below = target.components().next().is_some_and(|top| matches!(top, b"dev" | b"proc" | b"sys"))
                && !target.parent().is_root();
            let found = resolve(view, target, Last::Follow)?;
            if below || found.meta.is_some() {
                continue;
            }
            let mut above = found.path.parent();
            while !above.is_root() && stubs.above.iter().all(|(known, _)| *known != above) {
                if let Some(meta) = view.lookup(&above)? {
                    let attributes = Attributes::of(&meta, view.xattrs(&above)?);
                    stubs.above.push((above.clone(), attributes));
                }
                above = above.parent();
            }
            stubs.missing.push((found.path, *kind));
        }
        Ok(stubs)
    }

    fn make(&self, view: &View, directory: &Path) -> Result<(), WorkError> {
        std::fs::create_dir(directory).map_err(WorkError::system("create a directory for mount points"))?;
        let plain = |mode| Attributes { mode, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() };
        let builder = LayerBuilder::new(view, directory, Time::default())?;
        for (path, kind) in &self.missing {
            match kind {
                FileKind::Directory => builder.ensure_dir(path, &plain(0o755))?,
                _ => {
                    builder.ensure_dir(&path.parent(), &plain(0o755))?;
                    builder.put(path, &plain(0o644), Content::Bytes(b""))?;
                }
            }
        }
        Ok(builder.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn targets() -> Vec<(TreePath, FileKind)> {
        let target = |text: &str, kind| (TreePath::clean(text.as_bytes()), kind);
        vec![target("/proc", FileKind::Directory), target("/etc/hosts", FileKind::File)]
    }

    #[test]
    fn equal_things_are_made_once() {
        let space = tempfile::tempdir().unwrap();
        let store = Store::open(&space.path().join("store")).unwrap();
        let image = space.path().join("image");
        std::fs::create_dir_all(image.join("etc")).unwrap();
        let fittings = Fittings::new(store);
        assert_eq!(fittings.file(b"a".to_vec()).unwrap(), fittings.file(b"a".to_vec()).unwrap());
        assert_ne!(fittings.file(b"a".to_vec()).unwrap(), fittings.file(b"b".to_vec()).unwrap());

        let layer = || fittings.stub_layer(&View::new(vec![image.clone()]).unwrap(), &targets()).unwrap();
        let first = layer().unwrap();
        assert!(first.join("proc").is_dir() && first.join("etc/hosts").is_file());
        // what happens in the root decides nothing
        std::fs::create_dir(image.join("new")).unwrap();
        assert_eq!(layer().as_ref(), Some(&first));
        // a directory above a mount point is shown as the image has it
        std::fs::set_permissions(image.join("etc"), PermissionsExt::from_mode(0o700)).unwrap();
        let second = layer().unwrap();
        assert_ne!(second, first);
        assert_eq!(std::fs::metadata(second.join("etc")).unwrap().permissions().mode() & 0o777, 0o700);
        // nothing is missing
        std::fs::create_dir(image.join("proc")).unwrap();
        std::fs::write(image.join("etc/hosts"), "").unwrap();
        assert_eq!(layer(), None);
    }
}
