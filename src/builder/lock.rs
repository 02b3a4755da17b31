//! `Dockerfile.lock`: which bytes the names in a Dockerfile stood for.
//!
//! A build that finds one beside its Dockerfile takes what it says instead of asking what a name stands for now: base images by
//! digest, downloads by checksum, git trees by commit. `--lock` writes it, `--locked` refuses names that it does not have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind};
use crate::diagnostic::{Diagnostic, with_causes};
use crate::digest::Digest;
use crate::graph::{Op, Step};
use crate::plan::Wanted;
use crate::reference::ImageRef;
use crate::worker::Sources;

/// `--lock`, `--locked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// A lock file that is there counts.
    #[default]
    Obey,
    /// What it has counts, and what it lacks is added.
    Write,
    /// It is written anew.
    Update,
    /// What it lacks is an error.
    Require,
}

/// What names stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    pins: Sources,
}

/// The file: tables of each kind, sorted.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LockFile {
    version: u32,
    #[serde(default, rename = "image")]
    images: Vec<ImagePin>,
    #[serde(default, rename = "url")]
    urls: Vec<UrlPin>,
    #[serde(default, rename = "git")]
    trees: Vec<GitPin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagePin {
    name: String,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlPin {
    url: String,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GitPin {
    remote: String,
    reference: String,
    commit: String,
}

const VERSION: u32 = 1;
const HEADER: &str = "# Written by `croze build --lock`: what the names in the Dockerfile stood for.\n";

/// Where the lock file of a request is; `None` for a Dockerfile that is no file here.
pub fn path(request: &BuildRequest) -> Option<PathBuf> {
    let dockerfile = match (&request.dockerfile, &request.context) {
        (DockerfileSource::File(path), ContextSource::Directory(_)) => path.clone(),
        (DockerfileSource::Default, ContextSource::Directory(directory)) => {
            let name = ["Dockerfile", "dockerfile"].into_iter().find(|name| directory.join(name).exists());
            directory.join(name.unwrap_or("Dockerfile"))
        }
        _ => return None,
    };
    let mut path = dockerfile.into_os_string();
    path.push(".lock");
    Some(path.into())
}

impl Lock {
    /// Reads the lock file; one that is not there pins nothing.
    ///
    /// # Errors
    /// `Usage`: it cannot be read, or says something else.
    pub fn read(path: &Path) -> Result<Lock, BuildError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // a context that is no directory is told where it is opened
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Lock::default());
            }
            Err(error) => return Err(refused(path, &with_causes(&error))),
        };
        let file: LockFile = toml::from_str(&text).map_err(|error| refused(path, error.message()))?;
        if file.version != VERSION {
            return Err(refused(path, &format!("its version is {}, this program knows {VERSION}", file.version)));
        }
        Ok(Lock {
            pins: Sources {
                images: file.images.into_iter().map(|pin| (pin.name, pin.digest)).collect(),
                urls: file.urls.into_iter().map(|pin| (pin.url, pin.digest)).collect(),
                commits: file.trees.into_iter().map(|pin| ((pin.remote, pin.reference), pin.commit)).collect(),
            },
        })
    }

    /// The image by its digest, if the name is pinned.
    pub fn image(&self, image_ref: &ImageRef) -> ImageRef {
        let pinned = self.pins.images.get(&image_ref.canonical()).copied();
        ImageRef { digest: image_ref.digest.or(pinned), ..image_ref.clone() }
    }

    /// Gives a download its checksum and a git tree its commit.
    pub fn pin(&self, op: Op) -> Op {
        match op {
            Op::Http(mut http) => {
                http.checksum = http.checksum.or_else(|| self.pins.urls.get(&http.url).copied());
                Op::Http(http)
            }
            Op::Git(mut git) => {
                let key = (git.remote.clone(), git.reference.clone());
                git.checksum = git.checksum.or_else(|| self.pins.commits.get(&key).cloned());
                Op::Git(git)
            }
            op => op,
        }
    }

    /// Writes what this build has found; `found` has what is pinned as well.
    ///
    /// # Errors
    /// `Environment`: the file cannot be written.
    pub fn write(path: &Path, found: &Sources) -> Result<(), BuildError> {
        let image = |(name, digest): (&String, &Digest)| ImagePin { name: name.clone(), digest: *digest };
        let url = |(url, digest): (&String, &Digest)| UrlPin { url: url.clone(), digest: *digest };
        let tree = |((remote, reference), commit): (&(String, String), &String)| GitPin {
            remote: remote.clone(),
            reference: reference.clone(),
            commit: commit.clone(),
        };
        let file = LockFile {
            version: VERSION,
            images: found.images.iter().map(image).collect(),
            urls: found.urls.iter().map(url).collect(),
            trees: found.commits.iter().map(tree).collect(),
        };
        let text = toml::to_string(&file).expect("a lock file is plain data");
        fs::write(path, format!("{HEADER}{text}")).map_err(|error| {
            let message = format!("cannot write `{}`", path.display());
            let diagnostic = Diagnostic::error_without_place("lock", message).note(with_causes(&error));
            BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] }
        })
    }
}

/// A base image that must be pinned and is not.
pub fn unpinned_image(wanted: &Wanted) -> Diagnostic {
    let (source, span) = &wanted.place;
    Diagnostic::error("unpinned", format!("`{}` is not pinned", wanted.written), source, *span).help(HELP)
}

/// A download or a git tree that must be pinned and is not.
pub fn unpinned_step(step: &Step) -> Option<Diagnostic> {
    let name = match &step.op {
        Op::Http(http) if http.checksum.is_none() => &http.url,
        Op::Git(git) if git.checksum.is_none() => &git.remote,
        _ => return None,
    };
    let message = format!("`{name}` is not pinned");
    let diagnostic = match &step.origin.place {
        Some((source, span)) => Diagnostic::error("unpinned", message, source, *span),
        None => Diagnostic::error_without_place("unpinned", message),
    };
    Some(diagnostic.help(HELP))
}

const HELP: &str =
    "`croze build --lock` writes what it stands for into the lock file; or name it by digest, `--checksum` or commit";

fn refused(path: &Path, why: &str) -> BuildError {
    let message = format!("the lock file `{}` cannot be used: {}", path.display(), why.trim_end());
    let diagnostic = Diagnostic::error_without_place("lock", message).help("`croze build --lock=update` writes it anew");
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let space = tempfile::tempdir().expect("space");
        let path = space.path().join("Dockerfile.lock");
        assert_eq!(Lock::read(&path).expect("nothing is pinned"), Lock::default());
        let digest = Digest::of(b"x");
        let found = Sources {
            images: BTreeMap::from([("docker.io/library/busybox:latest".to_owned(), digest)]),
            urls: BTreeMap::from([("https://x/y".to_owned(), digest)]),
            commits: BTreeMap::from([(("https://x/z.git".to_owned(), "main".to_owned()), "0123".to_owned())]),
        };
        Lock::write(&path, &found).expect("written");
        let lock = Lock::read(&path).expect("read");
        assert_eq!(lock.pins, found);
        assert_eq!(lock.image(&"busybox".parse().expect("valid")).digest, Some(digest));
        assert_eq!(lock.image(&"busybox:1".parse().expect("valid")).digest, None);
        fs::write(&path, "version = 2\n").expect("writes");
        let error = Lock::read(&path).expect_err("of another version");
        assert!(error.diagnostics[0].message.ends_with("its version is 2, this program knows 1"));
    }
}
