//! What the client brought: the Dockerfile's text, the ignore file, the contexts.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remote::Files;
use super::{BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind, NamedContextSource, report};
use crate::diagnostic::{Diagnostic, Source, with_causes};
use crate::dockerfile::ignore::Patterns;
use crate::snapshot::{DirTree, Last, TreePath, resolve};
use crate::source::context::{Context, ContextError, Ignore};
use crate::source::git::Checkout;
use crate::store::{Store, TempDir};

/// The client's files, opened.
pub struct Inputs {
    /// The Dockerfile.
    pub dockerfile: Source,
    /// `context` and the named local ones.
    pub contexts: HashMap<String, Arc<Context>>,
    /// Whether the main context came as an archive.
    pub is_archive: bool,
    /// What the main context leaves out.
    pub ignore: Option<Arc<Patterns>>,
}

/// The largest Dockerfile that is read.
const DOCKERFILE_LIMIT_BYTES: u64 = 16 << 20;

/// Opens everything that is on this machine; what is elsewhere was fetched before. Blocks.
pub fn open(store: &Store, request: &mut BuildRequest, mut arrived: HashMap<String, Files>) -> Result<Inputs, BuildError> {
    let mut text = None;
    let main = match std::mem::replace(&mut request.context, ContextSource::Directory(PathBuf::new())) {
        ContextSource::Directory(directory) => Main::Directory(checked_directory(&directory)?),
        ContextSource::Remote(remote) => match arrived.remove("context") {
            Some(Files::Checkout(checkout)) => Main::Checkout(checkout),
            Some(Files::Download(files)) => Main::Extracted(files),
            None => return Err(cannot_read(&remote, &std::io::ErrorKind::NotFound.into())),
        },
        ContextSource::Stream(stream) => {
            let mut start = read_start(stream)?;
            if looks_like_archive(&start.head) {
                // extracted first: the Dockerfile and the ignore file are inside
                Main::Extracted(Context::extract(store, &mut start.into_reader()).map_err(|error| context_error(&error))?)
            } else {
                text = Some(start.read_text()?);
                Main::Empty
            }
        }
    };
    let dockerfile = match std::mem::replace(&mut request.dockerfile, DockerfileSource::Default) {
        DockerfileSource::Stream(mut stream) => {
            let mut bytes = Vec::new();
            stream.by_ref().take(DOCKERFILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(|error| cannot_read("-", &error))?;
            Found { source: Source::new("Dockerfile", lossy(bytes)), path: None }
        }
        DockerfileSource::File(path) => main.dockerfile(&path)?,
        // what is behind a URL became a stream when it was fetched
        DockerfileSource::Url(url) => return Err(cannot_read(&url, &std::io::ErrorKind::NotFound.into())),
        DockerfileSource::Default => match text {
            Some(text) => Found { source: Source::new("Dockerfile", text), path: None },
            None => default_dockerfile(main.root())?,
        },
    };
    let ignore = match &main {
        // what comes from elsewhere is taken as it is
        Main::Checkout(_) | Main::Extracted(_) | Main::Empty => None,
        Main::Directory(root) => ignore_patterns(root, dockerfile.path.as_deref())?,
    };
    let offered = || ignore.clone().map(|patterns| -> Box<dyn Ignore> { Box::new(patterns) });
    let is_archive = matches!(main, Main::Extracted(_));
    let context = match main {
        Main::Directory(directory) => Context::open(store, &directory, offered()),
        Main::Extracted(extracted) => Context::in_temp(store, extracted, offered()),
        Main::Checkout(checkout) => Context::checkout(store, checkout),
        Main::Empty => Context::empty(store),
    };
    let modes = request.context_modes;
    let seen = |context: Result<Context, ContextError>| {
        context.map(|context| Arc::new(context.with_modes(modes))).map_err(|error| context_error(&error))
    };
    let mut contexts = HashMap::from([("context".to_owned(), seen(context)?)]);
    for (name, source) in &request.named_contexts {
        let context = match source {
            NamedContextSource::Directory(directory) => {
                let directory = checked_directory(directory)?;
                let ignore = ignore_patterns(&directory, None)?;
                Context::open(store, &directory, ignore.map(|patterns| -> Box<dyn Ignore> { Box::new(patterns) }))
            }
            NamedContextSource::Remote(_) => match arrived.remove(name) {
                Some(Files::Checkout(checkout)) => Context::checkout(store, checkout),
                Some(Files::Download(files)) => Context::in_temp(store, files, None),
                None => continue,
            },
            NamedContextSource::Image(_) | NamedContextSource::Layout(_) => continue,
        };
        contexts.insert(name.clone(), seen(context)?);
    }
    Ok(Inputs { dockerfile: dockerfile.source, contexts, is_archive, ignore })
}

/// The main context, before its ignore file is known.
enum Main {
    Directory(PathBuf),
    Extracted(TempDir),
    Checkout(Checkout),
    Empty,
}

impl Main {
    fn root(&self) -> Option<&Path> {
        match self {
            Main::Directory(path) => Some(path),
            Main::Extracted(temp) => Some(&temp.path),
            Main::Checkout(checkout) => Some(&checkout.path),
            Main::Empty => None,
        }
    }

    /// `-f FILE`: of the working directory for a directory, else inside the context.
    fn dockerfile(&self, path: &Path) -> Result<Found, BuildError> {
        let name = path.display().to_string();
        match (self, self.root()) {
            (Main::Directory(_), _) => read_dockerfile(path, &name),
            (_, Some(root)) => {
                let inside = TreePath::clean(path.as_os_str().as_bytes());
                let files = DirTree::open(root).map_err(|error| cannot_read(&name, &std::io::Error::other(error)))?;
                let found = resolve(&files, &inside, Last::Follow).map_err(|_| no_dockerfile(&name))?;
                read_dockerfile(&root.join(OsStr::from_bytes(found.path.as_bytes())), &name)
            }
            (_, None) => Err(no_dockerfile(&name)),
        }
    }
}

struct Found {
    source: Source,
    path: Option<PathBuf>,
}

/// A stream whose first bytes were looked at.
struct Start {
    head: Vec<u8>,
    rest: Box<dyn Read + Send>,
}

impl Start {
    fn into_reader(self) -> impl Read {
        Cursor::new(self.head).chain(self.rest)
    }

    fn read_text(&mut self) -> Result<String, BuildError> {
        let mut bytes = std::mem::take(&mut self.head);
        self.rest.by_ref().take(DOCKERFILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(|error| cannot_read("-", &error))?;
        Ok(lossy(bytes))
    }
}

fn read_start(mut stream: Box<dyn Read + Send>) -> Result<Start, BuildError> {
    let mut head = Vec::new();
    stream.by_ref().take(1024).read_to_end(&mut head).map_err(|error| cannot_read("-", &error))?;
    if head.is_empty() {
        return Err(usage(
            Diagnostic::error_without_place("empty-context", "standard input is empty")
                .help("pipe a tar archive or a Dockerfile into `croze build -`"),
        ));
    }
    Ok(Start { head, rest: stream })
}

/// Whether these first bytes (up to 1,024) begin a tar, plain or compressed.
pub fn looks_like_archive(head: &[u8]) -> bool {
    let compressed = head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(b"BZh")
        || head.starts_with(b"\xfd7zXZ\0")
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    compressed || (head.len() >= 262 && &head[257..262] == b"ustar")
}

pub(super) fn checked_directory(directory: &Path) -> Result<PathBuf, BuildError> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(directory.to_owned()),
        Ok(_) => {
            let message = format!("context `{}` is not a directory", directory.display());
            let diagnostic = Diagnostic::error_without_place("context-not-a-directory", message);
            Err(usage(diagnostic.help("for a Dockerfile of another name: `-f FILE`; for an archive: `croze build - < FILE`")))
        }
        Err(error) => {
            let message = format!("unable to prepare context: path `{}` not found", directory.display());
            let diagnostic = Diagnostic::error_without_place("context-missing", message);
            let is_said = error.kind() == std::io::ErrorKind::NotFound;
            Err(usage(if is_said { diagnostic } else { diagnostic.note(with_causes(&error)) }))
        }
    }
}

