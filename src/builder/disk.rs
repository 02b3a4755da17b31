//! Full disks: whatever fails for want of space ends with the same words, which name the file system.

use std::error::Error;
use std::io::{self, ErrorKind as Io};
use std::path::Path;

use super::{BuildError, ErrorKind};
use crate::diagnostic::Diagnostic;
use crate::export::ExportError;
use crate::worker::WorkError;

/// The code of errors about a full disk.
pub const DISK_FULL: &str = "disk-full";

/// Tells, where `failure` comes from `error` and that from a full disk, which one it is. The store's path is not known here:
/// [`with_store`] adds it.
pub fn explained(mut failure: BuildError, error: &(dyn Error + 'static)) -> BuildError {
    if !is_full(error) {
        return failure;
    }
    failure.kind = ErrorKind::Environment;
    for diagnostic in &mut failure.diagnostics {
        diagnostic.code = DISK_FULL;
        if let Some(ExportError::Io { path, .. }) = error.downcast_ref() {
            say(diagnostic, &format!("of `{}`", path.display()), "free space there, or name another destination");
        }
    }
    failure
}

/// Names the store at `root` in errors about a full disk that name no place yet.
pub fn with_store(mut failure: BuildError, root: &Path) -> BuildError {
    let missing = |diagnostic: &&mut Diagnostic| diagnostic.code == DISK_FULL && diagnostic.helps.is_empty();
    for diagnostic in failure.diagnostics.iter_mut().filter(missing) {
        let place = format!("of the store `{}`", root.display());
        say(diagnostic, &place, "free space there, or name another store with `--root DIR`");
    }
    failure
}

fn say(diagnostic: &mut Diagnostic, place: &str, help: &str) {
    let message = format!("no space left on the file system {place}");
    let what = std::mem::replace(&mut diagnostic.message, message);
    diagnostic.notes.insert(0, what);
    diagnostic.helps = vec![help.to_owned()];
}

/// Whether a full disk is behind it.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(WorkError::DiskFilled { .. })) {
        return true;
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(Io::StorageFull | Io::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}
