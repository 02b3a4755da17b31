//! The walk over a file: lines to instructions, instructions to stages.

use super::arguments::{Context, Parsed};
use super::ast::{Dockerfile, Heredoc, Instruction, InstructionKind, Stage};
use super::check;
use super::comments;
use super::directives;
use super::heredoc;
use super::instruction;
use super::keyword::Keyword;
use super::lines::{LineReader, Logical, MAX_LINE_BYTES};
use super::rules;
use super::stage;
use super::words::{self, Statement};
use crate::diagnostic::{Diagnostic, Severity, Source, Span, Spanned};

/// Reads a whole file. Never panics, and goes on after an error, so that all problems are told at once.
///
/// The answer is complete when no diagnostic is an error; otherwise instructions that could not be understood are missing
/// from it. Warnings are the build checks that need no values, all of them: [`Dockerfile::reports`] says which are wanted.
pub fn parse(source: &Source) -> (Dockerfile, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let top = directives::read(source, &mut diagnostics);
    check_line_lengths(source, &mut diagnostics);
    let mut parser = Parser::new(source, top.end, top.directives.escape);
    parser.has_gaps = has_error(&diagnostics);
    parser.diagnostics = diagnostics;
    while let Some(logical) = parser.reader.next_logical() {
        parser.logical(logical);
    }
    parser.check_whole();
    let mut diagnostics = parser.diagnostics;
    diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|(_, span)| span.start));
    let dockerfile = Dockerfile {
        source: source.clone(),
        directives: top.directives,
        global_args: parser.global_args,
        stages: parser.stages,
        has_gaps: parser.has_gaps,
        checks: parser.checks,
    };
    (dockerfile, diagnostics)
}

/// Reads an `ONBUILD` trigger from an image's config as a file of one instruction; `name` says where it is from.
///
/// # Errors
/// All that is wrong with it, pointing into a source called `name`.
pub fn parse_trigger(text: &str, name: &str) -> Result<(Instruction, Source), Vec<Diagnostic>> {
    let source = Source::new(name, text);
    let mut parser = Parser::new(&source, 0, '\\');
    let mut found = Vec::new();
    while let Some(logical) = parser.reader.next_logical() {
        found.push(parser.instruction(logical));
    }
    let mut errors = parser.diagnostics;
    errors.retain(|diagnostic| diagnostic.severity == Severity::Error);
    let whole = Span::new(0, text.len());
    match <[_; 1]>::try_from(found) {
        Ok([Some(Read::Instruction(instruction))]) if errors.is_empty() => return Ok((instruction, source)),
        Ok([Some(Read::From(_))]) => {
            errors.push(Diagnostic::error("onbuild-trigger", "`FROM` isn't allowed as an `ONBUILD` trigger", &source, whole));
        }
        Ok(_) => {}
        Err(found) => {
            let message = format!("an `ONBUILD` trigger should be a single instruction, got {}", found.len());
            errors.push(Diagnostic::error("onbuild-trigger", message, &source, whole));
        }
    }
    Err(errors)
}

struct Parser<'a> {
    source: &'a Source,
    escape: char,
    reader: LineReader<'a>,
    diagnostics: Vec<Diagnostic>,
    global_args: Vec<Instruction>,
    stages: Vec<Stage>,
    checks: Vec<(Span, check::Options)>,
    /// Keywords as spelled, without those before the first stage.
    keywords: Vec<Spanned<String>>,
    instructions: usize,
    blamed_missing_stage: bool,
    /// A stage may be missing, or its name.
    has_gaps: bool,
    /// Behind an unterminated heredoc nobody knows which lines are instructions.
    lost: bool,
}

/// What a logical line turned out to be.
enum Read {
    From(super::ast::From),
    Instruction(Instruction),
}

