//! The build graph: steps, what they do, and what they read.
//!
//! Owns: [`Op`], [`Step`], [`Graph`]; identity of steps ([`StepId`]); which steps a target needs.
//! In:   ops and inputs from `plan`, each with the place it came from.
//! Out:  a directed acyclic graph in which equal steps are one step.
//! Shape: isomorphic to BuildKit's LLB (source, exec, file and merge operations), without its wire format.
//! Elsewhere: cache keys (`cache`), how an op runs (`worker`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Source, Span};
use crate::digest::{Digest, Hasher, StepId};
use crate::reference::{ImageRef, Platform};

/// A step's place in its [`Graph`].
pub type StepIndex = NodeIndex<u32>;

/// Steps and what they read. Edges run from an input to the step that reads it and carry the input's number.
#[derive(Debug, Default)]
pub struct Graph {
    steps: DiGraph<Step, usize, u32>,
    by_id: HashMap<StepId, StepIndex>,
}

/// A node of the graph: an op plus inputs.
#[derive(Debug, Clone)]
pub struct Step {
    /// Hash of `op` and the ids of the inputs.
    pub id: StepId,
    /// What it does.
    pub op: Op,
    /// Where it was written and what people call it.
    pub origin: Origin,
}

/// Where a step came from, for progress and errors; no part of its identity.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// What progress shows, such as `[build 2/4] RUN make`.
    pub name: String,
    /// The instruction.
    pub place: Option<(Source, Span)>,
    /// Further instructions that say the same.
    pub other_places: Vec<(Source, Span)>,
    /// The stage's name, or its number if it has none.
    pub stage: String,
    /// What progress calls the stage; empty when there is only one.
    pub stage_label: String,
    /// Where the parts of the instruction stand.
    pub words: Words,
    /// How it may run; a result is the same whatever the limits were.
    pub limits: Limits,
}

/// How long a command may take, and how often it is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// From its start to its end.
    pub time: Option<Duration>,
    /// Without a byte of output.
    pub silence: Option<Duration>,
    /// What a failure is followed by.
    pub retry: Option<Retry>,
}

/// Further attempts after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// At most so many, beside the first one.
    pub times: u32,
    /// After which failures.
    pub when: RetryWhen,
}

/// Which failures of a command another attempt may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryWhen {
    /// Those whose last lines speak of the network.
    NetworkFailed,
    /// All.
    AnyFailure,
}

/// The parts of an instruction that a failure can be about; but for `user`, all spans point into the text of the origin's `place`.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// Of a copy: one per source of the op, in its order.
    pub sources: Vec<Span>,
    /// Of a copy: the `--from` that its paths are looked up in; `None` for the main context.
    pub read_from: Option<String>,
    /// Of a copy: the value of `--chown`.
    pub owner: Option<Span>,
    /// Of a command: one per mount of the op, in its order.
    pub mounts: Vec<Span>,
    /// Of a command: the argument of the `USER` in force, if this build sets it.
    pub user: Option<(Source, Span)>,
}

