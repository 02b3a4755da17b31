//! `SOURCE_DATE_EPOCH`: a number of seconds, or the name of a source whose time it is.
//!
//! A source is the main context (`context`), a named context, or a stage of nothing but one remote `ADD`. What time it has is
//! for the builder to find out; a source without one (files of this machine, an image) leaves the variable unset.

use super::globals;
use super::remote::{self, SourceKind};
use super::scope::Scope;
use super::stages::named_context;
use super::{NamedContext, Options, words};
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::{Dockerfile, Instruction, InstructionKind, Stage, Transfer, TransferSource};
use crate::graph::{GitOp, HttpOp};

/// What `SOURCE_DATE_EPOCH` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// Nothing, or it is not set.
    Unset,
    /// Seconds since 1970.
    Seconds(i64),
    /// The time of a source.
    Of(EpochSource),
}

/// A source that lends a build its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochSource {
    /// A context, by name (`context` is the main one).
    Context(String),
    /// A download.
    Http(HttpOp),
    /// A git tree.
    Git(GitOp),
    /// An image, which has none.
    Image,
}

pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What `SOURCE_DATE_EPOCH` says; a mistake in it is left to [`super::lower`], which reports all there are.
pub fn epoch(dockerfile: &Dockerfile, options: &Options) -> Epoch {
    let globals = globals::scope(dockerfile, options, Scope::predefined(options, "default"), &mut Vec::new());
    read(dockerfile, options, &globals).unwrap_or(Epoch::Unset)
}

impl Options {
    /// Puts a time in the place of the source that `SOURCE_DATE_EPOCH` names.
    pub fn settle_epoch(&mut self, seconds: Option<i64>) {
        if self.build_arg(EPOCH).is_some() {
            self.build_args.retain(|(name, _)| name != EPOCH);
            self.build_args.extend(seconds.map(|seconds| (EPOCH.to_owned(), seconds.to_string())));
        }
        self.epoch_default = Some(seconds);
    }
}

/// What it says where the global scope is `globals`.
pub(super) fn read(dockerfile: &Dockerfile, options: &Options, globals: &Scope) -> Result<Epoch, Box<Diagnostic>> {
    let given = options.build_arg(EPOCH);
    let Some(value) = given.or_else(|| globals.value(EPOCH)).filter(|value| !value.is_empty()) else { return Ok(Epoch::Unset) };
    if let Ok(seconds) = value.parse::<i64>() {
        return Ok(Epoch::Seconds(seconds));
    }
    if value == "context" {
        return Ok(Epoch::Of(EpochSource::Context(value.to_owned())));
    }
    if let Some((name, context)) = named_context(options, value, &options.target_platform) {
        return Ok(Epoch::Of(match context {
            NamedContext::Local => EpochSource::Context(name.clone()),
            NamedContext::Image(_) | NamedContext::Layout(_) => EpochSource::Image,
        }));
    }
    let is_meant = |stage: &&Stage| stage.from.name.as_ref().is_some_and(|name| name.value.eq_ignore_ascii_case(value));
    match dockerfile.stages.iter().find(is_meant) {
        Some(stage) => {
            let mut scope = globals.clone();
            scope.unset(EPOCH);
            Ok(Epoch::Of(source_of(stage, dockerfile, options, scope)?))
        }
        None => Err(unknown(value, dockerfile, options)),
    }
}

fn unknown(value: &str, dockerfile: &Dockerfile, options: &Options) -> Box<Diagnostic> {
    let message = format!("invalid SOURCE_DATE_EPOCH: `{value}`");
    let declared = globals::declarations(dockerfile).filter(|declaration| declaration.name.value == EPOCH).last();
    let diagnostic = match declared.filter(|_| options.build_arg(EPOCH).is_none()) {
        Some(declaration) => Diagnostic::error("bad-epoch", message, &dockerfile.source, declaration.span),
        None => Diagnostic::error_without_place("bad-epoch", message),
    };
    let stages = dockerfile.stages.iter().filter_map(|stage| stage.from.name.as_ref()).map(|name| name.value.as_str());
    let names = stages.chain(options.named_contexts.keys().map(String::as_str)).chain(["context"]);
    let help = words::did_you_mean(value, names).unwrap_or_else(|| {
        "give whole seconds since 1970-01-01, or the source whose time it is: `context`, a named context or a stage".to_owned()
    });
    Box::new(diagnostic.help(help))
}

