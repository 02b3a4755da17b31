//! Runs the steps of one build on this machine.
//!
//! Owns: [`LocalWorker`] and, one file per op, how each is keyed and run ([`copy`], [`mkdir`], [`exec`]); who a command runs as
//! ([`identity`]).
//! In:   a graph, its sources resolved; inputs as [`Output`]s.
//! Out:  layers in the store, and records of them.
//! Elsewhere: when a step runs (`schedule`), what isolates a command (`sandbox`), how trees become layers (`layer`).

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::JoinSet;

use crate::cache::explain::Description;
use crate::cache::{Cache, HashSink, ListSink, key};
use crate::diagnostic::Diagnostic;
use crate::digest::{CacheKey, ChainId, ContentDigest, DiffId, Digest};
use crate::event::{EventSink, StepNumber};
use crate::graph::{Graph, HttpOp, Op, StepIndex};
use crate::layer::{self, LayerLimits};
use crate::reference::ImageRef;
use crate::registry::Client;
use crate::sandbox::{self, Launcher};
use crate::schedule::{Novelty, Prepared, Slot, Worker};
use crate::snapshot::dir::Dir;
use crate::snapshot::xattr::Family;
use crate::snapshot::{View, open_layer};
use crate::source;
use crate::source::context::Context;
use crate::source::http::HttpFile;
use crate::source::image::{BaseLayer, ResolvedImage};
use crate::store::{Flavour, Kept, Record, Soundness, Store, StoredLayer};
use crate::task;
use crate::travel::{Answers, Imports, TravelError};
use ahead::Ahead;
use network::DefaultNetwork;

mod accounts;
mod agent;
pub mod ahead;
mod attend;
mod copies;
pub mod copy;
mod emulation;
pub mod error;
pub mod exec;
mod files;
pub mod fittings;
mod hearsay;
pub mod identity;
mod keyring;
pub mod mkdir;
pub mod mounts;
mod network;
mod private_key;
mod processes;
mod program;
mod retry;
mod secret;
mod session;
mod sources;
mod vouch;
mod workplace;

pub use crate::sandbox::StandardStreams;
pub use error::{Expired, WorkError};
pub use keyring::KeyError;
pub use secret::{AgentSource, Credentials, InKey, KeyAgents, Secret, SecretSource, SshAgent};
pub use session::{Ended, Shells, Wiring};
pub use sources::Sources;

/// What a step gives to its readers.
#[derive(Clone)]
pub enum Output {
    /// A file system: layers, bottom first.
    Stack(Arc<Stack>),
    /// Files of the client's, or a git checkout.
    Context(Arc<Context>),
    /// A downloaded file.
    Download(Arc<HttpFile>),
}

/// Layers, bottom first.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    layers: Vec<StackLayer>,
    chain: Option<ChainId>,
}

/// One layer of a stack.
#[derive(Clone, Debug)]
pub struct StackLayer {
    /// Its name.
    pub diff_id: DiffId,
    /// When it was made, seconds since 1970; `None` for a base image's.
    pub created_secs: Option<i64>,
    /// For a base image's layer: its blob, and the image it came with.
    pub base: Option<(BaseLayer, Arc<ResolvedImage>)>,
}

impl Stack {
    /// Of these layers.
    pub fn new(layers: Vec<StackLayer>) -> Stack {
        let chain = layers.iter().fold(None, |below, layer| Some(ChainId::above(below, &layer.diff_id)));
        Stack { layers, chain }
    }

    /// With one more layer.
    fn with(&self, layer: StackLayer) -> Stack {
        let chain = ChainId::above(self.chain, &layer.diff_id);
        Stack { layers: self.layers.iter().cloned().chain([layer]).collect(), chain: Some(chain) }
    }

    /// Bottom first.
    pub fn layers(&self) -> &[StackLayer] {
        &self.layers
    }

    /// Names all layers; `None` if there are none.
    pub fn chain(&self) -> Option<ChainId> {
        self.chain
    }

    /// The names of all layers, bottom first.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }
}

/// A step that has its inputs and its key.
pub struct Task {
    index: StepIndex,
    key: CacheKey,
    parent: Arc<Stack>,
    inputs: Vec<Output>,
    /// What was found out for the key, if anything had to be.
    files: Option<Arc<files::Prepared>>,
    /// The content of each mount of a command, see [`key::exec`].
    mounted: Vec<Option<ContentDigest>>,
}

/// What warnings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// They are told.
    Lenient,
    /// They fail the build.
    Strict,
}