impl<'a> Parser<'a> {
    fn new(source: &'a Source, start: usize, escape: char) -> Parser<'a> {
        Parser {
            source,
            escape,
            reader: LineReader::new(source, start, escape),
            diagnostics: Vec::new(),
            global_args: Vec::new(),
            stages: Vec::new(),
            checks: Vec::new(),
            keywords: Vec::new(),
            instructions: 0,
            blamed_missing_stage: false,
            has_gaps: false,
            lost: false,
        }
    }

    /// Takes a line into the tree.
    fn logical(&mut self, logical: Logical) {
        self.instructions += 1;
        let name = words::statement(logical.line.text(), self.escape).name.spanned();
        let keyword = Keyword::parse(&name.value);
        let in_stage = !self.stages.is_empty() || keyword == Some(Keyword::From);
        if in_stage && keyword.is_some() {
            self.keywords.push(name.clone());
        }
        let before = self.diagnostics.len();
        let read = self.instruction(logical);
        if has_error(&self.diagnostics[before..]) {
            self.has_gaps |= self.lost || keyword.map_or(may_mean_from(&name.value), |keyword| keyword == Keyword::From);
        }
        match read {
            Some(Read::From(from)) => self.stages.push(Stage { from, instructions: Vec::new() }),
            Some(Read::Instruction(instruction)) => match self.stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None if matches!(instruction.kind, InstructionKind::Arg(_)) => self.global_args.push(instruction),
                None => self.no_stage(name.span),
            },
            None => {}
        }
    }

    fn no_stage(&mut self, span: Span) {
        if !self.blamed_missing_stage {
            let message = "no build stage in current context";
            let diagnostic = Diagnostic::error("no-stage", message, self.source, span);
            self.diagnostics.push(diagnostic.help("only `ARG` may stand before the first `FROM`"));
        }
        self.blamed_missing_stage = true;
    }

    /// Reads a line, and the heredoc bodies below it.
    fn instruction(&mut self, logical: Logical) -> Option<Read> {
        if let Some(empty) = logical.empty_continuation {
            let finding = Diagnostic::finding(&rules::NO_EMPTY_CONTINUATION, "Empty continuation line", self.source, empty);
            let finding = finding.help("remove the line, or begin it with `#`");
            // BuildKit names the last line of the instruction, whichever was empty
            self.diagnostics.push(Diagnostic { lines: Some(logical.last_line), ..finding });
        }
        let text = logical.line.text();
        let statement = words::statement(text, self.escape);
        let read = match Keyword::parse(statement.name.as_str()) {
            None => {
                if !self.lost {
                    self.unknown(&statement);
                }
                None
            }
            Some(Keyword::From) => {
                let mut cx = Context { source: self.source, escape: self.escape, diagnostics: &mut self.diagnostics };
                Some(Read::From(stage::parse(statement, logical.lines, &logical.comments, &mut cx)))
            }
            Some(keyword) => self.ordinary(keyword, statement, &logical),
        };
        let read = self.with_comments(read, &logical.comments);
        let checks = check::Options::from_comments(&logical.comments);
        if checks != check::Options::default() {
            self.checks.push((logical.lines, checks));
        }
        read
    }

    /// Hands comments of the form `# croze:…` to the `RUN` below them.
    fn with_comments(&mut self, mut read: Option<Read>, comments: &[Spanned<String>]) -> Option<Read> {
        let ours = comments.iter().filter(|comment| comment.value.starts_with("croze:"));
        if let Some(Read::Instruction(Instruction { kind: InstructionKind::Run(run), .. })) = &mut read {
            run.comments = ours.cloned().collect();
        } else if read.is_some() {
            self.diagnostics.extend(ours.map(|comment| {
                let message = format!("`# {}` has an effect above `RUN` only", comment.value);
                Diagnostic::warning("comment-without-effect", message, self.source, comment.span)
            }));
        }
        read
    }

    fn ordinary(&mut self, keyword: Keyword, statement: Statement<'_>, logical: &Logical) -> Option<Read> {
        let text = statement.text;
        let (heredocs, end) = self.heredocs(keyword, &statement);
        let mut cx = Context { source: self.source, escape: self.escape, diagnostics: &mut self.diagnostics };
        let mut kind = instruction::parse(Parsed { keyword, statement, heredocs }, &mut cx)?;
        if let InstructionKind::Arg(declarations) = &mut kind {
            comments::describe_arguments(declarations, &logical.comments, text.span(), &mut cx);
        }
        let span = Span::new(text.span().start, end.max(text.span().end));
        let lines = Span::new(logical.lines.start, end.max(logical.lines.end));
        Some(Read::Instruction(Instruction { kind, span, lines, text: text.as_str().to_owned() }))
    }