/// The one remote source that a stage is made of.
fn source_of(stage: &Stage, dockerfile: &Dockerfile, options: &Options, globals: Scope) -> Result<EpochSource, Box<Diagnostic>> {
    let reader = StageReader { dockerfile, options, stage };
    let base = reader.expand(&stage.from.base, &globals)?;
    if base != "scratch" {
        return Err(reader.refused("a stage that gives SOURCE_DATE_EPOCH must be `FROM scratch`", stage.from.base.span));
    }
    let mut scope = globals;
    let mut source = None;
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Arg(declarations) => {
                for declaration in declarations {
                    let name = declaration.name.value.as_str();
                    match (options.build_arg(name), &declaration.default) {
                        (Some(given), _) => scope.set(name, given),
                        (None, Some(default)) => {
                            let value = reader.expand(default, &scope)?;
                            scope.set(name, &value);
                        }
                        (None, None) => {}
                    }
                }
            }
            InstructionKind::Add(transfer) if source.is_none() => source = Some(reader.added(transfer, instruction, &scope)?),
            InstructionKind::Add(_) => return Err(reader.refused(ONE_SOURCE, instruction.span)),
            _ => {
                let keyword = instruction.text.split([' ', '\t']).next().unwrap_or_default().to_uppercase();
                let message = format!("a stage that gives SOURCE_DATE_EPOCH has `ARG` and `ADD` alone, not `{keyword}`");
                return Err(reader.refused(&message, instruction.span));
            }
        }
    }
    source.ok_or_else(|| reader.refused(ONE_SOURCE, stage.from.span))
}

const ONE_SOURCE: &str = "a stage that gives SOURCE_DATE_EPOCH must have exactly one `ADD`, of one URL or git repository";

/// Reads a stage for the sake of its source.
struct StageReader<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    stage: &'a Stage,
}

impl StageReader<'_> {
    fn added(&self, transfer: &Transfer, instruction: &Instruction, scope: &Scope) -> Result<EpochSource, Box<Diagnostic>> {
        let [TransferSource::Path(word)] = transfer.sources.as_slice() else {
            return Err(self.refused(ONE_SOURCE, instruction.span));
        };
        let text = self.expand(word, scope)?;
        let checksum = match &transfer.checksum {
            Some(checksum) => Some((self.expand(checksum, scope)?, checksum.span)).filter(|(text, _)| !text.is_empty()),
            None => None,
        };
        match remote::classify(&text).map_err(|message| self.refused(&message, word.span))? {
            SourceKind::Url { file_name } => {
                let parse = |(text, span): (String, Span)| {
                    text.parse().map_err(|error| self.refused(&format!("invalid checksum: {error}"), span))
                };
                Ok(EpochSource::Http(HttpOp { url: text, checksum: checksum.map(parse).transpose()?, file_name }))
            }
            SourceKind::Git(mut reference) => {
                reference.checksum = checksum.map(|(text, _)| text).or(reference.checksum);
                Ok(EpochSource::Git(reference.into_op()))
            }
            SourceKind::Path => Err(self.refused(ONE_SOURCE, word.span)),
        }
    }

    fn expand(&self, word: &crate::dockerfile::Word, scope: &Scope) -> Result<String, Box<Diagnostic>> {
        let expanded = words::expand(word, &self.dockerfile.source, self.dockerfile.directives.escape, scope)?;
        Ok(expanded.text)
    }

    fn refused(&self, message: &str, span: Span) -> Box<Diagnostic> {
        let diagnostic = Diagnostic::error("bad-epoch", message, &self.dockerfile.source, span);
        let name = self.stage.from.name.as_ref().map_or("", |name| name.value.as_str());
        let says = if self.options.build_arg(EPOCH).is_some() { "the build argument says" } else { "the Dockerfile says" };
        Box::new(diagnostic.note(format!("{says} SOURCE_DATE_EPOCH={name}")))
    }
}
