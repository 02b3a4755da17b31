//! What a Dockerfile says, as written: nothing is expanded, resolved or defaulted here.

use std::time::Duration;

use super::check::Options;
use super::rules;
use crate::diagnostic::{Diagnostic, Rule, Severity, Source, Span, Spanned};

/// A raw word of the text: quotes and variables are still in it, `expand` takes them out.
pub type Word = Spanned<String>;

/// A parsed file.
#[derive(Clone, Debug, PartialEq)]
pub struct Dockerfile {
    /// The text it was read from.
    pub source: Source,
    /// Comments at the top that steer the parser.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`, in order.
    pub global_args: Vec<Instruction>,
    /// In order of appearance; at least one when there were no errors.
    pub stages: Vec<Stage>,
    /// Whether a stage may be missing, or its name, as its `FROM` could not be read.
    pub has_gaps: bool,
    /// What comments of the form `# check=…` say about the instruction below them, in order, with its lines.
    pub checks: Vec<(Span, Options)>,
}

impl Dockerfile {
    /// Whether people want to read this: errors always, warnings unless `options` or a comment above their instruction skip
    /// them.
    pub fn reports(&self, diagnostic: &Diagnostic, options: &Options) -> bool {
        if diagnostic.severity == Severity::Error {
            return true;
        }
        let place = diagnostic.place.as_ref().filter(|(source, _)| *source == self.source).map(|(_, span)| *span);
        match diagnostic.rule {
            Some(rule) => self.wants(rule, place.filter(|_| rules::heeds_comments(rule)), options),
            None => {
                let here = place.and_then(|place| self.checks_at(place));
                !options.skipped.contains(diagnostic.code) && !here.is_some_and(|here| here.skipped.contains(diagnostic.code))
            }
        }
    }

    /// Whether `rule` is to be looked for at the instruction at `place`; `None` stands for the whole file.
    pub fn wants(&self, rule: &Rule, place: Option<Span>, options: &Options) -> bool {
        let here = place.and_then(|place| self.checks_at(place));
        match (rule.experimental, here) {
            (_, None) => options.wants(rule),
            (false, Some(here)) => options.wants(rule) && here.wants(rule),
            (true, Some(here)) => options.wants(rule) || here.wants(rule),
        }
    }

    /// All lines of the instruction that `place` is in.
    pub fn lines_at(&self, place: Span) -> Option<Span> {
        let covers = |lines: &Span| lines.start <= place.start && place.start <= lines.end;
        let stage = self.stages.partition_point(|stage| stage.from.lines.start <= place.start).checked_sub(1);
        let (first, instructions) = match stage.and_then(|stage| self.stages.get(stage)) {
            Some(stage) => (Some(stage.from.lines), &stage.instructions),
            None => (None, &self.global_args),
        };
        first.into_iter().chain(instructions.iter().map(|instruction| instruction.lines)).find(covers)
    }

    fn checks_at(&self, place: Span) -> Option<&Options> {
        let (lines, options) = &self.checks[self.checks.partition_point(|(lines, _)| lines.end < place.start)..].first()?;
        (lines.start <= place.start).then_some(options)
    }
}

/// `# syntax=`, `# escape=`, `# check=`.
#[derive(Clone, Debug, PartialEq)]
pub struct Directives {
    /// The frontend image asked for, cut at the first blank.
    pub syntax: Option<Spanned<String>>,
    /// `\` or `` ` ``.
    pub escape: char,
    /// The text of `# check=`.
    pub check: Option<Spanned<String>>,
}

/// A `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its first line.
    pub from: From,
    /// In order, without the `FROM`.
    pub instructions: Vec<Instruction>,
}

/// `FROM [--platform=P] BASE [AS NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct From {
    /// Image, earlier stage or `scratch`; variables of the global scope are still in it.
    pub base: Word,
    /// Value of `--platform`.
    pub platform: Option<Word>,
    /// The stage's name, lower-cased.
    pub name: Option<Spanned<String>>,
    /// The whole instruction.
    pub span: Span,
    /// All lines that it was read from, comments and empty lines inside it included.
    pub lines: Span,
    /// One line as progress shows it (continuations joined), such as `FROM busybox AS build`.
    pub text: String,
    /// What a comment above it says about the stage: `# NAME description`.
    pub description: Option<String>,
}

/// One Dockerfile statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// All of it, heredoc bodies included.
    pub span: Span,
    /// All lines that it was read from, comments and empty lines inside it included.
    pub lines: Span,
    /// One line as progress shows it: original spelling, continuations joined, comments dropped, no heredoc bodies.
    pub text: String,
}

