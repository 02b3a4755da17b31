//! Steps that make files without running anything, and the content of what commands mount: how the worker keys and runs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use super::copy::{self, CopyInput, Download, Remark, TreeInput};
use super::error::WorkError;
use super::exec::Surroundings;
use super::hearsay::{Basis, HeardDigests, Parent, ToldDigests, recalled};
use super::secret::{Credentials, InKey, Secret, SshAgent};
use super::{LocalWorker, Output, Stack, Strictness, Task, attend, mkdir, mounts, retry, stack};
use crate::cache::{FileStates, KeySink};
use crate::diagnostic::{Diagnostic, with_causes};
use crate::digest::{CacheKey, ChainId, ContentDigest, DiffId, Digest, Hasher, hmac};
use crate::dockerfile::has_wildcards;
use crate::event::Event;
use crate::graph::{Chmod, CopyOp, CopySource, ExecOp, GitOp, Mount, MountKind, Op, Origin, StepIndex, Unpack};
use crate::layer;
use crate::schedule::Novelty;
use crate::snapshot::{FileKind, FileTree, Last, Time, Told, TreePath, View, Witness, resolve};
use crate::source::context::Context;
use crate::source::digest::{FileDigests, Hashing, Remembered, content_digest};
use crate::source::git;
use crate::source::http::HttpFile;
use crate::store::{Record, StepLock, TempDir};
use crate::task;

/// What was found out about a step for its key.
pub enum Prepared {
    /// A copy.
    Copy(Box<copy::Prepared>),
    /// A directory.
    Mkdir(mkdir::Prepared),
}

impl Prepared {
    /// What tells the states of the files apart that a copy selects, by path in their source.
    pub fn states(&self) -> FileStates {
        match self {
            Prepared::Copy(prepared) => prepared.states(),
            Prepared::Mkdir(_) => FileStates::default(),
        }
    }
}

/// The parts of a copy's or directory's key, for people: its options, and the digest of all that decides it.
pub fn list_parts(op: &Op, prepared: Option<&Prepared>, sink: &mut dyn KeySink) {
    match op {
        Op::Copy(copy) => {
            sink.part("op", b"copy");
            sink.part("destination", copy.destination.as_bytes());
            copy.chown.iter().for_each(|owner| sink.part("--chown", owner.as_bytes()));
            match &copy.chmod {
                Some(Chmod::Octal(mode)) => sink.part("--chmod", format!("{mode:o}").as_bytes()),
                Some(Chmod::Symbolic(text)) => sink.part("--chmod", text.as_bytes()),
                None => {}
            }
            copy.excludes.iter().for_each(|pattern| sink.part("--exclude", pattern.as_bytes()));
        }
        Op::Mkdir(mkdir) => {
            sink.part("op", b"mkdir");
            sink.part("destination", mkdir.path.as_bytes());
            sink.part("user", mkdir.user.as_bytes());
        }
        _ => unreachable!("only steps that make files come here"),
    }
    match prepared {
        Some(Prepared::Copy(prepared)) => sink.part("content", prepared.key().as_bytes()),
        Some(Prepared::Mkdir(prepared)) => sink.part("content", prepared.key().as_bytes()),
        None => {}
    }
}

/// An input as something that can be read.
enum Readable {
    View(View),
    Context(Arc<Context>),
    Download(Download),
}

impl Readable {
    fn tree(&self) -> Option<&dyn FileTree> {
        match self {
            Readable::View(view) => Some(view),
            Readable::Context(context) => Some(&**context),
            Readable::Download(_) => None,
        }
    }
}

/// What a command needs before it can start.
struct Ready {
    trees: Vec<PathBuf>,
    mounted_trees: Vec<Option<(Option<TempDir>, Vec<PathBuf>)>>,
    cache_names: Vec<Option<Digest>>,
    locks: Vec<StepLock>,
}