fn default_dockerfile(root: Option<&Path>) -> Result<Found, BuildError> {
    let Some(root) = root else { return Err(no_dockerfile("Dockerfile")) };
    for name in ["Dockerfile", "dockerfile"] {
        let path = root.join(name);
        if path.exists() {
            return read_dockerfile(&path, name);
        }
    }
    Err(no_dockerfile("Dockerfile"))
}

fn read_dockerfile(path: &Path, name: &str) -> Result<Found, BuildError> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => no_dockerfile(name),
        _ => cannot_read(name, &error),
    })?;
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(|error| cannot_read(name, &error))?;
    Ok(Found { source: Source::new(name, lossy(bytes)), path: Some(path.to_owned()) })
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile if there is one, else `.dockerignore` in the context's root.
pub(super) fn ignore_patterns(root: &Path, dockerfile: Option<&Path>) -> Result<Option<Arc<Patterns>>, BuildError> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([root.join(".dockerignore")]) {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                let source = Source::new(name, lossy(bytes));
                let patterns = Patterns::parse(&source).map_err(usage)?;
                return Ok(Some(Arc::new(patterns)));
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory) => {}
            Err(error) => return Err(cannot_read(&path.display().to_string(), &error)),
        }
    }
    Ok(None)
}

fn lossy(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

fn usage(diagnostic: Diagnostic) -> BuildError {
    BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
}

fn no_dockerfile(name: &str) -> BuildError {
    usage(
        Diagnostic::error_without_place("no-dockerfile", format!("failed to read dockerfile: `{name}` not found"))
            .help("name another file with `-f FILE`"),
    )
}

fn cannot_read(name: &str, error: &std::io::Error) -> BuildError {
    usage(Diagnostic::error_without_place("unreadable", format!("cannot read `{name}`")).note(with_causes(error)))
}

fn context_error(error: &ContextError) -> BuildError {
    report::context_error(error)
}
