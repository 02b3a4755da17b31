//! The walk over the needed stages, and the state of the one that is being lowered.

use std::collections::{BTreeMap, BTreeSet};

use super::outline::Notes;
use super::scope::{self, Scope};
use super::stages::{BaseKind, Command, Node, Stages};
use super::{Base, Bases, Draft, DraftHistory, ImageLocation, Lowered, Options, checks, outline, path, words};
use crate::diagnostic::{Diagnostic, Source, Span};
use crate::dockerfile::{Dockerfile, InstructionKind, Word};
use crate::graph::{ContextOp, CopyOp, CopySource, Graph, ImageOp, Op, Origin, StepIndex, Unpack};
use crate::image::{ContainerConfig, History, ImageConfig, RootFs};
use crate::reference::Platform;

/// All that is shared by the stages while they are lowered.
pub(super) struct Lowering<'a> {
    pub dockerfile: &'a Dockerfile,
    pub options: &'a Options,
    pub stages: &'a Stages<'a>,
    pub graph: Graph,
    pub proxy_env: Vec<String>,
    /// What the nodes came to; `None` before their turn.
    pub results: Vec<Option<StageState>>,
    pub diagnostics: &'a mut Vec<Diagnostic>,
    /// What each node's own instructions ask the client for.
    pub notes: Vec<Notes>,
    bases: &'a Bases,
    context_uses: BTreeMap<String, BTreeSet<String>>,
}

/// A stage so far; what `FROM` of it begins with.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// The step that gives its tree.
    pub tree: StepIndex,
    /// What commands and words see.
    pub scope: Scope,
    /// Every `ARG`, in order, with repetitions.
    pub arguments: Vec<(String, Option<String>)>,
    /// Without layers, history and time.
    pub config: ImageConfig,
    /// The base image's history.
    pub base_history: Vec<History>,
    /// The items of this build.
    pub history: Vec<DraftHistory>,
    /// Where this file has said the `USER` in force.
    pub user_place: Option<(Source, Span)>,
    /// What its commands run on.
    pub platform: Platform,
    /// Whether this file has said `WORKDIR` already.
    pub has_workdir: bool,
}

/// One stage while its instructions are carried out.
pub(super) struct StageLowering<'l, 'a> {
    pub lowering: &'l mut Lowering<'a>,
    /// Number of its node.
    pub index: usize,
    pub state: StageState,
    /// Where this stage has said `CMD`, `ENTRYPOINT` and `HEALTHCHECK` last.
    pub said: Said,
    numbering: Numbering,
}

/// Places of instructions that count only once per stage.
#[derive(Default)]
pub(super) struct Said {
    pub cmd: Option<Place>,
    pub entrypoint: Option<Place>,
    pub healthcheck: Option<Place>,
}

/// Where an instruction stands.
pub(super) struct Place {
    pub source: Source,
    pub span: Span,
    /// The lines that BuildKit takes for it.
    pub lines: Span,
}

/// Numbers the steps of a stage: `[build 2/4]`.
struct Numbering {
    prefix: String,
    next: usize,
    total: usize,
}