/// By step: the secrets and agents that were not given and that it, or a step behind it, requires. Whoever runs it fails now rather
/// than after the work.
pub type Wanting = HashMap<StepIndex, Vec<Diagnostic>>;

/// Everything that the steps of one build share.
#[derive(Clone)]
pub struct Shared {
    /// What warnings come to.
    pub strictness: Strictness,
    /// Where layers go.
    pub store: Store,
    /// Former results of commands.
    pub cache: Cache,
    /// Results of other machines.
    pub imports: Arc<Imports>,
    /// What layers were asked, for other machines; `None` if nobody wants to know.
    pub told: Option<Arc<Mutex<Answers>>>,
    /// The steps.
    pub graph: Arc<Graph>,
    /// The images of the graph's `Image` steps, by manifest digest, and the name to fetch them by.
    pub images: HashMap<Digest, (Arc<ResolvedImage>, Option<ImageRef>)>,
    /// The contexts of the graph's `Context` steps, by name.
    pub contexts: HashMap<String, Arc<Context>>,
    /// For base layers and downloads.
    pub client: Arc<Client>,
    /// Of a base layer.
    pub limits: LayerLimits,
    /// Told of output.
    pub events: Arc<dyn EventSink>,
    /// What people call each step.
    pub numbers: HashMap<StepIndex, StepNumber>,
    /// The client's secrets.
    pub secrets: Vec<Secret>,
    /// `CROZE_SECRET_KEY`, in place of the store's key.
    pub secret_key: Option<String>,
    /// The client's ssh agents.
    pub ssh: Vec<SshAgent>,
    /// What was not given that steps require.
    pub wanting: Wanting,
    /// The client's proxies, for fetches.
    pub proxy_env: Vec<(String, String)>,
    /// What all commands may use together.
    pub resources: sandbox::Resources,
    /// The control group for commands.
    pub cgroup_parent: Option<String>,
    /// Proof that `RUN --security=insecure` is allowed.
    pub entitled: Option<sandbox::Entitled>,
    /// For people who want to look around where a command has failed.
    pub shells: Option<Arc<Shells>>,
    /// The time that new layers get, seconds since 1970.
    pub now_secs: i64,
    /// What to compress before an output asks for it.
    pub ahead: Ahead,
    /// Steps whose files nothing in this build reads: their layers may stay tars.
    pub unread: HashSet<StepIndex>,
    /// How many threads can do work of their own.
    pub processors: usize,
    /// Turns true when everything has to stop.
    pub cancel: watch::Receiver<bool>,
}

impl Shared {
    /// Where the overlays of this build keep their marks: where its store can.
    fn family(&self) -> Family {
        match self.store.flavour() {
            Flavour::Trusted => Family::Trusted,
            Flavour::User | Flavour::Plain => Family::User,
        }
    }
}

/// Descriptors that stay open for layers that are looked at.
const MAX_OPEN_TREES: usize = 64;

/// Runs steps on this machine.
pub struct LocalWorker {
    shared: Arc<Shared>,
    fetched: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    trees: Mutex<HashMap<DiffId, PathBuf>>,
    /// Layers that nobody has written to.
    vouched: Mutex<HashMap<DiffId, Arc<OnceCell<()>>>>,
    /// Open trees, [`MAX_OPEN_TREES`] at most: each step of a long stage looks at all layers below it.
    open_trees: Mutex<HashMap<PathBuf, Arc<Dir>>>,
    launcher: Arc<OnceCell<Launcher>>,
    network: Arc<OnceCell<DefaultNetwork>>,
    sources: Mutex<Sources>,
    canceling: Arc<attend::Canceling>,
    fittings: Arc<fittings::Fittings>,
    /// Finding out what copies and mounts read happens outside the schedule's slots: at most so often at once.
    turns: Semaphore,
}

impl LocalWorker {
    /// A worker for one build.
    pub fn new(shared: Shared) -> Result<LocalWorker, WorkError> {
        let canceling = Arc::new(attend::Canceling::new(shared.cancel.clone())?);
        let turns = Semaphore::new(shared.processors.max(1));
        let fittings = Arc::new(fittings::Fittings::new(shared.store.clone()));
        let (fetched, trees, vouched, open_trees, launcher, network, sources) = Default::default();
        let shared = Arc::new(shared);
        Ok(LocalWorker { shared, fetched, trees, vouched, open_trees, launcher, network, sources, canceling, fittings, turns })
    }

    /// What downloads and git trees stood for in the steps that were looked at so far.
    pub fn sources(&self) -> Sources {
        self.sources.lock().expect("no holder of this lock panics").clone()
    }