impl LocalWorker {
    /// The digest of all that decides the files that a step makes, and what was found out on the way.
    ///
    /// Where all inputs are layers, which never change, the answer is remembered and nothing is read the next time.
    pub(super) async fn prepare_files(
        &self,
        index: StepIndex,
        inputs: &[Output],
    ) -> Result<(Digest, Option<Arc<Prepared>>), WorkError> {
        let op = &self.shared.graph.step(index).op;
        let is_strict = self.shared.strictness == Strictness::Strict;
        // what a strict build fails for is found by looking
        let memo = memo_key(b"files", &serde_json::to_vec(op).unwrap_or_default(), inputs).filter(|_| !is_strict);
        let parent = stack(&inputs[0]);
        if let Some(key) = &memo
            && let Some(digest) = self.recalled(key)?
            && self.pass_on(parent)?
        {
            return Ok((digest, None));
        }
        let (prepared, basis) = self.find_out(index, inputs).await?;
        let digest = match &prepared {
            Prepared::Copy(prepared) => prepared.key(),
            Prepared::Mkdir(prepared) => prepared.key(),
        };
        if let (Some(key), Basis::Trees) = (&memo, basis) {
            self.remember(key, &digest)?;
        }
        Ok((digest, Some(Arc::new(prepared))))
    }

    /// Decides what a step makes: by what the layers below have told another machine, if they are not here, else by a look at
    /// them.
    async fn find_out(&self, index: StepIndex, inputs: &[Output]) -> Result<(Prepared, Basis), WorkError> {
        let parent = stack(&inputs[0]);
        if let Some(testimony) = self.told_elsewhere(parent)? {
            let _turn = self.turn(&inputs[1..]).await?;
            let readable = self.open_readable(&inputs[1..]).await?;
            if let Some(prepared) = self.decide((index, parent), readable, Parent::Told(testimony)).await? {
                self.pass_on(parent)?;
                return Ok((prepared, Basis::Testimony));
            }
        }
        let _turn = self.turn(inputs).await?;
        let (view, readable) = self.open(inputs).await?;
        let tree = if self.shared.told.is_some() { Parent::Heard(view, parent.clone()) } else { Parent::View(view) };
        let prepared = self.decide((index, parent), readable, tree).await?;
        Ok((prepared.expect("a tree knows all of itself"), Basis::Trees))
    }

