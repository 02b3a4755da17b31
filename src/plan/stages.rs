//! Stages: which there are, what each is built from and copies from, and which of them a target needs.

use std::collections::{BTreeSet, HashMap};

use super::scope::Scope;
use super::words::{did_you_mean, with_help};
use super::{Bases, ImageKey, ImageLocation, NamedContext, Options, Wanted, Wish, checks, from, globals};
use crate::diagnostic::{Diagnostic, Source, Span, Spanned};
use crate::dockerfile::{self, Dockerfile, From, Instruction, InstructionKind};
use crate::reference::{ImageRef, Platform};

/// All stages of a file, and the images that are only copied or mounted from (behind the stages).
pub(super) struct Stages<'a> {
    /// Stages in the order of the file, then images.
    pub nodes: Vec<Node<'a>>,
    /// The node asked for.
    pub target: usize,
    /// The nodes that the target needs, itself included.
    pub needed: BTreeSet<usize>,
    /// Predefined and global arguments.
    pub globals: Scope,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    bases: &'a Bases,
    by_name: HashMap<String, usize>,
    by_image: HashMap<String, usize>,
}

/// A stage, or an image that is only read.
pub(super) struct Node<'a> {
    /// Its first line; `None` for an image that is only read.
    pub from: Option<&'a From>,
    /// What names of steps call it; empty when there is only one.
    pub label: String,
    /// What it starts from.
    pub base: BaseKind,
    /// The platform that a base image is taken for.
    pub platform: Platform,
    /// Triggers of the base first, then the stage's own instructions.
    pub commands: Vec<Command<'a>>,
    /// Whether it is taken as it is: an image that is only read, or a stage replaced by a named context.
    pub verbatim: bool,
    /// The word that brings it in.
    pub place: (Source, Span),
    /// The global arguments that its first line uses.
    pub used_arguments: BTreeSet<String>,
    triggers_known: bool,
}

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // there is one per stage
pub(super) enum BaseKind {
    /// The empty tree.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, and the named context that gave it if one did.
    Image {
        /// Which.
        key: ImageKey,
        /// As written.
        written: String,
        /// Name of the context.
        context: Option<String>,
    },
    /// The files of a named context.
    Files(String),
    /// Something with an error, reported already.
    Unknown,
}

/// An instruction to carry out.
pub(super) struct Command<'a> {
    /// What it says.
    pub instruction: InstructionRef<'a>,
    /// The text that its spans point into.
    pub source: Source,
    /// The nodes that `COPY --from` or each `RUN --mount` reads; `None` for mounts without one.
    pub inputs: Vec<Option<usize>>,
}

/// An instruction of the file, or of a trigger.
pub(super) enum InstructionRef<'a> {
    /// Written in this file.
    Written(&'a Instruction),
    /// Brought by the base.
    Triggered(Box<Instruction>),
}

impl Command<'_> {
    pub(super) fn instruction(&self) -> &Instruction {
        match &self.instruction {
            InstructionRef::Written(instruction) => instruction,
            InstructionRef::Triggered(instruction) => instruction,
        }
    }

    /// The instruction's name as it is spelled.
    pub(super) fn keyword(&self) -> &str {
        self.instruction().text.split([' ', '\t']).next().unwrap_or_default()
    }

    pub(super) fn is_trigger(&self) -> bool {
        matches!(self.instruction, InstructionRef::Triggered(_))
    }
}

impl<'a> Stages<'a> {
    /// Finds stages, target and needs. `None` when that makes no sense; the errors say why.
    pub(super) fn find(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        bases: &'a Bases,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Stages<'a>> {
        let last = dockerfile.stages.last()?;
        globals::check_syntax(dockerfile, options, diagnostics);
        let own_name = last.from.name.as_ref().map(|name| name.value.as_str());
        let target_name = options.target.as_deref().or(own_name).unwrap_or("default");
        let predefined = Scope::predefined(options, target_name);
        checks::default_base_names(dockerfile, &predefined, diagnostics);
        let (globals, epoch) = globals::resolve(dockerfile, options, predefined, diagnostics);
        let mut stages = Stages {
            nodes: Vec::new(),
            target: dockerfile.stages.len() - 1,
            needed: BTreeSet::new(),
            globals,
            epoch,
            dockerfile,
            options,
            bases,
            by_name: HashMap::new(),
            by_image: HashMap::new(),
        };
        for stage in &dockerfile.stages {
            stages.add_stage(&stage.from, diagnostics);
        }
        stages.find_target(diagnostics)?;
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            if !stages.nodes[index].verbatim {
                stages.add_commands(index, &stage.instructions, diagnostics);
            }
        }
        stages.refuse_cycles(diagnostics)?;
        if let [only] = stages.nodes.as_mut_slice() {
            only.label.clear();
        }
        stages.add_triggers(diagnostics);
        Some(stages)
    }