/// Most ops are written in less.
const OP_BYTES: usize = 2 << 10;

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds a step, or finds the equal one that is there already (the first one's origin stays, and learns of the other's place).
    pub fn add(&mut self, op: Op, inputs: &[StepIndex], origin: Origin) -> StepIndex {
        let mut hasher = Hasher::new();
        let mut text = Vec::with_capacity(OP_BYTES);
        serde_json::to_writer(&mut text, &op).expect("ops hold only maps with string keys");
        hasher.field(&text);
        for input in inputs {
            hasher.update(self.steps[*input].id.0.as_bytes());
        }
        let id = StepId(hasher.finish());
        if let Some(index) = self.by_id.get(&id) {
            let known = &mut self.steps[*index].origin;
            let places = origin.place.into_iter().chain(origin.other_places);
            for place in places {
                if known.place.as_ref() != Some(&place) && !known.other_places.contains(&place) {
                    known.other_places.push(place);
                }
            }
            return *index;
        }
        let index = self.steps.add_node(Step { id, op, origin });
        for (number, input) in inputs.iter().enumerate() {
            self.steps.add_edge(*input, index, number);
        }
        self.by_id.insert(id, index);
        index
    }

    /// The step at `index`.
    pub fn step(&self, index: StepIndex) -> &Step {
        &self.steps[index]
    }

    /// The inputs of a step, in order.
    pub fn inputs(&self, index: StepIndex) -> Vec<StepIndex> {
        let mut inputs: Vec<(usize, StepIndex)> =
            self.steps.edges_directed(index, petgraph::Direction::Incoming).map(|edge| (*edge.weight(), edge.source())).collect();
        inputs.sort_unstable();
        inputs.into_iter().map(|(_, input)| input).collect()
    }

    /// `targets` and all they need, inputs before the steps that read them.
    pub fn needed(&self, targets: &[StepIndex]) -> Vec<StepIndex> {
        let mut seen = vec![false; self.steps.node_count()];
        let mut order = Vec::new();
        let mut stack: Vec<(StepIndex, bool)> = targets.iter().rev().map(|target| (*target, false)).collect();
        while let Some((index, inputs_done)) = stack.pop() {
            if inputs_done {
                order.push(index);
            } else if !std::mem::replace(&mut seen[index.index()], true) {
                stack.push((index, true));
                stack.extend(self.inputs(index).into_iter().rev().map(|input| (input, false)));
            }
        }
        order
    }

    /// The steps whose layers the file systems of `targets` are made of: the targets and what lies below them.
    pub fn stacked(&self, targets: &[StepIndex]) -> HashSet<StepIndex> {
        let mut found = HashSet::new();
        let mut todo = targets.to_vec();
        while let Some(index) = todo.pop() {
            if !found.insert(index) {
                continue;
            }
            let inputs = self.inputs(index);
            match &self.step(index).op {
                Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_) => todo.extend(inputs.first()),
                Op::Merge => todo.extend(inputs),
                _ => {}
            }
        }
        found
    }

    /// Those of the steps `needed` whose files none of them reads.
    pub fn unread(&self, needed: &[StepIndex]) -> HashSet<StepIndex> {
        let reads = |index: &&StepIndex| matches!(self.step(**index).op, Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_));
        let inputs: Vec<StepIndex> = needed.iter().filter(reads).flat_map(|index| self.inputs(*index)).collect();
        let read = self.stacked(&inputs);
        needed.iter().filter(|index| !read.contains(index)).copied().collect()
    }

    /// All steps, in the order they were added.
    pub fn indices(&self) -> impl Iterator<Item = StepIndex> + use<> {
        self.steps.node_indices()
    }

    /// How many steps there are, needed or not.
    pub fn len(&self) -> usize {
        self.steps.node_count()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a step does. What it reads are the step's inputs, named in each op's docs by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // a build has hundreds of steps at most, and most of them are commands
pub enum Op {
    /// An image, already resolved: a stack of layers. No inputs.
    Image(ImageOp),
    /// Files that the client offers. No inputs.
    Context(ContextOp),
    /// A file from an http(s) URL. No inputs.
    Http(HttpOp),
    /// A git tree. No inputs.
    Git(GitOp),
    /// A command. Input 0 is the root; the others are named by its mounts.
    Exec(ExecOp),
    /// `COPY` and `ADD`. Input 0 is the tree copied into; the others are named by its sources.
    Copy(CopyOp),
    /// `WORKDIR`. Input 0 is the tree it is made in.
    Mkdir(MkdirOp),
    /// Puts the layers of input 1 on those of input 0, as they are (`COPY --link`).
    Merge,
    /// The empty tree. No inputs.
    Scratch,
}

/// A resolved image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageOp {
    /// Name as resolved, canonical form (for messages).
    pub name: String,
    /// Digest of the manifest that was chosen for `platform`; its config and layer blobs follow from it.
    pub manifest: Digest,
    /// What was asked for.
    pub platform: Platform,
}