    /// Waits for the files of `inputs` to be here, and then for leave to read them. Reading is work for processors: more threads
    /// than those would only wait for each other, and each holds open what it reads.
    async fn turn(&self, inputs: &[Output]) -> Result<SemaphorePermit<'_>, WorkError> {
        for input in inputs {
            if let Output::Stack(stack) = input {
                self.trees(stack).await?;
            }
        }
        Ok(self.turns.acquire().await.expect("turns never end"))
    }

    /// `None` if `parent` does not know enough. The caller has a turn.
    async fn decide(
        &self,
        (index, stack): (StepIndex, &Stack),
        readable: Vec<Readable>,
        parent: Parent,
    ) -> Result<Option<Prepared>, WorkError> {
        let shared = self.shared.clone();
        // without layers there is nothing to remember
        let layers = stack.chain().unwrap_or(ChainId(Digest::of(b"")));
        let is_small = is_small(&shared.graph.step(index).op, &readable);
        let find_out = move || {
            let prepare = |tree: &dyn FileTree, digests: &dyn FileDigests| match &shared.graph.step(index).op {
                Op::Copy(op) => {
                    let into = TreeInput { tree, digests, hidden: None };
                    let prepared = with_inputs(&readable, |inputs| copy::prepare(op, inputs, into))?;
                    Ok(Prepared::Copy(Box::new(prepared)))
                }
                Op::Mkdir(op) => Ok::<_, WorkError>(Prepared::Mkdir(mkdir::prepare(op, tree)?)),
                _ => unreachable!("only steps that make files come here"),
            };
            match parent {
                Parent::View(view) => prepare(&view, &Remembered { tree: &view, stack: layers, store: &shared.store }).map(Some),
                Parent::Told(testimony) => {
                    let told = Told::new(&testimony);
                    let prepared = prepare(&told, &ToldDigests(&told));
                    if told.was_silent() { Ok(None) } else { prepared.map(Some) }
                }
                Parent::Heard(view, stack) => {
                    let witness = Witness::new(&view);
                    let remembered = Remembered { tree: &view, stack: layers, store: &shared.store };
                    let prepared = prepare(&witness, &HeardDigests { digests: &remembered, witness: &witness })?;
                    // what making the layer asks beyond that
                    if witness.lookup(&TreePath::root())?.is_some() {
                        witness.xattrs(&TreePath::root())?;
                    }
                    shared.keep_testimony(&stack, witness.finish())?;
                    Ok(Some(prepared))
                }
            }
        };
        // handing it over costs more than a few lookups
        let prepared = if is_small { find_out() } else { task::blocking(find_out).await };
        if let Ok(Some(Prepared::Copy(copy))) = &prepared {
            let origin = &self.shared.graph.step(index).origin;
            let warnings: Vec<Diagnostic> = copy.remarks.iter().filter_map(|remark| warning(remark, origin)).collect();
            if self.shared.strictness == Strictness::Strict && !warnings.is_empty() {
                return Err(WorkError::Warned { warnings });
            }
            for warning in warnings {
                self.shared.events.event(Event::Warning(Box::new(warning)));
            }
        }
        prepared
    }

    /// Runs a step that makes files.
    pub(super) async fn make_files(&self, task: &Task) -> Result<Record, WorkError> {
        let prepared = match &task.files {
            Some(prepared) => prepared.clone(),
            None => Arc::new(self.find_out(task.index, &task.inputs).await?.0),
        };
        if let Some(testimony) = self.told_elsewhere(&task.parent)? {
            let readable = self.open_readable(&task.inputs[1..]).await?;
            if let Some(record) = self.make(task, prepared.clone(), readable, Parent::Told(testimony)).await? {
                return Ok(record);
            }
        }
        let (parent, readable) = self.open(&task.inputs).await?;
        let record = self.make(task, prepared, readable, Parent::View(parent)).await?;
        Ok(record.expect("a tree knows all of itself"))
    }

    /// `None` if `parent` does not know enough.
    async fn make(
        &self,
        task: &Task,
        prepared: Arc<Prepared>,
        readable: Vec<Readable>,
        parent: Parent,
    ) -> Result<Option<Record>, WorkError> {
        let forms = self.shared.forms_ahead(task)?;
        let shared = self.shared.clone();
        let created = Time { seconds: shared.now_secs, nanoseconds: 0 };
        // a limited time makes another tar, which is made of the files
        let wants_files = !shared.unread.contains(&task.index) || forms.iter().any(|form| form.epoch.is_some());
        let index = task.index;
        task::blocking(move || {
            if let Prepared::Copy(prepared) = &*prepared
                && !wants_files
                && copy::can_be_packed(prepared)
            {
                let place = former_key(&shared.graph.step(index).op, shared.cache.project());
                let former = recalled(&shared.store, &place)?.map(DiffId);
                let pack =
                    |inputs: &[CopyInput<'_>]| copy::pack(prepared, inputs, &shared.store, created, &forms, former.as_ref());
                let stored = with_inputs(&readable, pack)?;
                shared.store.set_memo(&place, stored.record.diff_id.0.as_bytes())?;
                return Ok(Some(Record { diff_id: stored.record.diff_id, created_secs: shared.now_secs }));
            }
            let temp = shared.store.temp_dir()?;
            let tree = temp.path.join("tree");
            std::fs::create_dir(&tree).map_err(WorkError::system("create a directory for the step"))?;
            let make = |parent: &dyn FileTree| match &*prepared {
                Prepared::Copy(prepared) => with_inputs(&readable, |inputs| copy::run(prepared, inputs, parent, &tree, created)),
                Prepared::Mkdir(prepared) => mkdir::run(prepared, parent, &tree, created),
            };
            match parent {
                Parent::View(view) | Parent::Heard(view, _) => make(&view)?,
                Parent::Told(testimony) => {
                    let told = Told::new(&testimony);
                    let made = make(&told);
                    if told.was_silent() {
                        return Ok(None);
                    }
                    made?;
                }
            }
            let stored = layer::commit_ahead(&shared.store, tree, &forms)?;
            Ok(Some(Record { diff_id: stored.record.diff_id, created_secs: shared.now_secs }))
        })
        .await
    }

    /// The first input as a tree, the others as what they are.
    async fn open(&self, inputs: &[Output]) -> Result<(View, Vec<Readable>), WorkError> {
        let parent = self.view(stack(&inputs[0])).await?;
        Ok((parent, self.open_readable(&inputs[1..]).await?))
    }

    async fn open_readable(&self, inputs: &[Output]) -> Result<Vec<Readable>, WorkError> {
        let mut readable = Vec::with_capacity(inputs.len());
        for input in inputs {
            readable.push(match input {
                Output::Stack(stack) => Readable::View(self.view(stack).await?),
                Output::Context(context) => Readable::Context(context.clone()),
                Output::Download(file) => Readable::Download(self.downloaded(file)),
            });
        }
        Ok(readable)
    }

    fn downloaded(&self, file: &HttpFile) -> Download {
        Download {
            path: self.shared.store.blob_path(&file.digest),
            name: file.file_name.clone().into_bytes(),
            mtime: Time { seconds: file.last_modified_secs.unwrap_or(0), nanoseconds: 0 },
            digest: file.digest,
            size_bytes: file.size_bytes,
        }
    }

    /// A git tree as a context.
    pub(super) async fn check_out(&self, op: &GitOp) -> Result<Output, WorkError> {
        let agent = self.shared.ssh.iter().find(|agent| agent.id == "default").and_then(SshAgent::socket).map(Path::to_owned);
        let access = Credentials(&self.shared.secrets).git(&op.remote, agent, self.shared.proxy_env.clone());
        let commit = git::resolve(op, &access).await?;
        let key = (op.remote.clone(), op.reference.clone());
        self.sources.lock().expect("no holder of this lock panics").commits.insert(key, commit.id.clone());
        let checkout = git::checkout(&self.shared.store, op, &commit, &access).await?;
        Ok(Output::Context(Arc::new(Context::checkout(&self.shared.store, checkout)?)))
    }

    /// The content of each bind mount's source, `None` for other mounts.
    pub(super) async fn mounted_content(&self, op: &ExecOp, inputs: &[Output]) -> Result<Vec<Option<ContentDigest>>, WorkError> {
        let mut contents = Vec::with_capacity(op.mounts.len());
        for mount in &op.mounts {
            let Some((input, source)) = mount.kind.read() else {
                contents.push(self.secret_content(mount)?);
                continue;
            };
            let memo = memo_key(b"mount", source.as_bytes(), &inputs[input..=input]);
            if let Some(key) = &memo
                && let Some(digest) = self.recalled(key)?
            {
                contents.push(Some(ContentDigest(digest)));
                continue;
            }
            let _turn = self.turn(&inputs[input..=input]).await?;
            let readable = match &inputs[input] {
                Output::Stack(stack) => Readable::View(self.view(stack).await?),
                Output::Context(context) => Readable::Context(context.clone()),
                Output::Download(_) => unreachable!("the plan mounts file systems and contexts"),
            };
            let (source, target) = (TreePath::clean(source.as_bytes()), mount.target.clone());
            let content = task::blocking(move || -> Result<ContentDigest, WorkError> {
                let tree = readable.tree().expect("only trees are mounted");
                let found = resolve(tree, &source, Last::Follow)?;
                // nothing at all still has a root
                if found.meta.is_none() && !source.is_root() {
                    return Err(WorkError::Mount { target, reason: format!("`{source}` not found in what is mounted") });
                }
                let content = with_digests(&readable, |digests| content_digest(tree, digests, &found.path))?;
                Ok(content)
            })
            .await?;
            if let Some(key) = &memo {
                self.remember(key, &content.0)?;
            }
            contents.push(Some(content));
        }
        Ok(contents)
    }

    /// What stands for a secret's value in a key, if it is to take part in it.
    fn secret_content(&self, mount: &Mount) -> Result<Option<ContentDigest>, WorkError> {
        let MountKind::Secret { id, .. } = &mount.kind else { return Ok(None) };
        let takes_part = |secret: &&Secret| secret.id == *id && secret.in_key == InKey::Digest;
        let Some(secret) = self.shared.secrets.iter().find(takes_part) else { return Ok(None) };
        let value = secret.value().map_err(WorkError::system("read a secret"))?;
        let key = match &self.shared.secret_key {
            Some(text) => text.clone().into_bytes(),
            None => self.shared.store.secret_key()?,
        };
        let own_key = hmac(&key, id.as_bytes());
        Ok(Some(ContentDigest(hmac(own_key.as_bytes(), &value))))
    }

    /// Runs a command in a sandbox.
    pub(super) async fn run_command(&self, task: &Task, op: &ExecOp) -> Result<(Record, Novelty), WorkError> {
        let Ready { trees, mounted_trees, cache_names, locks } = self.unless_canceled(self.ready(task, op)).await?;
        let (shared, launcher, canceling) = (self.shared.clone(), self.launcher.clone(), self.canceling.clone());
        let (fittings, network) = (self.fittings.clone(), self.network.clone());
        let (op, parent) = (op.clone(), task.parent.clone());
        let (key, number) = (task.key, self.shared.numbers.get(&task.index).copied());
        let forms = self.shared.forms_ahead(task)?;
        let limits = self.shared.graph.step(task.index).origin.limits;
        task::blocking(move || {
            let (held, mounted_trees): (Vec<Option<TempDir>>, mounts::Trees) =
                mounted_trees.into_iter().map(|trees| trees.map_or((None, None), |(held, trees)| (held, Some(trees)))).unzip();
            let launcher = launcher.get().expect("the launcher was started above");
            let (shared, fittings, canceling, parent) = (&*shared, &*fittings, &*canceling, &*parent);
            let network = network.get();
            let surroundings =
                Surroundings { shared, launcher, network, fittings, canceling, number, limits, forms, parent, trees };
            let note = |text| attend::Output::new(shared, number).note(text);
            let record = retry::repeat(limits.retry, canceling, note, || {
                let mounted = mounts::prepare(&op, &mounted_trees, &cache_names, shared)?;
                super::exec::run((&op, &key), mounted, &surroundings)
            });
            drop(held);
            drop(locks);
            record
        })
        .await
    }

    /// Brings together what a command needs before it can start, which may take long: base layers, files of mounts, locks.
    async fn ready(&self, task: &Task, op: &ExecOp) -> Result<Ready, WorkError> {
        let trees = self.trees(&task.parent).await?;
        let mut mounted_trees = Vec::with_capacity(op.mounts.len());
        for mount in &op.mounts {
            mounted_trees.push(match mount.kind.read() {
                Some((input, source)) => Some(self.mount_tree(&task.inputs[input], source).await?),
                None => None,
            });
        }
        self.start(op, self.shared.numbers.get(&task.index).copied()).await?;
        let cache_names = mounts::cache_names(op, &task.inputs);
        self.bring_mounts(task.index, &cache_names).await;
        let mut locks = Vec::new();
        for key in mounts::locked_caches(op, &cache_names) {
            locks.push(match self.shared.store.try_lock_step(&key)? {
                Some(lock) => lock,
                None => {
                    let store = self.shared.store.clone();
                    task::blocking(move || store.lock_step(&key)).await?
                }
            });
        }
        Ok(Ready { trees, mounted_trees, cache_names, locks })
    }

    /// Brings cache mounts that are in caches elsewhere and not here. What cannot be had begins empty.
    async fn bring_mounts(&self, index: StepIndex, names: &[Option<Digest>]) {
        for name in names.iter().flatten() {
            let shared = &self.shared;
            if !shared.imports.has_mount(name) || shared.store.has_cache_mount(name) {
                continue;
            }
            let cell = self.fetched.lock().expect("no holder of this lock panics").entry(*name).or_default().clone();
            let fetch = async || shared.imports.fetch_mount(&shared.store, shared.limits, name).await;
            if let (Err(error), Some(step)) = (cell.get_or_try_init(fetch).await, shared.numbers.get(&index)) {
                let text = format!("a cache mount begins empty: {}", with_causes(&error));
                shared.events.event(Event::Note { step: *step, text });
            }
        }
    }

    /// The layer directories that a mount reads. A context is copied first: a mount shows what the ignore file leaves of it, owned
    /// by root.
    async fn mount_tree(&self, input: &Output, source: &str) -> Result<(Option<TempDir>, Vec<PathBuf>), WorkError> {
        match input {
            Output::Stack(stack) => Ok((None, self.trees(stack).await?)),
            Output::Context(context) => {
                let temp = self.shared.store.temp_dir()?;
                let (context, source) = (context.clone(), TreePath::clean(source.as_bytes()));
                task::blocking(move || {
                    let tree = temp.path.join("context");
                    std::fs::create_dir(&tree).map_err(WorkError::system("create a directory for a mount"))?;
                    copy_to_same_path(context, &source, &tree)?;
                    Ok((Some(temp), vec![tree]))
                })
                .await
            }
            Output::Download(_) => unreachable!("the plan mounts file systems and contexts"),
        }
    }
}