    /// The images that the target needs and that are not there yet, without repetition.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for node in self.needed.iter().map(|index| &self.nodes[*index]) {
            let BaseKind::Image { key, written, .. } = &node.base else { continue };
            if self.bases.contains_key(key) || wanted.iter().any(|known| known.key == *key) {
                continue;
            }
            let help = did_you_mean(written, self.by_name.keys().map(String::as_str));
            wanted.push(Wanted { key: key.clone(), written: written.clone(), place: node.place.clone(), help });
        }
        wanted
    }

    /// The instructions of all stages, those of triggers included.
    pub(super) fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.nodes.iter().flat_map(|node| &node.commands).map(Command::instruction)
    }

    /// What a stage is called: its name, else its number; the name as written for an image that is only read.
    pub(super) fn stage_name(&self, index: usize) -> String {
        let node = &self.nodes[index];
        match node.from.map(|from| from.name.as_ref()) {
            Some(Some(name)) => name.value.clone(),
            Some(None) => index.to_string(),
            None => node.label.clone(),
        }
    }

    fn add_stage(&mut self, from: &'a From, diagnostics: &mut Vec<Diagnostic>) {
        let index = self.nodes.len();
        let header = from::read(self.dockerfile, from, &self.globals, diagnostics);
        let platform = header.platform.unwrap_or_else(|| self.options.target_platform.clone());
        let name = from.name.as_ref().map(|name| name.value.as_str());
        let replaced = name.and_then(|name| self.named_context(name, &platform));
        let verbatim = replaced.is_some();
        let base = match (replaced, header.base) {
            (Some(base), _) => base,
            (None, None) => BaseKind::Unknown,
            (None, Some(base)) => match self.by_name.get(&base) {
                Some(stage) => BaseKind::Stage(*stage),
                None => self.image(&base, &platform, (&self.dockerfile.source, from.base.span), diagnostics),
            },
        };
        self.nodes.push(Node {
            from: Some(from),
            label: name.map_or_else(|| format!("stage-{index}"), str::to_owned),
            base,
            platform,
            commands: Vec::new(),
            verbatim,
            place: (self.dockerfile.source.clone(), from.base.span),
            used_arguments: header.used_arguments,
            triggers_known: verbatim,
        });
        if let Some(name) = name {
            self.by_name.insert(name.to_lowercase(), index);
        }
    }

    /// The image or named context that a word means which is no stage.
    fn image(&self, written: &str, platform: &Platform, place: (&Source, Span), diagnostics: &mut Vec<Diagnostic>) -> BaseKind {
        if written == "scratch" {
            return BaseKind::Scratch;
        }
        if let Some(context) = self.named_context(written, platform) {
            return context;
        }
        match written.parse::<ImageRef>() {
            Ok(image_ref) => {
                let key = ImageKey { image: ImageLocation::Reference(image_ref), platform: platform.clone() };
                BaseKind::Image { key, written: written.to_owned(), context: None }
            }
            Err(error) => {
                let mut diagnostic = Diagnostic::error("bad-image-name", error.to_string(), place.0, place.1);
                if let Some((_, rest)) = written.split_once("://") {
                    diagnostic = diagnostic.help(format!("image names have no scheme: `{rest}`"));
                }
                if let Some(stage) = self.by_name.get(&written.to_lowercase()) {
                    let name = self.stage_name(*stage);
                    diagnostic = diagnostic.help(format!("stage names are lower case: write `{name}` for the stage above"));
                }
                diagnostics.push(diagnostic);
                BaseKind::Unknown
            }
        }
    }

    /// The named context that replaces `name`, as a base.
    fn named_context(&self, name: &str, platform: &Platform) -> Option<BaseKind> {
        let (key, context) = named_context(self.options, name, platform)?;
        let image = |image: ImageLocation, written: String| BaseKind::Image {
            key: ImageKey { image, platform: platform.clone() },
            written,
            context: Some(key.clone()),
        };
        Some(match context {
            NamedContext::Local => BaseKind::Files(key.clone()),
            NamedContext::Image(image_ref) if image_ref.familiar() == "scratch:latest" => BaseKind::Scratch,
            NamedContext::Image(image_ref) => image(ImageLocation::Reference(image_ref.clone()), image_ref.familiar()),
            NamedContext::Layout(text) => image(ImageLocation::Layout(text.clone()), text.clone()),
        })
    }

    fn find_target(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<()> {
        let Some(target) = &self.options.target else { return Some(()) };
        if let Some(index) = self.by_name.get(&target.to_lowercase()) {
            self.target = *index;
            return Some(());
        }
        let message = format!("target stage `{target}` could not be found");
        let mut diagnostic = Diagnostic::error_without_place("unknown-target", message);
        let source = &self.dockerfile.source;
        for name in self.dockerfile.stages.iter().filter_map(|stage| stage.from.name.as_ref()) {
            let (line, _) = source.line_column(name.span.start);
            diagnostic = diagnostic.note(format!("stage `{}` at {}:{line}", name.value, source.name()));
        }
        if self.by_name.is_empty() {
            diagnostic = diagnostic.note("no stage has a name: `FROM image AS name` gives one");
        }
        let help = did_you_mean(target, self.by_name.keys().map(String::as_str));
        diagnostics.push(with_help(diagnostic, help));
        None
    }

    fn add_commands(&mut self, index: usize, instructions: &'a [Instruction], diagnostics: &mut Vec<Diagnostic>) {
        for instruction in instructions {
            let source = self.dockerfile.source.clone();
            let inputs = self.inputs(instruction, &source, diagnostics);
            self.nodes[index].commands.push(Command { instruction: InstructionRef::Written(instruction), source, inputs });
        }
    }

    /// The nodes that an instruction reads; images that are not known yet become nodes.
    fn inputs(&mut self, instruction: &Instruction, source: &Source, diagnostics: &mut Vec<Diagnostic>) -> Vec<Option<usize>> {
        match &instruction.kind {
            InstructionKind::Copy(transfer) => match &transfer.from {
                Some(from) => vec![self.copy_source(from, source, diagnostics)],
                None => Vec::new(),
            },
            InstructionKind::Run(run) => run
                .mounts
                .iter()
                .map(|mount| {
                    let from = mount_from(&mount.value)?;
                    // a variable here is the mount's own error, reported when its options are read
                    let from = Spanned::new(from.to_owned(), part_span(from, mount, source));
                    (!from.value.contains('$')).then(|| self.named(&from, source, diagnostics))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What `COPY --from=` means: a stage's number, its name, or an image.
    fn copy_source(&mut self, from: &Spanned<String>, source: &Source, diagnostics: &mut Vec<Diagnostic>) -> Option<usize> {
        if from.value.contains('$') {
            diagnostics.push(
                Diagnostic::error("from-variable", "variable expansion is not supported for --from", source, from.span)
                    .help("define a new stage with `FROM` using an `ARG` from the global scope, and copy from that"),
            );
            return None;
        }
        let Ok(number) = from.value.parse::<i64>() else {
            return Some(self.named(from, source, diagnostics));
        };
        let count = self.dockerfile.stages.len();
        match usize::try_from(number) {
            Ok(index) if index < count => Some(index),
            _ => {
                let message = format!("invalid stage index {number}");
                diagnostics.push(Diagnostic::error("bad-stage-index", message, source, from.span).note(match count {
                    1 => "there is one stage, number 0".to_owned(),
                    count => format!("there are {count} stages, counted from 0"),
                }));
                None
            }
        }
    }

    /// A stage by name in any case, else the node of an image.
    fn named(&mut self, from: &Spanned<String>, source: &Source, diagnostics: &mut Vec<Diagnostic>) -> usize {
        if let Some(index) = self.by_name.get(&from.value.to_lowercase()) {
            return *index;
        }
        if let Some(index) = self.by_image.get(&from.value) {
            return *index;
        }
        let platform = self.options.target_platform.clone();
        let base = self.image(&from.value, &platform, (source, from.span), diagnostics);
        let index = self.nodes.len();
        self.nodes.push(Node {
            from: None,
            label: from.value.clone(),
            base,
            platform,
            commands: Vec::new(),
            verbatim: true,
            place: (source.clone(), from.span),
            used_arguments: BTreeSet::new(),
            triggers_known: true,
        });
        self.by_image.insert(from.value.clone(), index);
        index
    }

    /// Refuses stages that copy from themselves, directly or around.
    fn refuse_cycles(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<()> {
        let mut marks = vec![Mark::New; self.nodes.len()];
        for start in 0..self.nodes.len() {
            if let Some(path) = self.find_cycle(start, &mut marks) {
                diagnostics.push(self.cycle(&path));
                return None;
            }
        }
        Some(())
    }

    /// Walks what `start` reads, depth first and without recursion (a file may chain any number of stages). A cycle is a
    /// list of stages, each with the instruction that reads the next one.
    fn find_cycle(&self, start: usize, marks: &mut [Mark]) -> Option<Vec<(usize, Span)>> {
        let visit = |node: usize| Visit { node, reads: self.reads(node), next: 0 };
        let mut path = Vec::new();
        if marks[start] == Mark::New {
            marks[start] = Mark::Open;
            path.push(visit(start));
        }
        while let Some(last) = path.last_mut() {
            let Some((input, _)) = last.reads.get(last.next).copied() else {
                marks[last.node] = Mark::Done;
                path.pop();
                continue;
            };
            last.next += 1;
            match marks[input] {
                Mark::Done => {}
                Mark::New => {
                    marks[input] = Mark::Open;
                    path.push(visit(input));
                }
                Mark::Open => {
                    let around = path.iter().skip_while(|visit| visit.node != input);
                    return Some(around.map(|visit| (visit.node, visit.reads[visit.next - 1].1)).collect());
                }
            }
        }
        None
    }

    /// The nodes that a node's instructions read, with the instructions' places.
    fn reads(&self, node: usize) -> Vec<(usize, Span)> {
        let commands = self.nodes[node].commands.iter();
        commands.flat_map(|command| command.inputs.iter().flatten().map(|input| (*input, command.instruction().span))).collect()
    }

    fn cycle(&self, path: &[(usize, Span)]) -> Diagnostic {
        let names: Vec<String> =
            path.iter().chain(path.first()).map(|(node, _)| format!("`{}`", self.stage_name(*node))).collect();
        let span = path.first().map_or(Span::default(), |(_, span)| *span);
        let message = format!("circular dependency detected on stage: {}", names[0]);
        let mut diagnostic = Diagnostic::error("stage-cycle", message, &self.dockerfile.source, span);
        for (node, span) in path.iter().skip(1) {
            diagnostic = diagnostic.also(*span, format!("read by `{}`", self.stage_name(*node)));
        }
        diagnostic.note(format!("each needs the next: {}", names.join(" → ")))
    }

    /// Puts the triggers of bases in front of the stages' own instructions, until no new needs appear.
    fn add_triggers(&mut self, diagnostics: &mut Vec<Diagnostic>) {
        loop {
            self.needed = self.reachable();
            let pending: Vec<usize> = self.needed.iter().copied().filter(|index| !self.nodes[*index].triggers_known).collect();
            let mut found = false;
            for index in pending {
                if let Some(triggers) = self.triggers(index) {
                    self.nodes[index].triggers_known = true;
                    found |= !triggers.is_empty();
                    self.add_trigger_commands(index, &triggers, diagnostics);
                }
            }
            if !found {
                return;
            }
        }
    }

    /// The trigger texts for a stage; `None` while its base image is not resolved.
    fn triggers(&self, index: usize) -> Option<Vec<String>> {
        match &self.nodes[index].base {
            BaseKind::Image { key, .. } => self.bases.get(key).map(|base| base.config.config.on_build.clone()),
            BaseKind::Stage(base) if self.nodes[*base].verbatim => self.triggers(*base),
            BaseKind::Stage(base) => {
                let texts = self.nodes[*base].commands.iter().filter_map(|command| match &command.instruction().kind {
                    InstructionKind::Onbuild(text) => Some(text.value.clone()),
                    _ => None,
                });
                Some(texts.collect())
            }
            BaseKind::Scratch | BaseKind::Files(_) | BaseKind::Unknown => Some(Vec::new()),
        }
    }

    fn add_trigger_commands(&mut self, index: usize, triggers: &[String], diagnostics: &mut Vec<Diagnostic>) {
        let origin = self.nodes[index].from.map(|from| from.text.clone()).unwrap_or_default();
        let mut commands = Vec::new();
        for trigger in triggers {
            match dockerfile::parse_trigger(trigger, &format!("ONBUILD trigger of `{origin}`")) {
                Ok((instruction, source)) => {
                    let inputs = self.inputs(&instruction, &source, diagnostics);
                    commands.push(Command { instruction: InstructionRef::Triggered(Box::new(instruction)), source, inputs });
                }
                Err(errors) => diagnostics.extend(errors),
            }
        }
        commands.append(&mut self.nodes[index].commands);
        self.nodes[index].commands = commands;
    }

    /// The target and all it reads; or every stage.
    fn reachable(&self) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut stack = match (self.options.stages, &self.options.target) {
            (Wish::Every, None) => (0..self.dockerfile.stages.len()).collect(),
            (Wish::Every, Some(_)) | (Wish::Target, _) => vec![self.target],
        };
        while let Some(index) = stack.pop() {
            if !reached.insert(index) {
                continue;
            }
            let node = &self.nodes[index];
            if let BaseKind::Stage(base) = node.base {
                stack.push(base);
            }
            stack.extend(node.commands.iter().flat_map(|command| command.inputs.iter().flatten()));
        }
        reached
    }
}

/// How far the search for cycles has come with a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

/// A node on the path of that search.
struct Visit {
    node: usize,
    reads: Vec<(usize, Span)>,
    next: usize,
}

/// The named context that replaces `name` with its name as given, the one for exactly `platform` first.
pub(super) fn named_context<'o>(options: &'o Options, name: &str, platform: &Platform) -> Option<(&'o String, &'o NamedContext)> {
    let nothing = options.named_contexts.is_empty();
    if nothing || name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
        return None;
    }
    let name = familiar(name);
    let mut candidates: Vec<(&String, &NamedContext, bool)> = Vec::new();
    for (key, context) in &options.named_contexts {
        let (key_name, key_platform) = key.split_once("::").map_or((key.as_str(), None), |(name, rest)| (name, Some(rest)));
        let fits = key_platform.is_none_or(|text| text.parse::<Platform>().is_ok_and(|parsed| parsed == *platform));
        if fits && familiar(key_name) == name {
            candidates.push((key, context, key_platform.is_none()));
        }
    }
    let (key, context, _) = candidates.into_iter().min_by_key(|(_, _, general)| *general)?;
    Some((key, context))
}

/// The name by which contexts and images are compared: Docker's short form without `:latest`.
fn familiar(name: &str) -> String {
    let lower = name.to_lowercase();
    match lower.parse::<ImageRef>() {
        Ok(image_ref) => {
            let familiar = image_ref.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => lower,
    }
}

/// The value of `from` in a mount's options, as written.
fn mount_from(options: &str) -> Option<&str> {
    let fields = options.split(',').map(|field| field.trim_matches('"'));
    let value = fields.filter_map(|field| field.split_once('=')).rfind(|(key, _)| key.eq_ignore_ascii_case("from"))?.1;
    (!value.is_empty()).then_some(value)
}

/// The place of `=value` in a flag's text, or all of the flag where it is not written in one piece.
fn part_span(value: &str, flag: &Spanned<String>, source: &Source) -> Span {
    let written = source.text().get(flag.span.range()).unwrap_or_default();
    match written.find(&format!("={value}")) {
        Some(index) => Span::new(flag.span.start + index + 1, flag.span.start + index + 1 + value.len()),
        None => flag.span,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_known_by_their_short_names() {
        assert_eq!(familiar("docker.io/library/Alpine:latest"), "alpine");
        assert_eq!(familiar("conf/base:1"), "conf/base:1");
        assert_eq!(familiar("Not A Reference"), "not a reference");
    }

    #[test]
    fn mounts_name_what_they_read() {
        assert_eq!(mount_from("type=bind,FROM=build,target=/x"), Some("build"));
        assert_eq!(mount_from("type=cache,target=/x"), None);
        assert_eq!(mount_from("from="), None);
    }
}