    fn unknown(&mut self, statement: &Statement<'_>) {
        let name = statement.name.as_str();
        let span = statement.name.span();
        let mut diagnostic = if name.is_empty() {
            Diagnostic::error("unknown-instruction", "a continued line without an instruction", self.source, span)
        } else {
            Diagnostic::error("unknown-instruction", format!("unknown instruction `{name}`"), self.source, span)
        };
        let odd = name
            .chars()
            .find(|c| !c.is_ascii() && (c.is_whitespace() || ('\u{200b}'..='\u{200f}').contains(c) || *c == '\u{feff}'));
        if let Some(odd) = odd {
            let point = u32::from(odd);
            diagnostic =
                diagnostic.note(format!("it holds U+{point:04X}, which looks like a blank, or like nothing, and is none"));
        } else if let Some(near) = Keyword::nearest(name) {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        }
        self.diagnostics.push(diagnostic);
    }

    /// The bodies that the instruction announces, and where the last of them ends.
    fn heredocs(&mut self, keyword: Keyword, statement: &Statement<'_>) -> (Vec<Heredoc>, usize) {
        let none = (Vec::new(), 0);
        let may_have = if keyword == Keyword::Onbuild {
            let inner = words::statement(statement.args, self.escape);
            Keyword::parse(inner.name.as_str()).is_some_and(|keyword| instruction::may_have_heredocs(keyword, inner.args))
        } else {
            instruction::may_have_heredocs(keyword, statement.args)
        };
        if !may_have || !statement.text.as_str().contains("<<") {
            return none;
        }
        let operators = match heredoc::operators(statement.text) {
            Ok(operators) => operators,
            Err((error, span)) => {
                self.diagnostics.push(Diagnostic::error("heredoc", error.message, self.source, span));
                return none;
            }
        };
        let mut heredocs = Vec::new();
        let mut end = 0;
        for (operator, span) in operators {
            let Some(body) = self.reader.heredoc_body(&operator.name, operator.strip_tabs) else {
                self.unterminated(&operator.name, span);
                break;
            };
            end = body.end;
            let raw_body = body.text.to_owned();
            let body = if operator.strip_tabs { heredoc::without_tabs(body.text) } else { raw_body.clone() };
            let heredoc::Operator { name, expand, strip_tabs, descriptor } = operator;
            heredocs.push(Heredoc { name, body, raw_body, expand, strip_tabs, descriptor, span });
        }
        (heredocs, end)
    }

    /// Reports it, and goes on behind the line that was probably meant to end it.
    fn unterminated(&mut self, name: &str, span: Span) {
        let mut diagnostic = Diagnostic::error("unterminated-heredoc", "unterminated heredoc", self.source, span)
            .label(format!("no line `{name}` after this one"));
        match self.reader.skip_past_indented(name) {
            Some(indented) => diagnostic = diagnostic.also(indented, "blanks around it, so it does not end the heredoc"),
            None => self.lost = true,
        }
        self.diagnostics.push(diagnostic.help(format!("end it with a line that is exactly `{name}`")));
    }

    /// What only the whole file shows.
    fn check_whole(&mut self) {
        let end = Span::new(0, 0);
        let has_errors = has_error(&self.diagnostics);
        if self.source.text().is_empty() {
            self.diagnostics.push(Diagnostic::error("empty-file", "the Dockerfile cannot be empty", self.source, end));
        } else if self.instructions == 0 {
            self.diagnostics.push(Diagnostic::error("empty-file", "file with no instructions", self.source, end));
        } else if self.stages.is_empty() && !has_errors {
            let diagnostic = Diagnostic::error("no-stage", "dockerfile contains no stages to build", self.source, end);
            self.diagnostics.push(diagnostic.help("begin a stage with `FROM image`"));
        }
        let mut cx = Context { source: self.source, escape: self.escape, diagnostics: &mut self.diagnostics };
        stage::check_names(&self.stages, &mut cx);
        if !has_errors {
            stage::check_casing(&self.keywords, &mut cx);
        }
    }
}