/// Whether finding out what a step makes is a matter of few lookups and few bytes.
fn is_small(op: &Op, inputs: &[Readable]) -> bool {
    const SOURCES: usize = 8;
    const FILE_BYTES: u64 = 32 << 10;
    let Op::Copy(copy) = op else { return true };
    let is_small = |source: &CopySource| match source {
        CopySource::Inline(_) => true,
        CopySource::Path { input, pattern } if !has_wildcards(pattern.as_bytes()) => match inputs.get(input.wrapping_sub(1)) {
            Some(Readable::Context(context)) => {
                let meta = context.lookup(&TreePath::clean(pattern.as_bytes()));
                meta.ok().flatten().is_some_and(|meta| meta.kind == FileKind::File && meta.size_bytes <= FILE_BYTES)
            }
            _ => false,
        },
        _ => false,
    };
    copy.unpack == Unpack::Never && !copy.parents && copy.sources.len() <= SOURCES && copy.sources.iter().all(is_small)
}

/// A remark, at the word that it is about.
fn warning(remark: &Remark, origin: &Origin) -> Option<Diagnostic> {
    let (source, instruction) = origin.place.as_ref()?;
    let owner = |what: &str, name: &str| {
        let span = origin.words.owner.unwrap_or(*instruction);
        Diagnostic::warning("unknown-owner", format!("the image has no {what} `{name}`"), source, span)
    };
    Some(match remark {
        Remark::NoMatch { source_number } => {
            let span = origin.words.sources.get(*source_number).unwrap_or(instruction);
            let pattern = source.text().get(span.range()).unwrap_or_default();
            Diagnostic::warning("no-match", format!("nothing matches `{pattern}`, so nothing is copied for it"), source, *span)
        }
        Remark::UnknownUser { name } => owner("user", name).note("so the files belong to root"),
        Remark::UnknownGroup { name } => owner("group", name).note("so the files belong to the user's own group"),
    })
}