/// The system whose images have another shell, no `PATH` of their own, and backslashes.
pub(super) const WINDOWS: &str = "windows";

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl<'a> Lowering<'a> {
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        bases: &'a Bases,
        stages: &'a Stages<'a>,
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Lowering<'a> {
        Lowering {
            dockerfile,
            options,
            stages,
            graph: Graph::new(),
            proxy_env: scope::proxy_env(options),
            results: vec![None; stages.nodes.len()],
            diagnostics,
            notes: vec![Notes::default(); stages.nodes.len()],
            bases,
            context_uses: BTreeMap::new(),
        }
    }

    /// Lowers the needed nodes: first what is taken as it is, then the stages in the order of the file.
    pub(super) fn run(mut self) -> Option<Lowered> {
        let stages = self.stages;
        let (verbatim, written): (Vec<usize>, Vec<usize>) =
            stages.needed.iter().partition(|index| stages.nodes[**index].verbatim);
        for index in verbatim {
            let mut numbering = Numbering::of(&stages.nodes[index], self.options);
            let mut state = self.start(index, &mut numbering);
            if index == stages.target {
                self.settle(index, &mut state);
            }
            self.results[index] = Some(state);
        }
        for index in written {
            let mut numbering = Numbering::of(&stages.nodes[index], self.options);
            let mut state = self.start(index, &mut numbering);
            self.settle(index, &mut state);
            state.prepare();
            let mut stage = StageLowering { lowering: &mut self, index, state, said: Said::default(), numbering };
            for command in &stages.nodes[index].commands {
                stage.carry_out(command);
            }
            let state = stage.state;
            self.results[index] = Some(state);
        }
        let extras = self.extras();
        let target = self.results[stages.target].take()?;
        Some(self.finish(target, extras))
    }

    /// The step of a context's files.
    pub(super) fn context(&mut self, name: &str) -> StepIndex {
        if name == MAIN_CONTEXT && !self.options.has_main_context {
            return self.scratch();
        }
        let shown = match name {
            MAIN_CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let op = Op::Context(ContextOp { name: name.to_owned() });
        self.graph.add(op, &[], Origin { name: shown, ..Origin::default() })
    }

    /// The step of the empty tree.
    pub(super) fn scratch(&mut self) -> StepIndex {
        self.graph.add(Op::Scratch, &[], Origin::default())
    }

    /// Notes that a path of a tree is read, if the tree is a context's.
    pub(super) fn use_path(&mut self, tree: StepIndex, path: &str) {
        if let Op::Context(context) = &self.graph.step(tree).op {
            self.context_uses.entry(context.name.clone()).or_default().insert(path.to_owned());
        }
    }

    /// What a node begins with.
    fn start(&mut self, index: usize, numbering: &mut Numbering) -> StageState {
        let node = &self.stages.nodes[index];
        match &node.base {
            BaseKind::Stage(base) => match &self.results[*base] {
                Some(state) => {
                    let mut state = state.clone();
                    state.config.config.on_build.clear();
                    state
                }
                None => self.empty(),
            },
            BaseKind::Image { key, written, context } => match self.bases.get(key) {
                Some(base) => {
                    let shown = match (context, &key.image) {
                        (Some(context), ImageLocation::Reference(_)) => format!("[context {context}] {}", base.name),
                        (Some(context), ImageLocation::Layout(_)) => format!("[context {context}] OCI load from client"),
                        (None, _) => numbering.name(&format!("FROM {}@{}", base.name, base.manifest), false),
                    };
                    self.start_image(index, base, written, shown)
                }
                None => self.empty(),
            },
            BaseKind::Files(name) => {
                let tree = self.context(name);
                self.use_path(tree, "/");
                StageState { tree, ..self.empty() }
            }
            BaseKind::Scratch | BaseKind::Unknown => self.empty(),
        }
    }

    /// Makes a layer of a stage's tree if that is the files of a context: what commands run on, and what images are made of.
    fn settle(&mut self, index: usize, state: &mut StageState) {
        let Op::Context(context) = &self.graph.step(state.tree).op else { return };
        let created_by = format!("FROM {} # buildkit", context.name);
        let op = Op::Copy(CopyOp {
            sources: vec![CopySource::Path { input: 1, pattern: "/".to_owned() }],
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            parents: false,
            excludes: Vec::new(),
            unpack: Unpack::Never,
        });
        let stage = self.stages.stage_name(index);
        let place = Some(self.stages.nodes[index].place.clone());
        let origin = Origin { name: format!("[context {}] layer of its files", context.name), place, stage, ..Origin::default() };
        let inputs = [self.scratch(), state.tree];
        state.tree = self.graph.add(op, &inputs, origin);
        state.record(created_by, Some(state.tree));
    }

    fn start_image(&mut self, index: usize, base: &Base, written: &str, shown: String) -> StageState {
        let node = &self.stages.nodes[index];
        let (source, span) = node.place.clone();
        if let Some(warning) = checks::base_platform(written, &node.platform, &base.config, &source, span) {
            self.diagnostics.push(warning);
        }
        // an image without layers has nothing to fetch or to mount
        let is_empty = base.config.rootfs.diff_ids.is_empty() && base.config.history.iter().all(|item| item.empty_layer);
        let tree = if is_empty {
            self.scratch()
        } else {
            let op = Op::Image(ImageOp { name: base.name.clone(), manifest: base.manifest, platform: node.platform.clone() });
            let stage = self.stages.stage_name(index);
            let origin = Origin { name: shown, place: Some((source, span)), stage, ..Origin::default() };
            self.graph.add(op, &[], origin)
        };
        let mut config = base.config.clone();
        let base_history = std::mem::take(&mut config.history);
        config.created = None;
        config.rootfs = RootFs::default();
        // as BuildKit does: keys that are not part of the specification do not pass on
        config.rest.clear();
        config.config.rest.clear();
        config.config.on_build.clear();
        StageState { tree, config, base_history, platform: node.platform.clone(), ..self.empty() }
    }

    fn empty(&mut self) -> StageState {
        let platform = self.options.target_platform.clone();
        let env = if platform.os == WINDOWS { Vec::new() } else { vec![DEFAULT_PATH.to_owned()] };
        let container = ContainerConfig { working_dir: "/".to_owned(), env, ..ContainerConfig::default() };
        StageState {
            tree: self.scratch(),
            scope: Scope::default(),
            arguments: Vec::new(),
            config: ImageConfig { config: container, ..ImageConfig::scratch(&platform) },
            base_history: Vec::new(),
            history: Vec::new(),
            user_place: None,
            platform,
            has_workdir: false,
        }
    }

    /// What a scanner of the image is shown beside it: stages that ask for it, and the context if the target does.
    fn extras(&mut self) -> BTreeMap<String, StepIndex> {
        let stages = self.stages;
        let mut extras = BTreeMap::new();
        for index in stages.needed.iter().copied().filter(|index| !stages.nodes[*index].verbatim) {
            let Some(state) = &self.results[index] else { continue };
            let name = match stages.nodes[index].from.and_then(|from| from.name.as_ref()) {
                Some(name) => name.value.clone(),
                None => format!("stage-{index}"),
            };
            let asks = |argument: &str| {
                let own =
                    state.arguments.iter().rev().filter(|(name, _)| name == argument).find_map(|(_, value)| value.as_deref());
                own.or(stages.globals.value(argument)).is_some_and(|value| scope::asks_for(value, &name))
            };
            if index == stages.target {
                if asks(scope::SCAN_CONTEXT) {
                    extras.insert(MAIN_CONTEXT.to_owned(), self.context(MAIN_CONTEXT));
                }
            } else if asks(scope::SCAN_STAGE) {
                extras.insert(name, state.tree);
            }
        }
        extras
    }

    fn finish(mut self, target: StageState, extras: BTreeMap<String, StepIndex>) -> Lowered {
        let mut config = target.config;
        for (name, value) in &self.options.labels {
            config.config.labels.insert(name.clone(), value.clone());
        }
        let wanted = &self.options.target_platform;
        if self.options.platform_requested {
            let same = wanted.os == config.os && wanted.architecture == config.architecture;
            if !wanted.variant.is_empty() || !same {
                config.variant = Some(wanted.variant.clone());
            }
            if !same {
                config.os_version = None;
            }
            config.os = wanted.os.clone();
            config.architecture = wanted.architecture.clone();
        }
        let normal = config.platform();
        config.os = normal.os;
        config.architecture = normal.architecture;
        config.variant = Some(normal.variant).filter(|variant| !variant.is_empty());
        if config.os == WINDOWS {
            config.config.working_dir = config.config.working_dir.replace('/', "\\");
        }
        self.use_path(target.tree, "/");
        let mut steps = self.graph.needed(&[target.tree]);
        steps.retain(|index| !matches!(self.graph.step(*index).op, Op::Scratch));
        // steps are added in the order of the file
        steps.sort_unstable();
        Lowered {
            graph: self.graph,
            target: target.tree,
            extras,
            draft: Draft { config, base_history: target.base_history, history: target.history },
            epoch: self.stages.epoch,
            context_uses: self.context_uses,
            outline: outline::of_target(self.dockerfile, self.options, self.stages, &self.notes),
            steps,
        }
    }
}