    /// The directories of a stack's layers, bottom first, each once; a base image's missing layers are fetched.
    ///
    /// A layer that lies in the stack twice is used at its upper place: there it covers whatever it did at the lower one, and
    /// overlayfs refuses to see a directory twice.
    pub async fn trees(&self, stack: &Stack) -> Result<Vec<PathBuf>, WorkError> {
        let mut seen = HashSet::with_capacity(stack.layers.len());
        let mut layers: Vec<&StackLayer> = stack.layers.iter().rev().filter(|layer| seen.insert(layer.diff_id)).collect();
        layers.reverse();
        self.bring(&layers).await?;
        let mut trees = Vec::with_capacity(layers.len());
        for layer in layers {
            let known = self.trees.lock().expect("no holder of this lock panics").get(&layer.diff_id).cloned();
            trees.push(match known {
                Some(tree) => tree,
                None => self.tree(layer, &trees).await?,
            });
        }
        Ok(trees)
    }

    /// A stack's files, to be looked at.
    pub async fn view(&self, stack: &Stack) -> Result<View, WorkError> {
        let trees = self.trees(stack).await?;
        let mut open = self.open_trees.lock().expect("no holder of this lock panics");
        let mut layers = Vec::with_capacity(trees.len());
        for tree in trees {
            layers.push(match open.get(&tree) {
                Some(layer) => layer.clone(),
                None => {
                    let layer = open_layer(&tree)?;
                    if open.len() < MAX_OPEN_TREES {
                        open.insert(tree, layer.clone());
                    }
                    layer
                }
            });
        }
        Ok(View::of(layers))
    }

    /// Makes sure that the layers of a stack are there which no step has read: those of base images and of caches elsewhere.
    pub async fn fetch_missing(&self, stack: &Stack) -> Result<(), WorkError> {
        self.bring(&stack.layers.iter().collect::<Vec<_>>()).await?;
        for layer in stack.layers.iter().filter(|layer| layer.base.is_some()) {
            self.provide(layer).await?;
        }
        Ok(())
    }