/// Copies `source` of a context to the same path below the empty directory `tree`.
fn copy_to_same_path(context: Arc<Context>, source: &TreePath, tree: &Path) -> Result<(), WorkError> {
    let found = resolve(&*context, source, Last::Follow)?;
    let is_directory = found.meta.is_some_and(|meta| meta.kind == FileKind::Directory);
    let path = format!("/{}", String::from_utf8_lossy(source.as_bytes()));
    let op = CopyOp {
        sources: vec![CopySource::Path { input: 1, pattern: path.clone() }],
        destination: if is_directory && !source.is_root() { format!("{path}/") } else { path },
        chown: None,
        chmod: None,
        parents: false,
        excludes: Vec::new(),
        unpack: Unpack::Never,
    };
    let nothing = View::new(Vec::new())?;
    with_inputs(&[Readable::Context(context)], |inputs| {
        let prepared = copy::prepare(&op, inputs, TreeInput { tree: &nothing, digests: &Hashing(&nothing), hidden: None })?;
        copy::run(&prepared, inputs, &nothing, tree, Time::default())
    })?;
    Ok(())
}

/// Calls `work` with the inputs as the copy engine takes them.
fn with_inputs<T>(readable: &[Readable], work: impl FnOnce(&[CopyInput<'_>]) -> T) -> T {
    let hashers: Vec<Option<Hashing<'_>>> = readable
        .iter()
        .map(|readable| match readable {
            Readable::View(view) => Some(Hashing(view)),
            _ => None,
        })
        .collect();
    let hidden: Vec<_> = readable
        .iter()
        .map(|readable| match readable {
            Readable::Context(context) => Some(move |path: &TreePath| context.hidden_by(path)),
            _ => None,
        })
        .collect();
    let inputs: Vec<CopyInput<'_>> = readable
        .iter()
        .zip(&hashers)
        .zip(&hidden)
        .map(|((readable, hasher), hidden)| match readable {
            Readable::Download(download) => CopyInput::Download(download),
            Readable::Context(context) => CopyInput::Tree(TreeInput {
                tree: &**context,
                digests: &**context,
                hidden: hidden.as_ref().map(|hidden| hidden as &copy::HiddenBy<'_>),
            }),
            Readable::View(view) => {
                let digests = hasher.as_ref().expect("views are hashed");
                CopyInput::Tree(TreeInput { tree: view, digests, hidden: None })
            }
        })
        .collect();
    work(&inputs)
}

fn with_digests<T>(readable: &Readable, work: impl FnOnce(&dyn FileDigests) -> T) -> T {
    match readable {
        Readable::View(view) => work(&Hashing(view)),
        Readable::Context(context) => work(&**context),
        Readable::Download(_) => unreachable!("only trees are asked for digests"),
    }
}

/// Where the store remembers the layer that a copy of this project made last.
fn former_key(op: &Op, project: &str) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"former copy 1");
    hasher.field(project.as_bytes());
    hasher.field(&serde_json::to_vec(op).unwrap_or_default());
    CacheKey(hasher.finish())
}

/// Names a pure function of layers: what it computes, its other arguments, and the layers. `None` if an input may change.
fn memo_key(what: &[u8], argument: &[u8], inputs: &[Output]) -> Option<CacheKey> {
    let mut hasher = Hasher::new();
    hasher.field(b"croze-memo-1");
    hasher.field(what);
    hasher.field(argument);
    for input in inputs {
        let Output::Stack(stack) = input else { return None };
        let layers = stack.layers();
        hasher.update(&(layers.len() as u64).to_le_bytes());
        layers.iter().for_each(|layer| hasher.update(layer.diff_id.0.as_bytes()));
    }
    Some(CacheKey(hasher.finish()))
}