/// Name of the main context.
pub(super) const MAIN_CONTEXT: &str = "context";

impl StageState {
    /// What every stage does before its first instruction: `PATH` is set, and the config's variables are those in force.
    fn prepare(&mut self) {
        let config = &mut self.config.config;
        // Windows has its own
        if self.platform.os != WINDOWS && !config.env.iter().any(|line| line.starts_with("PATH=")) {
            config.env.push(DEFAULT_PATH.to_owned());
        }
        for line in &config.env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            self.scope.set(name, value);
        }
        if !config.working_dir.is_empty() {
            config.working_dir = path::workdir(&config.working_dir, &config.working_dir);
        }
    }

    fn record(&mut self, created_by: String, layer: Option<StepIndex>) {
        self.history.push(DraftHistory { created_by, comment: Some("buildkit.dockerfile.v0".to_owned()), layer });
    }

    /// The current directory, absolute and cleaned.
    pub(super) fn directory(&self) -> String {
        path::clean(&self.config.config.working_dir)
    }
}

impl StageLowering<'_, '_> {
    fn carry_out(&mut self, command: &Command<'_>) {
        let before = self.lowering.diagnostics.len();
        self.dispatch(command);
        if command.is_trigger() {
            // a trigger has no line of its own in this file
            let lines = self.lines(command);
            for diagnostic in &mut self.lowering.diagnostics[before..] {
                diagnostic.lines.get_or_insert(lines);
            }
        }
    }

