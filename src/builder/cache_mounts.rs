//! The contents of `RUN --mount=type=cache`, one by one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::{BuildError, ErrorKind, report};
use crate::diagnostic::Diagnostic;
use crate::digest::Digest;
use crate::layer::{self, Compression, LayerLimits};
use crate::store::{MountAbout, Store};
use crate::worker::mounts::cache_name;

/// A cache mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Names its directory.
    pub name: Digest,
    /// What it is for, if that is known.
    pub about: Option<MountAbout>,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// How many files it has.
    pub files: u64,
}

/// All cache mounts, by id.
///
/// # Errors
/// `Environment`: the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<CacheMount>, BuildError> {
    let failed = |error| report::store_error(&error);
    let mut found = Vec::new();
    for (name, about) in store.cache_mounts().map_err(failed)? {
        let (size_bytes, files) = store.cache_mount_size(&name).map_err(failed)?;
        found.push(CacheMount { name, about, size_bytes, files });
    }
    found.sort_by(|left, right| id_of(left).cmp(&id_of(right)).then(left.name.cmp(&right.name)));
    Ok(found)
}

/// The id, or nothing where it is not known.
pub fn id_of(mount: &CacheMount) -> Option<&str> {
    mount.about.as_ref().map(|about| about.id.as_str())
}

/// The cache mounts that `wanted` names: by id, or by the first digits of their names.
///
/// # Errors
/// `Usage` where there is none.
pub fn find(store: &Store, wanted: &str) -> Result<Vec<CacheMount>, BuildError> {
    let is_id = |mount: &CacheMount| id_of(mount).is_some_and(|id| id.trim_matches('/') == wanted.trim_matches('/'));
    let is_name = |mount: &CacheMount| wanted.len() >= 4 && mount.name.hex().starts_with(wanted);
    let mut found = list(store)?;
    let has_id = found.iter().any(is_id);
    found.retain(|mount| if has_id { is_id(mount) } else { is_name(mount) });
    if found.is_empty() {
        return Err(usage(format!("no cache mount is called `{wanted}`")));
    }
    Ok(found)
}

/// Writes the files of the one cache mount that `wanted` names as a tar.
///
/// # Errors
/// `Usage` where there is none or more than one; `Environment` where it cannot be read or written.
pub fn export(store: &Store, wanted: &str, out: &mut dyn Write) -> Result<CacheMount, BuildError> {
    let mut found = find(store, wanted)?;
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|mount| mount.name.short()).collect();
        return Err(usage(format!(
            "{} cache mounts are called `{wanted}`: {}; name one of these",
            found.len(),
            names.join(", ")
        )));
    }
    let mount = found.remove(0);
    let data = store.cache_mount_path(&mount.name).join("data");
    layer::write_tar(&data, None, out).map_err(|error| report::environment_error(&error))?;
    Ok(mount)
}

/// Makes the files of a tar those of the cache mount `id` as a `RUN` without owner and mode knows it; what it had is dropped.
///
/// # Errors
/// `Usage` for what is no tar; `Environment` where the store cannot be written.
pub fn import(store: &Store, id: &str, tar: &mut dyn Read) -> Result<CacheMount, BuildError> {
    let failed = |error| report::store_error(&error);
    // ids are kept as absolute paths, as BuildKit keeps them
    let id = format!("/{}", id.trim_start_matches('/'));
    let about = MountAbout { id, uid: 0, gid: 0, mode: 0o755 };
    let name = cache_name(&about);
    let temp = store.temp_dir().map_err(failed)?;
    let tree = temp.path.join("data");
    let made = fs::create_dir(&tree).and_then(|()| fs::set_permissions(&tree, fs::Permissions::from_mode(about.mode)));
    made.map_err(|error| report::environment_error(&error))?;
    layer::unpack_into(&tree, tar, Compression::None, None, LayerLimits::NONE).map_err(|error| {
        let message = format!("cannot unpack the archive for the cache mount `{}`", about.id);
        let diagnostics =
            vec![Diagnostic::error_without_place("bad-archive", message).note(crate::diagnostic::with_causes(&error))];
        BuildError { kind: if error.is_about_content() { ErrorKind::Usage } else { ErrorKind::Environment }, diagnostics }
    })?;
    store.drop_cache_mount(&name).map_err(failed)?;
    store.publish_cache_mount(&name, &tree, &about).map_err(failed)?;
    let (size_bytes, files) = store.cache_mount_size(&name).map_err(failed)?;
    Ok(CacheMount { name, about: Some(about), size_bytes, files })
}

/// Drops the cache mounts that `wanted` names.
///
/// # Errors
/// As [`find`]; `Environment` where the store cannot be written.
pub fn remove(store: &Store, wanted: &str) -> Result<Vec<CacheMount>, BuildError> {
    let found = find(store, wanted)?;
    for mount in &found {
        store.drop_cache_mount(&mount.name).map_err(|error| report::store_error(&error))?;
    }
    Ok(found)
}

fn usage(message: String) -> BuildError {
    let diagnostic = Diagnostic::error_without_place("no-cache-mount", message).help("`croze cache-mount ls` lists all of them");
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}