/// The instructions, `FROM` apart.
#[derive(Clone, Debug, PartialEq)]
pub enum InstructionKind {
    /// `ADD`.
    Add(Transfer),
    /// `ARG`, one or more names.
    Arg(Vec<ArgDeclaration>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Transfer),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`.
    Env(Vec<Pair>),
    /// `EXPOSE`: words as written.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<Pair>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the trigger as text (heredoc bodies included), checked already.
    Onbuild(Spanned<String>),
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// `NAME` or `NAME=DEFAULT` of an `ARG`.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgDeclaration {
    /// The name, quotes processed.
    pub name: Spanned<String>,
    /// The default as written, still to expand.
    pub default: Option<Word>,
    /// `NAME=DEFAULT` as written.
    pub span: Span,
    /// What a comment above the instruction says about it: `# NAME description`.
    pub description: Option<String>,
}

/// `KEY=VALUE` of `ENV` or `LABEL`, both still to expand.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Left of the `=`.
    pub key: Word,
    /// Right of it; in the legacy form, the rest of the line.
    pub value: Word,
    /// Whether it was written `ENV key value`.
    pub legacy: bool,
}

/// What `CMD`, `ENTRYPOINT`, `RUN` and `HEALTHCHECK CMD` start.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Text for the shell.
    Shell(String),
    /// A JSON list, taken as it is.
    Exec(Vec<String>),
}

/// `<<NAME` and its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Heredoc {
    /// The delimiter without quotes; names the file in COPY.
    pub name: String,
    /// The lines up to the terminator, with their newlines; tabs already removed for `<<-`.
    pub body: String,
    /// The body as written: what the shell gets when it reads the heredoc itself, and what `ONBUILD` keeps.
    pub raw_body: String,
    /// Whether variables in the body are expanded (no quotes around the delimiter).
    pub expand: bool,
    /// Whether it was `<<-`.
    pub strip_tabs: bool,
    /// File descriptor digits before `<<`, often empty.
    pub descriptor: String,
    /// The `<<NAME` word.
    pub span: Span,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The command line; for heredocs the text before the bodies are put back, see `heredocs`.
    pub command: Command,
    /// Heredocs of the line, in order. With exactly one that is the whole command, its body is the script; otherwise the
    /// shell gets the command line followed by all bodies and terminators.
    pub heredocs: Vec<Heredoc>,
    /// Each `--mount=` value, one CSV record, in order; see [`mount`](super::mount).
    pub mounts: Vec<Spanned<String>>,
    /// `--network`.
    pub network: Option<Spanned<RunNetwork>>,
    /// `--security`.
    pub security: Option<Spanned<RunSecurity>>,
    /// `--device` values.
    pub devices: Vec<Spanned<String>>,
    /// Comments above the instruction that begin with `croze:`, such as `croze:timeout=30s`.
    pub comments: Vec<Spanned<String>>,
}

impl Run {
    /// The heredoc that is the whole command, so that its body is the script.
    pub fn script(&self) -> Option<&Heredoc> {
        let (Command::Shell(text), [heredoc]) = (&self.command, self.heredocs.as_slice()) else { return None };
        matches!(super::heredoc::operator(text), Ok(Some(_))).then_some(heredoc)
    }
}

/// `RUN --network=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunNetwork {
    /// What the build uses.
    Default,
    /// Loopback only.
    None,
    /// The host's; needs an entitlement.
    Host,
}

/// `RUN --security=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunSecurity {
    /// The default.
    Sandbox,
    /// All capabilities; needs an entitlement.
    Insecure,
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// In the order written.
    pub sources: Vec<TransferSource>,
    /// The last word.
    pub destination: Word,
    /// `--from` (COPY): stage, image or context name, never expanded.
    pub from: Option<Spanned<String>>,
    /// `--chown`, still to expand.
    pub chown: Option<Word>,
    /// `--chmod`, still to expand.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, each a pattern that is not expanded.
    pub excludes: Vec<Word>,
    /// `--checksum` (ADD), still to expand.
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
}

/// One source of `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq)]
pub enum TransferSource {
    /// A path, pattern, URL or git reference, still to expand.
    Path(Word),
    /// A file written in the Dockerfile.
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [options] CMD …`.
    Check {
        /// What to run; shell text is stored as `CMD-SHELL`.
        command: Command,
        /// `--interval`; zero when not given.
        interval: Duration,
        /// `--timeout`; zero when not given.
        timeout: Duration,
        /// `--start-period`; zero when not given.
        start_period: Duration,
        /// `--start-interval`; zero when not given.
        start_interval: Duration,
        /// `--retries`; zero when not given.
        retries: u32,
    },
}