    /// Brings those of `layers` that are in caches elsewhere, all at the same time, each once per build.
    async fn bring(&self, layers: &[&StackLayer]) -> Result<(), WorkError> {
        let imports = &self.shared.imports;
        if imports.is_empty() {
            return Ok(());
        }
        let mut absent = Vec::new();
        for layer in layers.iter().filter(|layer| layer.base.is_none() && imports.knows(&layer.diff_id)) {
            if self.stored(layer.diff_id).await?.is_none() {
                absent.push(layer.diff_id);
            }
        }
        let lost: Vec<DiffId> = absent.iter().filter(|diff_id| imports.offer(diff_id).is_none()).copied().collect();
        if !lost.is_empty() {
            imports.refuse(&lost);
            return Err(TravelError::NotCarried { layers: lost }.into());
        }
        let mut tasks = JoinSet::new();
        for diff_id in absent {
            let cell = {
                let mut fetched = self.fetched.lock().expect("no holder of this lock panics");
                fetched.entry(diff_id.0).or_default().clone()
            };
            let shared = self.shared.clone();
            tasks.spawn(async move {
                let fetch = async || shared.imports.fetch(&shared.store, shared.limits, &diff_id).await.map(drop);
                cell.get_or_try_init(fetch).await.map(drop)
            });
        }
        // the first failure drops the set, which stops the other downloads
        while let Some(joined) = tasks.join_next().await {
            joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(())
    }

    /// The directory of a layer's files; `below` are those of the layers below it.
    async fn tree(&self, layer: &StackLayer, below: &[PathBuf]) -> Result<PathBuf, WorkError> {
        let tree = match self.provide(layer).await?.kept {
            Kept::Tree(tree) => tree,
            Kept::Packed(_) => {
                let (store, diff_id, below) = (self.shared.store.clone(), layer.diff_id, below.to_vec());
                let unpacked = task::blocking(move || layer::tree(&store, &diff_id, &below)).await?;
                unpacked.ok_or(WorkError::LayerGone(layer.diff_id))?
            }
        };
        self.trees.lock().expect("no holder of this lock panics").insert(layer.diff_id, tree.clone());
        Ok(tree)
    }

    /// The layer; fetched if it is missing and a base image's.
    async fn provide(&self, layer: &StackLayer) -> Result<StoredLayer, WorkError> {
        let mut stored = self.stored(layer.diff_id).await?;
        if let (None, Some((_, image))) = (&stored, &layer.base) {
            self.fetch(image).await?;
            stored = self.stored(layer.diff_id).await?;
        }
        stored.ok_or(WorkError::LayerGone(layer.diff_id))
    }

    /// The layer, proven if that is necessary, which reads all of it.
    async fn stored(&self, diff_id: DiffId) -> Result<Option<StoredLayer>, WorkError> {
        match self.shared.store.layer(&diff_id)? {
            Some(layer) if layer.soundness == Soundness::Unproven => {
                let store = self.shared.store.clone();
                Ok(task::blocking(move || layer::sound(&store, &diff_id)).await?)
            }
            stored => Ok(stored),
        }
    }

    /// Gives `work` up when everything has to stop. For work that leaves nothing behind but temporary files.
    async fn unless_canceled<T>(&self, work: impl Future<Output = Result<T, WorkError>>) -> Result<T, WorkError> {
        let mut cancel = self.shared.cancel.clone();
        tokio::select! {
            biased;
            // an error means that nobody is left to cancel, and then nobody waits for the result either
            _ = cancel.wait_for(|stop| *stop) => Err(WorkError::Canceled),
            result = work => result,
        }
    }

    /// Fetches the missing layers of a base image, once per build.
    async fn fetch(&self, image: &Arc<ResolvedImage>) -> Result<(), WorkError> {
        let cell = {
            let mut fetched = self.fetched.lock().expect("no holder of this lock panics");
            fetched.entry(image.manifest.digest).or_default().clone()
        };
        let image_ref = self.shared.images.get(&image.manifest.digest).and_then(|(_, image_ref)| image_ref.as_ref());
        let shared = &self.shared;
        cell.get_or_try_init(|| async {
            let ensured = source::image::ensure_layers(&shared.store, &shared.client, image, image_ref, shared.limits).await;
            ensured.map(drop).map_err(|source| WorkError::Base { manifest: image.manifest.digest, source })
        })
        .await?;
        Ok(())
    }

    /// The name by which a registry has the layers of a base image.
    pub fn name_of(&self, image: &ResolvedImage) -> Option<ImageRef> {
        self.shared.images.get(&image.manifest.digest).and_then(|(_, image_ref)| image_ref.clone())
    }

    /// The launcher, which the first command starts; `number` is that command's.
    async fn launcher(&self, number: Option<StepNumber>) -> Result<&Launcher, WorkError> {
        let marks = match self.shared.family() {
            Family::Trusted => sandbox::Marks::Trusted,
            Family::User => sandbox::Marks::User,
        };
        let shared = self.shared.clone();
        let starting = move || {
            let launcher = Launcher::start(marks)?;
            let parent = shared.cgroup_parent.as_deref();
            if let Some(Err(reason)) = parent.map(|parent| launcher.join_cgroup(parent)) {
                return Err(WorkError::ControlGroup(reason));
            }
            if shared.resources.is_limited() {
                for line in launcher.limit(&shared.resources, parent) {
                    attend::Output::new(&shared, number).note(line);
                }
            }
            Ok(launcher)
        };
        let start = || async { task::blocking(starting).await };
        self.launcher.get_or_try_init(start).await
    }

    async fn download(&self, op: &HttpOp) -> Result<Output, WorkError> {
        let file = {
            let auth = Credentials(&self.shared.secrets).http(&op.url);
            source::http::fetch(&self.shared.store, &self.shared.client, &op.url, op.checksum, auth.as_ref()).await?
        };
        self.sources.lock().expect("no holder of this lock panics").urls.insert(op.url.clone(), file.digest);
        Ok(Output::Download(Arc::new(HttpFile { file_name: op.file_name.clone(), ..file })))
    }
}

impl Worker for LocalWorker {
    type Output = Output;
    type Task = Task;
    type Error = WorkError;