    fn dispatch(&mut self, command: &Command<'_>) {
        match &command.instruction().kind {
            InstructionKind::Add(transfer) => self.add(transfer, command),
            InstructionKind::Copy(transfer) => self.copy(transfer, command),
            InstructionKind::Run(run) => self.run(run, command),
            InstructionKind::Workdir(directory) => self.workdir(directory, command),
            kind => self.configure(kind, command),
        }
    }

    /// The lines that BuildKit takes for the command's: for a trigger those of the `FROM`.
    pub(super) fn lines(&self, command: &Command<'_>) -> Span {
        let from = self.lowering.stages.nodes[self.index].from;
        match (command.is_trigger(), from) {
            (true, Some(from)) => from.lines,
            _ => command.instruction().lines,
        }
    }

    pub(super) fn place(&self, command: &Command<'_>) -> Place {
        Place { source: command.source.clone(), span: command.instruction().span, lines: self.lines(command) }
    }

    /// What the stage asks the client for, so far.
    pub(super) fn notes(&mut self) -> &mut Notes {
        &mut self.lowering.notes[self.index]
    }

    /// Replaces the variables of a word; an error is reported and gives `None`.
    pub(super) fn expand(&mut self, word: &Word, source: &Source) -> Option<String> {
        let escape = self.lowering.dockerfile.directives.escape;
        match words::expand(word, source, escape, &self.state.scope) {
            Ok(expanded) => {
                self.warn_unset(&expanded.unset, source, word.span);
                Some(expanded.text)
            }
            Err(error) => {
                self.lowering.diagnostics.push(*error);
                None
            }
        }
    }

    /// Warns of variables that are neither set nor declared.
    pub(super) fn warn_unset(&mut self, unset: &[String], source: &Source, span: Span) {
        for name in unset {
            let declared = self.state.arguments.iter().any(|(known, _)| known == name);
            if !declared && !scope::is_never_environment(name) {
                let warning = checks::undefined_variable(name, source, span, self.state.scope.names());
                self.lowering.diagnostics.push(warning);
            }
        }
    }

    pub(super) fn error(&mut self, code: &'static str, message: impl Into<String>, source: &Source, span: Span) {
        self.lowering.diagnostics.push(Diagnostic::error(code, message, source, span));
    }

    /// Adds a history item.
    pub(super) fn record(&mut self, created_by: String, layer: Option<StepIndex>) {
        self.state.record(created_by, layer);
    }

    /// Origin of the next numbered step of the stage; `text` is what its name says.
    pub(super) fn origin(&mut self, text: &str, command: &Command<'_>) -> Origin {
        Origin {
            name: self.numbering.name(text, command.is_trigger()),
            place: Some((command.source.clone(), command.instruction().span)),
            stage: self.lowering.stages.stage_name(self.index),
            stage_label: self.lowering.stages.nodes[self.index].label.clone(),
            ..Origin::default()
        }
    }

    /// The instruction's text with its variables replaced, as names of steps show it.
    pub(super) fn shown(&self, command: &Command<'_>) -> String {
        let text = super::text::with_upper_keyword(&command.instruction().text);
        super::text::with_known_variables(&text, |name| self.state.scope.value(name).map(str::to_owned))
    }
}

impl Numbering {
    fn of(node: &Node<'_>, options: &Options) -> Numbering {
        let from_outside = matches!(node.base, BaseKind::Image { .. } | BaseKind::Files(_) | BaseKind::Unknown);
        let counts = |command: &&Command<'_>| {
            let kind = &command.instruction().kind;
            command.is_trigger()
                || matches!(
                    kind,
                    InstructionKind::Add(_) | InstructionKind::Copy(_) | InstructionKind::Run(_) | InstructionKind::Workdir(_)
                )
        };
        let total = usize::from(from_outside && !node.verbatim) + node.commands.iter().filter(counts).count();
        let mut prefix = String::new();
        if options.platform_in_names {
            prefix.push_str(&format!("{} ", node.platform));
        }
        if !node.label.is_empty() {
            prefix.push_str(&format!("{} ", node.label));
        }
        Numbering { prefix, next: 1, total }
    }

    fn name(&mut self, text: &str, trigger: bool) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        let number = self.next;
        self.next += 1;
        let width = self.total.to_string().len();
        let trigger = if trigger { "ONBUILD " } else { "" };
        format!("[{}{number:width$}/{}] {trigger}{text}", self.prefix, self.total)
    }
}
