//! Where one stream of bytes goes: stdout, or a file that appears when it is complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

use super::{Destination, ExportError};

/// Big enough that headers and small files cost few system calls, small enough to stay in a processor's cache; blobs are
/// copied past it in pieces of this size.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// What [`write()`] hands to its callback. Errors of it carry no path: [`write()`] knows where it goes.
pub(super) type Out<'a> = BufWriter<&'a mut dyn Write>;

/// Why writing stopped.
pub(super) enum Stop {
    /// The destination failed.
    Destination(std::io::Error),
    /// Something else did.
    Other(ExportError),
}

impl<E: Into<ExportError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Other(error.into())
    }
}

/// Runs `fill` on the destination. A file is written beside its place and renamed into it at the end; what is no regular
/// file (`/dev/null`, a pipe) is written to directly.
pub(super) fn write(
    destination: &Destination,
    stdout: &mut dyn Write,
    fill: impl FnOnce(&mut Out<'_>) -> Result<(), Stop>,
) -> Result<(), ExportError> {
    let path = match destination {
        Destination::Stdout => return filled(stdout, fill, ExportError::Stdout),
        Destination::File(path) => path,
    };
    let failed = |source| ExportError::Io { action: "write", path: path.clone(), source };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(ExportError::IsDirectory(path.clone())),
        Ok(metadata) if !metadata.is_file() => {
            let mut file = File::options().write(true).open(path).map_err(failed)?;
            return filled(&mut file, fill, failed);
        }
        _ => {}
    }
    let mut draft = Draft::create(path)?;
    filled(&mut draft.file, fill, failed)?;
    draft.publish(path)
}

/// Runs `fill` on `out`, with a buffer between; `failed` words a failure of `out`.
pub(super) fn filled(
    mut out: &mut dyn Write,
    fill: impl FnOnce(&mut Out<'_>) -> Result<(), Stop>,
    failed: impl Fn(std::io::Error) -> ExportError,
) -> Result<(), ExportError> {
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, &mut out as &mut dyn Write);
    let written = fill(&mut buffered).and_then(|()| buffered.flush().map_err(Stop::Destination));
    written.map_err(|stop| match stop {
        Stop::Destination(error) => failed(error),
        Stop::Other(error) => error,
    })
}

/// A file beside its future place. It has no name before it is published, so that nothing stays of it, however the process
/// ends; where the file system knows no such files it has one, and is deleted when dropped unpublished.
pub(super) struct Draft {
    pub(super) file: File,
    path: PathBuf,
    name: Name,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Given,
    None,
}

impl Draft {
    /// Creates the place's directory too.
    pub(super) fn create(place: &Path) -> Result<Draft, ExportError> {
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(ExportError::io("create", parent))?;
        let mut name = std::ffi::OsString::from(".");
        name.push(place.file_name().unwrap_or_default());
        // one process writes a destination at a time, and a name that can be found again leaves no pile after crashes
        name.push(format!(".{}.part", std::process::id()));
        let path = parent.join(name);
        match openat(CWD, parent, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Draft { file: file.into(), path, name: Name::None }),
            Err(_) => {
                let file = File::create(&path).map_err(ExportError::io("create", &path))?;
                Ok(Draft { file, path, name: Name::Given })
            }
        }
    }

    pub(super) fn publish(mut self, place: &Path) -> Result<(), ExportError> {
        if self.name == Name::None {
            self.name = Name::Given;
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            // one that a killed process of this number has left
            drop(fs::remove_file(&self.path));
            let linked = linkat(CWD, unnamed, CWD, &self.path, AtFlags::SYMLINK_FOLLOW).map_err(std::io::Error::from);
            linked.map_err(ExportError::io("create", &self.path))?;
        }
        fs::rename(&self.path, place).map_err(ExportError::io("create", place))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.name == Name::Given {
            // gone after `publish`; a draft that cannot be deleted is in a directory that is failing anyway
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_former_file() {
        let space = tempfile::tempdir().expect("space");
        let path = space.path().join("out");
        fs::write(&path, "old").expect("write");
        let destination = Destination::File(path.clone());
        let failed = write(&destination, &mut std::io::sink(), |out| {
            out.write_all(b"new").map_err(Stop::Destination)?;
            Err(Stop::Destination(std::io::ErrorKind::StorageFull.into()))
        });
        assert!(matches!(failed, Err(ExportError::Io { path: named, .. }) if named == path));
        assert_eq!(fs::read_to_string(&path).expect("read"), "old");
        write(&destination, &mut std::io::sink(), |out| out.write_all(b"new").map_err(Stop::Destination)).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::read_dir(space.path()).expect("read").count(), 1);
    }

    #[test]
    fn devices_and_directories() {
        let fill = |out: &mut Out<'_>| out.write_all(b"new").map_err(Stop::Destination);
        write(&Destination::File("/dev/null".into()), &mut std::io::sink(), fill).expect("written");
        let refused = write(&Destination::File("/".into()), &mut std::io::sink(), fill);
        assert!(matches!(refused, Err(ExportError::IsDirectory(_))));
    }
}