    async fn prepare(&self, index: StepIndex, inputs: Vec<Output>) -> Result<Prepared<Output, Task>, WorkError> {
        let output = |stack: Stack| Ok(Prepared::Output(Output::Stack(Arc::new(stack))));
        let (key, slot, files, mounted) = match &self.shared.graph.step(index).op {
            Op::Scratch => return output(Stack::default()),
            Op::Image(image) => {
                let (image, _) = self.shared.images.get(&image.manifest).expect("every image of the plan was resolved");
                return output(base_stack(image));
            }
            Op::Context(context) => {
                let context = self.shared.contexts.get(&context.name).expect("every context of the plan was opened");
                return Ok(Prepared::Output(Output::Context(context.clone())));
            }
            Op::Http(op) => return Box::pin(self.download(op)).await.map(Prepared::Output),
            Op::Git(op) => return Box::pin(self.check_out(op)).await.map(Prepared::Output),
            Op::Merge => {
                let both = [stack(&inputs[0]), stack(&inputs[1])];
                return output(Stack::new(both.iter().flat_map(|stack| stack.layers.clone()).collect()));
            }
            Op::Exec(op) => {
                // what few steps need is kept out of the size of every step's future
                let mounted = match op.mounts.as_slice() {
                    [] => Vec::new(),
                    _ => Box::pin(self.mounted_content(op, &inputs)).await?,
                };
                let mut sink = HashSink::default();
                key::exec(op, &stack(&inputs[0]).diff_ids(), &mounted, &mut sink);
                (sink.finish(), Slot::Command, None, mounted)
            }
            Op::Copy(_) | Op::Mkdir(_) => {
                let (decided_by, prepared) = Box::pin(self.prepare_files(index, &inputs)).await?;
                let mut sink = HashSink::default();
                key::file("files", &decided_by, &mut sink);
                (sink.finish(), Slot::Processor, prepared, Vec::new())
            }
        };
        let parent = stack(&inputs[0]).clone();
        Ok(Prepared::Task { key, slot, task: Task { index, key, parent, inputs, files, mounted } })
    }

    fn recall(&self, task: &Task, record: &Record) -> Output {
        self.shared.ahead.send(task.index, record.diff_id);
        if let (Op::Exec(_), true) = (&self.shared.graph.step(task.index).op, self.shared.told.is_some()) {
            // passed on; not knowing it costs others a layer that they could adopt
            let _passed_on = self.recalled(&key::adoption_of(&task.key));
        }
        let layer = StackLayer { diff_id: record.diff_id, created_secs: Some(record.created_secs), base: None };
        Output::Stack(Arc::new(task.parent.with(layer)))
    }

    fn is_final(&self, error: &WorkError) -> bool {
        match error {
            WorkError::Travel(error) => !error.is_mended_without_cache(),
            WorkError::LayerDamaged(_) => false,
            _ => true,
        }
    }

    async fn prove(&self, record: &Record) -> Result<bool, WorkError> {
        Ok(self.stored(record.diff_id).await?.is_some())
    }

    fn describe(&self, task: &Task) -> Description {
        let base = task.parent.layers.iter().find_map(|layer| layer.base.as_ref());
        let base = base.map(|(_, image)| (image.name.clone(), image.manifest.digest));
        let layers = task.parent.diff_ids();
        match &self.shared.graph.step(task.index).op {
            Op::Exec(op) => {
                let mut parts = ListSink::default();
                key::exec(op, &layers, &task.mounted, &mut parts);
                Description::new(base, layers, parts)
            }
            op => {
                let mut parts = ListSink::default();
                files::list_parts(op, task.files.as_deref(), &mut parts);
                let files = task.files.as_ref().map(|prepared| prepared.states()).unwrap_or_default();
                Description { files, ..Description::new(base, layers, parts) }
            }
        }
    }

    async fn run(&self, task: &Task) -> Result<(Record, Novelty), WorkError> {
        if let Some(diagnostics) = self.shared.wanting.get(&task.index) {
            return Err(WorkError::Wanting { diagnostics: diagnostics.clone() });
        }
        let run = async {
            match &self.shared.graph.step(task.index).op {
                Op::Exec(op) => self.run_command(task, op).await,
                _ => Ok((self.unless_canceled(self.make_files(task)).await?, Novelty::New)),
            }
        };
        // beside the step, since it waits for the disk and the step for its own work
        let (result, vouched) = tokio::join!(run, self.vouch_for_inputs(task));
        match result {
            Err(WorkError::Canceled) => Err(WorkError::Canceled),
            // a command that has failed may have failed for that
            result => vouched.and(result),
        }
    }
}

/// A base image's layers.
fn base_stack(image: &Arc<ResolvedImage>) -> Stack {
    let layer =
        |layer: &BaseLayer| StackLayer { diff_id: layer.diff_id, created_secs: None, base: Some((layer.clone(), image.clone())) };
    Stack::new(image.layers.iter().map(layer).collect())
}

/// The file system that an input is.
///
/// The plan gives trees where trees are due: input 0 of commands and copies, both inputs of a merge.
fn stack(input: &Output) -> &Arc<Stack> {
    match input {
        Output::Stack(stack) => stack,
        Output::Context(_) | Output::Download(_) => unreachable!("the plan puts file systems below commands and copies"),
    }
}