/// A context by name: `context` for the main one, else the name of a `--build-context`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContextOp {
    /// Its name.
    pub name: String,
}

/// A file from a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpOp {
    /// The URL.
    pub url: String,
    /// What it must hash to.
    pub checksum: Option<Digest>,
    /// Name of the file that it becomes.
    pub file_name: String,
}

/// A git tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GitOp {
    /// Remote URL without fragment.
    pub remote: String,
    /// Branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// Directory inside, empty for all.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Commit (or a prefix of it) that it must be.
    pub checksum: Option<String>,
    /// Fetch submodules too.
    pub submodules: bool,
    /// Give all files the time of the commit, in place of that of the checkout.
    pub commit_times: bool,
}

/// A command in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecOp {
    /// The program and its arguments; the program is looked up in the image's `PATH`.
    pub args: Vec<String>,
    /// `NAME=value`, in order, names unique. Without proxies.
    pub env: Vec<String>,
    /// Proxy variables: given to the command, in no key.
    pub proxy_env: Vec<String>,
    /// Absolute path.
    pub cwd: String,
    /// `USER` text; empty for root.
    pub user: String,
    /// Extra mounts, in order.
    pub mounts: Vec<Mount>,
    /// Which network.
    pub network: Network,
    /// Privileges.
    pub security: Security,
    /// Host name when set explicitly.
    pub hostname: Option<String>,
    /// `NAME:IP` lines for `/etc/hosts`; the address is in no key.
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm` when set explicitly.
    pub shm_size_bytes: Option<u64>,
    /// Limits when set explicitly: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// The platform that it runs on.
    pub platform: Platform,
    /// A heredoc script that starts with `#!`: shown read-only at `/dev/pipes/<name>`, mode 0755.
    pub script: Option<InlineFile>,
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Network {
    /// What the build chose.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// The privileges of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default capabilities and filter.
    Sandbox,
    /// All capabilities, nothing masked; behind an entitlement that the caller has checked.
    Insecure,
}

/// `RUN --mount`, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the image.
    pub target: String,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MountKind {
    /// `source` of an input; writes are seen in this step and thrown away.
    Bind {
        /// Number of the input.
        input: usize,
        /// Path in it.
        source: String,
        /// Whether it may be written.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its name, namespace included.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Where it is first filled from: an input and a path in it.
        seed: Option<(usize, String)>,
        /// Whether owner, group or mode were asked for: such a cache is another one, even if they are the usual ones.
        is_owned: bool,
        /// Owner of the fresh directory.
        uid: u32,
        /// Group of the fresh directory.
        gid: u32,
        /// Mode of the fresh directory.
        mode: u32,
        /// Whether it may be written.
        writable: bool,
    },
    /// Memory.
    Tmpfs {
        /// Limit, when set.
        size_bytes: Option<u64>,
    },
    /// A secret of the client's; `target` and `env` may both be used.
    Secret {
        /// Its name.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Environment variable that gets the value.
        env: Option<String>,
        /// Whether there is a file at the mount's target.
        file: bool,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
        /// Mode of the file.
        mode: u32,
    },
    /// The client's ssh agent as a socket.
    Ssh {
        /// Its name.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
        /// Mode of the socket.
        mode: u32,
    },
}

