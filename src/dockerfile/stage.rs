//! `FROM`, and what can be said about a file's stages without expanding anything.

use std::collections::HashMap;

use super::arguments::Context;
use super::ast::{From, Stage};
use super::comments;
use super::flags::Flags;
use super::keyword::Keyword;
use super::lines::Text;
use super::rules;
use super::words::{Statement, blank_separated};
use crate::diagnostic::{Diagnostic, Span, Spanned, quoted};

/// Reads a `FROM`. Also a broken one begins a stage, so that what follows it is not blamed for having none.
pub(super) fn parse(statement: Statement<'_>, lines: Span, comments: &[Spanned<String>], cx: &mut Context<'_>) -> From {
    let Statement { name, flags, args, text } = statement;
    let mut flags = Flags::check(flags, Keyword::From, cx.source, cx.diagnostics);
    let words = blank_separated(args);
    let stage_name = match words.as_slice() {
        [_] => None,
        [_, keyword, stage] if keyword.as_str().eq_ignore_ascii_case("as") => {
            let stage = stage_name(*stage, cx);
            check_as(name, *keyword, cx);
            stage
        }
        _ => {
            let place = if words.is_empty() { name.span() } else { args.span() };
            let message = "`FROM` requires either one or three arguments";
            let diagnostic = Diagnostic::error("from-arguments", message, cx.source, place);
            cx.report(diagnostic.help("it reads `FROM image` or `FROM image AS name`"));
            None
        }
    };
    let base = words.first().copied().unwrap_or(args).spanned();
    let span = text.span();
    let description = stage_name.as_ref().and_then(|name| {
        comments::check("FROM", &[&name.value], comments, span, cx);
        comments::description(comments, &name.value)
    });
    From { base, platform: flags.text("platform"), name: stage_name, span, lines, text: text.as_str().to_owned(), description }
}

/// Names of stages that collide with each other or with what COPY understands already.
pub(super) fn check_names(stages: &[Stage], cx: &mut Context<'_>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for name in stages.iter().filter_map(|stage| stage.from.name.as_ref()) {
        if matches!(name.value.as_str(), "context" | "scratch") {
            let message = format!("Stage name should not use the same name as reserved stage {}", quoted(&name.value));
            cx.report(Diagnostic::finding(&rules::RESERVED_STAGE_NAME, message, cx.source, name.span));
        }
        if let Some(first) = seen.get(name.value.as_str()) {
            let message = format!("Duplicate stage name {}, stage names should be unique", quoted(&name.value));
            let warning = Diagnostic::finding(&rules::DUPLICATE_STAGE_NAME, message, cx.source, name.span);
            cx.report(warning.also(*first, "first used here"));
        }
        seen.entry(&name.value).or_insert(name.span);
    }
}

fn stage_name(written: Text<'_>, cx: &mut Context<'_>) -> Option<Spanned<String>> {
    let lower = written.as_str().to_lowercase();
    let mut chars = lower.chars();
    let starts_well = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    if !starts_well || !chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')) {
        let message =
            format!("invalid name for build stage: `{}`, name can't start with a number or contain symbols", written.as_str());
        cx.error("stage-name", message, written.span());
        return None;
    }
    if lower != written.as_str() {
        let message = format!("Stage name '{}' should be lowercase", written.as_str());
        let warning = Diagnostic::finding(&rules::STAGE_NAME_CASING, message, cx.source, written.span());
        cx.report(warning.help(format!("it is known as `{lower}`")));
    }
    Some(Spanned::new(lower, written.span()))
}

fn check_as(from: Text<'_>, keyword: Text<'_>, cx: &mut Context<'_>) {
    let fitting = match Casing::of(from.as_str()) {
        Some(Casing::Lower) => "as",
        Some(Casing::Upper) => "AS",
        None => return,
    };
    if keyword.as_str() != fitting {
        let message = format!("'{}' and '{}' keywords' casing do not match", keyword.as_str(), from.as_str());
        let finding = Diagnostic::finding(&rules::FROM_AS_CASING, message, cx.source, keyword.span());
        cx.report(finding.help(format!("write `{fitting}`")));
    }
}

/// How a keyword is spelled, when it is consistent in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Casing {
    Lower,
    Upper,
}

impl Casing {
    /// `None` for mixed spellings.
    pub(super) fn of(word: &str) -> Option<Casing> {
        if word.chars().all(|c| c.is_ascii_lowercase()) {
            Some(Casing::Lower)
        } else if word.chars().all(|c| c.is_ascii_uppercase()) {
            Some(Casing::Upper)
        } else {
            None
        }
    }
}

/// Warns of each keyword that is not spelled like most; with as many of either, upper case is right.
pub(super) fn check_casing(names: &[Spanned<String>], cx: &mut Context<'_>) {
    let count = |casing| names.iter().filter(|name| Casing::of(&name.value) == Some(casing)).count();
    let (majority, described) =
        if count(Casing::Lower) > count(Casing::Upper) { (Casing::Lower, "lowercase") } else { (Casing::Upper, "uppercase") };
    for name in names.iter().filter(|name| Casing::of(&name.value) != Some(majority)) {
        let message = format!("Command '{}' should match the case of the command majority ({described})", name.value);
        cx.report(Diagnostic::finding(&rules::CONSISTENT_INSTRUCTION_CASING, message, cx.source, name.span));
    }
}
