//! What tells two images apart: `croze diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};

use serde_json::Value;

use super::images::{self, ImageFacts};
use super::{BuildError, ErrorKind, report};
use crate::diagnostic::Diagnostic;
use crate::layer::{self, LayerError};
use crate::reference::ImageRef;
use crate::snapshot::{FileKind, FileTree, Meta, SnapshotError, TreePath, View};
use crate::store::Store;

/// One difference of the right image from the left one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A member of the config, as JSON; `None` where an image lacks it.
    Setting {
        /// `Env.PATH`, `Cmd`, `architecture`.
        name: String,
        /// The left image's.
        left: Option<String>,
        /// The right image's.
        right: Option<String>,
    },
    /// A file that the right image alone has; a directory stands for all that is in it.
    Added(TreePath, FileKind),
    /// A file that the left image alone has; a directory stands for all that is in it.
    Deleted(TreePath, FileKind),
    /// A file that both have, and what of it differs; times do not count.
    Changed(TreePath, Vec<&'static str>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |kind: &FileKind| if *kind == FileKind::Directory { "/" } else { "" };
        match self {
            Difference::Setting { name, left, right } => match (left, right) {
                (Some(left), Some(right)) => write!(f, "C {name}: {left} -> {right}"),
                (Some(left), None) => write!(f, "D {name}: {left}"),
                (None, right) => write!(f, "A {name}: {}", right.as_deref().unwrap_or_default()),
            },
            Difference::Added(path, kind) => write!(f, "A {path}{}", end(kind)),
            Difference::Deleted(path, kind) => write!(f, "D {path}{}", end(kind)),
            Difference::Changed(path, what) => write!(f, "C {path} ({})", what.join(", ")),
        }
    }
}

/// All differences: settings by name, then files by path.
///
/// # Errors
/// `Usage` if there is no such image, `Environment` if its documents are damaged, or files of it not in the store.
pub fn diff(store: &Store, left: &ImageRef, right: &ImageRef) -> Result<Vec<Difference>, BuildError> {
    let (left, right) = (images::inspect(store, left)?, images::inspect(store, right)?);
    let mut found = settings_apart(&settings(&left), &settings(&right));
    if left.config.rootfs != right.config.rootfs {
        let (left, right) = (view(store, &left)?, view(store, &right)?);
        found.extend(files_apart(&left, &right).map_err(|error| report::environment_error(&error))?);
    }
    Ok(found)
}

/// Members of the config by name, as JSON. Lists of `KEY=VALUE` and maps count by key; what only tells of layers and times is left
/// out.
fn settings(image: &ImageFacts) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let Ok(Value::Object(mut config)) = serde_json::to_value(&image.config) else { return settings };
    for other in ["rootfs", "history", "created"] {
        config.remove(other);
    }
    let container = config.remove("config");
    let members = container.as_ref().and_then(Value::as_object).into_iter().flatten();
    for (name, value) in members.chain(&config) {
        match (name.as_str(), value) {
            ("Env", Value::Array(items)) => {
                for item in items.iter().filter_map(Value::as_str) {
                    let (key, value) = item.split_once('=').unwrap_or((item, ""));
                    settings.insert(format!("Env.{key}"), Value::from(value).to_string());
                }
            }
            (_, Value::Object(members)) => {
                settings.extend(members.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())));
            }
            (_, value) => drop(settings.insert(name.clone(), value.to_string())),
        }
    }
    settings
}

fn settings_apart(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<Difference> {
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let difference = |name: &String| {
        let (left, right) = (left.get(name).cloned(), right.get(name).cloned());
        (left != right).then(|| Difference::Setting { name: name.clone(), left, right })
    };
    names.into_iter().filter_map(difference).collect()
}

/// The image's files.
fn view(store: &Store, image: &ImageFacts) -> Result<View, BuildError> {
    let trees = layer::trees(store, &image.config.rootfs.diff_ids).map_err(|error| match error {
        LayerError::Missing { diff_id } => {
            let message = format!("layer {diff_id} of `{}` is not unpacked in the store", image.name);
            let diagnostic = Diagnostic::error_without_place("no-layer", message).help("build something from the image first");
            BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] }
        }
        error => report::environment_error(&error),
    })?;
    View::new(trees).map_err(|error| report::environment_error(&error))
}

/// Differences of two trees, sorted by path.
fn files_apart(left: &dyn FileTree, right: &dyn FileTree) -> Result<Vec<Difference>, SnapshotError> {
    let mut found = Vec::new();
    let mut todo = vec![TreePath::root()];
    while let Some(path) = todo.pop() {
        let mut entries: BTreeMap<Vec<u8>, [Option<Meta>; 2]> = BTreeMap::new();
        for (side, tree) in [left, right].into_iter().enumerate() {
            // an image without layers has no root
            if path.is_root() && tree.lookup(&path)?.is_none() {
                continue;
            }
            for (name, meta) in tree.read_dir(&path)? {
                entries.entry(name).or_default()[side] = Some(meta);
            }
        }
        for (name, sides) in entries {
            let child = path.child(&name);
            match sides {
                [Some(ours), Some(theirs)] => {
                    let what = apart((left, &ours), (right, &theirs), &child)?;
                    if !what.is_empty() {
                        found.push(Difference::Changed(child.clone(), what));
                    }
                    if (ours.kind, theirs.kind) == (FileKind::Directory, FileKind::Directory) {
                        todo.push(child);
                    }
                }
                [Some(ours), None] => found.push(Difference::Deleted(child, ours.kind)),
                [None, Some(theirs)] => found.push(Difference::Added(child, theirs.kind)),
                [None, None] => {}
            }
        }
    }
    found.sort_by(|one, other| place(one).cmp(&place(other)));
    Ok(found)
}

fn place(difference: &Difference) -> Option<&TreePath> {
    match difference {
        Difference::Setting { .. } => None,
        Difference::Added(path, _) | Difference::Deleted(path, _) | Difference::Changed(path, _) => Some(path),
    }
}

/// What of a file differs.
fn apart(
    (left, ours): (&dyn FileTree, &Meta),
    (right, theirs): (&dyn FileTree, &Meta),
    path: &TreePath,
) -> Result<Vec<&'static str>, SnapshotError> {
    // one file of one layer that both images have
    if ours.inode == theirs.inode && ours.kind != FileKind::Directory {
        return Ok(Vec::new());
    }
    if ours.kind != theirs.kind {
        return Ok(vec!["kind"]);
    }
    let content = match ours.kind {
        FileKind::File => ours.size_bytes != theirs.size_bytes || !same_bytes(left, right, path)?,
        FileKind::Symlink => left.read_link(path)? != right.read_link(path)?,
        _ => false,
    };
    let differences = [
        ("content", content),
        ("mode", ours.mode != theirs.mode),
        ("owner", (ours.uid, ours.gid) != (theirs.uid, theirs.gid)),
        ("attributes", left.xattrs(path)? != right.xattrs(path)?),
    ];
    Ok(differences.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect())
}

fn same_bytes(left: &dyn FileTree, right: &dyn FileTree, path: &TreePath) -> Result<bool, SnapshotError> {
    let failed = |source| SnapshotError::io("read", path, source);
    let (mut left, mut right) = (left.open(path)?, right.open(path)?);
    let mut buffers = (vec![0; 256 << 10], vec![0; 256 << 10]);
    loop {
        let ours = fill(&mut left, &mut buffers.0).map_err(failed)?;
        let theirs = fill(&mut right, &mut buffers.1).map_err(failed)?;
        if buffers.0[..ours] != buffers.1[..theirs] {
            return Ok(false);
        }
        if ours == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
