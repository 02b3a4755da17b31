//! `Dockerfile.lock`: which bytes the names in a Dockerfile stood for.
//!
//! A build that finds one beside its Dockerfile takes what it says instead of asking what a name stands for now: base images by
//! digest, downloads by checksum, git trees by commit. `--lock` writes it, `--locked` refuses names that it does not have, and
//! `croze lock` writes it without running a step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind};
use crate::diagnostic::{Diagnostic, nearest, with_causes};
use crate::digest::Digest;
use crate::graph::{GitOp, Op, Step};
use crate::plan::Wanted;
use crate::reference::ImageRef;
use crate::source::git;
use crate::worker::Sources;

/// `--lock`, `--locked`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Locking {
    /// A lock file that is there counts.
    #[default]
    Obey,
    /// What it has counts, and what it lacks is added.
    Write,
    /// It is written anew.
    Update,
    /// As `Write`, but for these names (of images, URLs, git remotes), which are asked for anew.
    Renew(Vec<String>),
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
const HEADER: &str = "# Written by `croze lock` or `croze build --lock`: what the names in the Dockerfile stood for.\n";

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

    /// Forgets what a name stands for: that of an image, a URL, or a git remote with or without `#REFERENCE`.
    ///
    /// # Errors
    /// `Usage`: nothing is pinned by that name.
    pub fn forget(&mut self, name: &str) -> Result<(), BuildError> {
        let Sources { images, urls, commits } = &mut self.pins;
        let before = images.len() + urls.len() + commits.len();
        if let Ok(image_ref) = name.parse::<ImageRef>() {
            images.remove(&image_ref.canonical());
        }
        urls.remove(name);
        commits.retain(|(remote, reference), _| name != remote && name != format!("{remote}#{reference}"));
        if images.len() + urls.len() + commits.len() < before {
            return Ok(());
        }
        let known = images.keys().chain(urls.keys()).chain(commits.keys().map(|(remote, _)| remote));
        let diagnostic = Diagnostic::error_without_place("lock", format!("nothing is pinned by the name `{name}`"));
        let diagnostic = match nearest(name, known.map(String::as_str)) {
            Some(meant) => diagnostic.help(format!("did you mean `{meant}`?")),
            None => diagnostic.help("`--update` without a name asks for all of them anew"),
        };
        Err(BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] })
    }

    /// Gives a download its checksum. A git tree is asked for by its commit: what its reference stands for by now does not matter.
    pub fn pin(&self, op: Op) -> Op {
        match op {
            Op::Http(mut http) => {
                http.checksum = http.checksum.or_else(|| self.url(&http.url));
                Op::Http(http)
            }
            Op::Git(git) => Op::Git(self.pin_tree(git)),
            op => op,
        }
    }

    /// What the file behind a URL must hash to, if it is pinned.
    pub fn url(&self, url: &str) -> Option<Digest> {
        self.pins.urls.get(url).copied()
    }

    /// The tree by its commit, if its name is pinned.
    pub fn pin_tree(&self, git: GitOp) -> GitOp {
        let key = (git.remote, git.reference);
        let pinned = self.pins.commits.get(&key).cloned();
        let (remote, reference) = key;
        GitOp { remote, reference: pinned.unwrap_or(reference), ..git }
    }

    /// Writes what is pinned and what this build has found, which counts more.
    ///
    /// # Errors
    /// `Environment`: the file cannot be written.
    pub fn write(&self, path: &Path, found: &Sources) -> Result<(), BuildError> {
        let mut all = self.pins.clone();
        all.images.extend(found.images.clone());
        all.urls.extend(found.urls.clone());
        let is_name = |((_, reference), _): &(&(String, String), &String)| !git::is_full_commit(reference);
        all.commits.extend(found.commits.iter().filter(is_name).map(|(key, commit)| (key.clone(), commit.clone())));
        let image = |(name, digest): (&String, &Digest)| ImagePin { name: name.clone(), digest: *digest };
        let url = |(url, digest): (&String, &Digest)| UrlPin { url: url.clone(), digest: *digest };
        let tree = |((remote, reference), commit): (&(String, String), &String)| GitPin {
            remote: remote.clone(),
            reference: reference.clone(),
            commit: commit.clone(),
        };
        let file = LockFile {
            version: VERSION,
            images: all.images.iter().map(image).collect(),
            urls: all.urls.iter().map(url).collect(),
            trees: all.commits.iter().map(tree).collect(),
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

/// Whether an operation says which bytes it wants, or wants none from outside.
pub fn is_pinned(op: &Op) -> bool {
    match op {
        Op::Http(http) => http.checksum.is_some(),
        Op::Git(git) => git.checksum.is_some() || git::is_full_commit(&git.reference),
        _ => true,
    }
}

/// A download or a git tree that must be pinned and is not.
pub fn unpinned_step(step: &Step) -> Option<Diagnostic> {
    let name = match &step.op {
        op if is_pinned(op) => return None,
        Op::Http(http) => &http.url,
        Op::Git(git) => &git.remote,
        _ => return None,
    };
    let message = format!("`{name}` is not pinned");
    let diagnostic = match &step.origin.place {
        Some((source, span)) => Diagnostic::error("unpinned", message, source, *span),
        None => Diagnostic::error_without_place("unpinned", message),
    };
    Some(diagnostic.help(HELP))
}

/// A named context that must be pinned and is not.
pub fn unpinned_context(name: &str, remote: &str) -> Diagnostic {
    Diagnostic::error_without_place("unpinned", format!("the context `{name}` from `{remote}` is not pinned")).help(HELP)
}

/// What to do about something that is not pinned.
pub const HELP: &str =
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
        Lock::default().write(&path, &found).expect("written");
        let lock = Lock::read(&path).expect("read");
        assert_eq!(lock.pins, found);
        assert_eq!(lock.image(&"busybox".parse().expect("valid")).digest, Some(digest));
        assert_eq!(lock.image(&"busybox:1".parse().expect("valid")).digest, None);
        let mut less = lock.clone();
        for name in ["busybox", "https://x/y", "https://x/z.git#main"] {
            less.forget(name).expect("is pinned");
        }
        assert_eq!(less, Lock::default());
        let error = lock.clone().forget("busybx").expect_err("a slip").diagnostics.remove(0);
        assert_eq!(error.message, "nothing is pinned by the name `busybx`");
        fs::write(&path, "version = 2\n").expect("writes");
        let error = Lock::read(&path).expect_err("of another version");
        assert!(error.diagnostics[0].message.ends_with("its version is 2, this program knows 1"));
    }
}
