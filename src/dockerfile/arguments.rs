//! What the parsers of instructions share: where they report, and arguments that several of them have.

use super::ast::{Command, Heredoc};
use super::json::{self, JsonForm};
use super::keyword::Keyword;
use super::lines::Text;
use super::words::{Statement, blank_separated};
use crate::diagnostic::{Diagnostic, Source, Span, Spanned};

/// What all parsers of instructions share.
pub(super) struct Context<'a> {
    pub(super) source: &'a Source,
    pub(super) escape: char,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
}

impl Context<'_> {
    pub(super) fn error(&mut self, code: &'static str, message: impl Into<String>, span: Span) {
        self.report(Diagnostic::error(code, message, self.source, span));
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}

/// An instruction whose name is known and whose heredoc bodies are read.
pub(super) struct Parsed<'a> {
    pub(super) keyword: Keyword,
    pub(super) statement: Statement<'a>,
    pub(super) heredocs: Vec<Heredoc>,
}

pub(super) fn at_least_one(keyword: Keyword, name: Span, cx: &mut Context<'_>) {
    cx.error("missing-argument", format!("`{keyword}` requires at least one argument"), name);
}

pub(super) fn exactly_one(keyword: Keyword, name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Spanned<String>> {
    if args.is_empty() {
        cx.error("missing-argument", format!("`{keyword}` requires exactly one argument"), name);
        return None;
    }
    Some(args.spanned())
}

/// A JSON array, or the words of the text. `None` for arrays of anything but strings.
pub(super) fn list(args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<Spanned<String>>> {
    match json::array(args) {
        JsonForm::Array(strings) => Some(strings),
        JsonForm::NotStrings(span) => {
            not_strings(span, cx);
            None
        }
        JsonForm::No => {
            warn_almost_json(args, "so its words are taken as they are", cx);
            Some(words_of(args))
        }
    }
}

pub(super) fn words_of(args: Text<'_>) -> Vec<Spanned<String>> {
    blank_separated(args).into_iter().map(Text::spanned).collect()
}

pub(super) fn not_strings(span: Span, cx: &mut Context<'_>) {
    let message = "when using JSON array syntax, arrays must be comprised of strings only";
    cx.report(Diagnostic::error("json-not-strings", message, cx.source, span).help("put it in double quotes"));
}

/// Text for the shell, or a JSON array.
pub(super) fn command(args: Text<'_>, cx: &mut Context<'_>) -> Option<Command> {
    match json::array(args) {
        JsonForm::Array(strings) => Some(Command::Exec(strings.into_iter().map(|string| string.value).collect())),
        JsonForm::NotStrings(span) => {
            not_strings(span, cx);
            None
        }
        JsonForm::No => {
            warn_almost_json(args, "so a shell runs it as text", cx);
            Some(Command::Shell(args.as_str().to_owned()))
        }
    }
}

/// Warns of text that was probably meant as a JSON array. A shell's `[ "$x" ]` has a blank behind its bracket.
fn warn_almost_json(args: Text<'_>, consequence: &str, cx: &mut Context<'_>) {
    let text = args.as_str();
    let Some(quote) = ["['", "[\""].iter().find(|start| text.starts_with(**start)) else { return };
    let warning = Diagnostic::warning(
        "almost-json",
        format!("looks like a JSON array but is not valid JSON, {consequence}"),
        cx.source,
        args.span(),
    );
    cx.report(warning.help(if *quote == "['" {
        "JSON strings need double quotes"
    } else {
        "look for a missing quote, comma or bracket, or a comma behind the last string"
    }));
}