impl MountKind {
    /// What it reads of the step's inputs: the number of one and a path in it.
    pub fn read(&self) -> Option<(usize, &str)> {
        match self {
            MountKind::Bind { input, source, .. } => Some((*input, source)),
            MountKind::Cache { seed, .. } => seed.as_ref().map(|(input, source)| (*input, source.as_str())),
            MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
        }
    }
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// One at a time; others get a fresh copy.
    Private,
    /// One at a time; others wait.
    Locked,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyOp {
    /// Path sources before inline ones, each kind in the order written.
    pub sources: Vec<CopySource>,
    /// Absolute and cleaned; a trailing slash means a directory.
    pub destination: String,
    /// `--chown`, expanded.
    pub chown: Option<String>,
    /// `--chmod`, parsed.
    pub chmod: Option<Chmod>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, relative to each source root.
    pub excludes: Vec<String>,
    /// `ADD` of archives.
    pub unpack: Unpack,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CopySource {
    /// `pattern` (Go's `filepath.Match` per component, or a plain path) in input number `input`, cleaned against its root.
    Path {
        /// Number of the input.
        input: usize,
        /// What to select; absolute in the input, `/` for all.
        pattern: String,
    },
    /// A heredoc: mode 0644, owner 0:0 before `chown` and `chmod`.
    Inline(InlineFile),
    /// The one file of an `Http` input.
    Download {
        /// Number of the input.
        input: usize,
    },
    /// The whole tree of a `Git` input.
    Checkout {
        /// Number of the input.
        input: usize,
    },
}

/// A file written in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its content, expanded.
    pub content: String,
}

/// `ADD` of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unpack {
    /// `COPY`, or `ADD --unpack=false`.
    Never,
    /// `ADD`: local archives are unpacked, downloads are not.
    Local,
    /// `ADD --unpack=true`: everything that is an archive.
    Always,
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Chmod {
    /// Octal: files and directories alike.
    Octal(u32),
    /// Symbolic clauses (`u=rwX,go=rX`), checked; applied to each file's own mode.
    Symbolic(String),
}

/// `WORKDIR`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MkdirOp {
    /// Absolute and cleaned.
    pub path: String,
    /// `USER` text that owns what is created; empty for root.
    pub user: String,
}

/// A named image reference that must be resolved before lowering.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WantedImage {
    /// The image.
    pub image_ref: ImageRef,
    /// For which platform.
    pub platform: Platform,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(graph: &mut Graph, name: &str) -> StepIndex {
        graph.add(Op::Context(ContextOp { name: name.to_owned() }), &[], Origin::default())
    }

    #[test]
    fn equal_steps_are_one() {
        let mut graph = Graph::new();
        let (left, right) = (context(&mut graph, "a"), context(&mut graph, "a"));
        assert_eq!(left, right);
        let other = context(&mut graph, "b");
        let forward = graph.add(Op::Merge, &[left, other], Origin::default());
        let backward = graph.add(Op::Merge, &[other, left], Origin::default());
        assert_ne!(forward, backward);
        assert_eq!(graph.len(), 4);
    }

    #[test]
    fn the_first_origin_stays() {
        let mut graph = Graph::new();
        let named = |name: &str| Origin { name: name.to_owned(), ..Origin::default() };
        let index = graph.add(Op::Scratch, &[], named("first"));
        graph.add(Op::Scratch, &[], named("second"));
        assert_eq!(graph.step(index).origin.name, "first");
    }

    #[test]
    fn inputs_keep_their_order_and_repetitions() {
        let mut graph = Graph::new();
        let (a, b) = (context(&mut graph, "a"), context(&mut graph, "b"));
        let step = graph.add(Op::Merge, &[b, a, b], Origin::default());
        assert_eq!(graph.inputs(step), [b, a, b]);
    }

    #[test]
    fn needed_steps_come_after_their_inputs_and_once() {
        let mut graph = Graph::new();
        let (a, b, unused) = (context(&mut graph, "a"), context(&mut graph, "b"), context(&mut graph, "unused"));
        let inner = graph.add(Op::Merge, &[a, b], Origin::default());
        let outer = graph.add(Op::Merge, &[b, inner], Origin::default());
        let order = graph.needed(&[outer]);
        assert_eq!(order, [b, a, inner, outer]);
        assert!(!order.contains(&unused));
    }
}