/// Whether an unknown name is near enough to `FROM` that stages may be missing: it has three of its letters.
fn may_mean_from(name: &str) -> bool {
    let upper = name.to_uppercase();
    name.len() < 8 && "FROM".chars().filter(|letter| upper.contains(*letter)).count() >= 3
}

fn has_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

fn check_line_lengths(source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let mut start = 0;
    for line in source.text().split_inclusive('\n') {
        let length = line.strip_suffix('\n').unwrap_or(line).len();
        if length > MAX_LINE_BYTES {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
            let span = Span::new(start, start);
            let diagnostic = Diagnostic::error("line-too-long", message, source, span);
            diagnostics.push(diagnostic.note(format!("this one has {length} bytes")));
        }
        start += line.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        parse(&Source::new("Dockerfile", text)).1.into_iter().map(|diagnostic| diagnostic.code).collect()
    }

    #[test]
    fn lines_may_have_65535_bytes() {
        let line = |length: usize| format!("FROM a\nRUN {}\n", "x".repeat(length - 4));
        assert_eq!(codes(&line(MAX_LINE_BYTES)), [""; 0]);
        assert_eq!(codes(&line(MAX_LINE_BYTES + 1)), ["line-too-long"]);
    }

    #[test]
    fn nothing_is_believed_behind_an_open_heredoc() {
        assert_eq!(codes("FROM a\nRUN <<END\necho\n"), ["unterminated-heredoc"]);
        assert_eq!(codes("FROM a\nRUN <<END\necho\n END \nFOO\n"), ["unterminated-heredoc", "unknown-instruction"]);
    }

    #[test]
    fn a_comment_skips_a_check_for_one_instruction() {
        let source = Source::new("Dockerfile", "FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER a\nMAINTAINER b\n");
        let (dockerfile, diagnostics) = parse(&source);
        let reported = |diagnostic: &&Diagnostic| dockerfile.reports(diagnostic, &check::Options::default());
        let lines = diagnostics.iter().filter(reported).filter_map(|diagnostic| diagnostic.place.as_ref());
        assert_eq!(lines.map(|(source, span)| source.line_column(span.start).0).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn triggers_are_files_of_one_instruction() {
        let (instruction, source) = parse_trigger("RUN <<A\nx\nA", "trigger").expect("valid");
        assert!(matches!(instruction.kind, InstructionKind::Run(run) if run.script().is_some()));
        assert_eq!(source.name(), "trigger");
        for bad in ["", "FOO", "RUN a\nRUN b", "FROM a", "COPY a"] {
            assert!(parse_trigger(bad, "trigger").is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_parses_without_a_panic(text in "\\PC{0,200}") {
            parse(&Source::new("Dockerfile", text));
        }

        #[test]
        fn any_arguments_parse_without_a_panic(
            lines in proptest::collection::vec(
                "(FROM|RUN|COPY|ENV|ARG|ONBUILD RUN|HEALTHCHECK|HEALTHCHECK CMD|SHELL|EXPOSE|# escape=`) [-a=\"'\\[\\]{}$<,\\\\`# \u{e9}\n]{0,20}",
                0..6,
            ),
            escape in "|# escape=`\n",
        ) {
            parse(&Source::new("Dockerfile", format!("{escape}{}", lines.join("\n"))));
        }

        #[test]
        fn flags_parse_without_a_panic(flags in "(--(mount|from|chown|network|interval)=?[-a=\"'\\\\,$ \u{e9}]{0,8} ?){0,4}", name in "RUN|COPY|HEALTHCHECK") {
            parse(&Source::new("Dockerfile", format!("FROM a\n{name} {flags}")));
        }
    }
}
