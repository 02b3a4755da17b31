//! `ONBUILD`: an instruction kept as text.

use super::arguments::{Context, Parsed, at_least_one};
use super::ast::{Heredoc, InstructionKind};
use super::keyword::Keyword;
use super::lines::Text;
use super::words;
use crate::diagnostic::{Diagnostic, Severity, Span, Spanned};

/// Reads any instruction.
type Reader = fn(Parsed<'_>, &mut Context<'_>) -> Option<InstructionKind>;

/// The trigger: the rest of the instruction as it is written, blanks at its end included, and, on lines of their own, the
/// bodies and terminators of its heredocs.
///
/// BuildKit checks little of it before a child image runs it. What would fail only there is a warning here; `read` finds it.
pub(super) fn parse(
    name: Span,
    args: Text<'_>,
    heredocs: &[Heredoc],
    read: Reader,
    cx: &mut Context<'_>,
) -> Option<Spanned<String>> {
    if args.is_empty() {
        at_least_one(Keyword::Onbuild, name, cx);
        return None;
    }
    let statement = words::statement(args, cx.escape);
    let inner = statement.name;
    let Some(keyword) = Keyword::parse(inner.as_str()) else {
        let message = format!("unknown instruction `{}`: every image built on this one will fail", inner.as_str());
        let mut diagnostic = Diagnostic::warning("unknown-instruction", message, cx.source, inner.span());
        if let Some(near) = Keyword::nearest(inner.as_str()) {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        }
        cx.report(diagnostic);
        return Some(trigger(args, heredocs));
    };
    match keyword {
        Keyword::Onbuild => {
            cx.error("onbuild-trigger", "chaining `ONBUILD` via `ONBUILD ONBUILD` isn't allowed", inner.span());
            return None;
        }
        Keyword::From | Keyword::Maintainer => {
            cx.error("onbuild-trigger", format!("`{keyword}` isn't allowed as an `ONBUILD` trigger"), inner.span());
            return None;
        }
        _ => {}
    }
    check(Parsed { keyword, statement, heredocs: heredocs.to_vec() }, read, cx);
    Some(trigger(args, heredocs))
}

/// Reports what is wrong with the trigger itself.
fn check(parsed: Parsed<'_>, read: Reader, cx: &mut Context<'_>) {
    let mut found = Vec::new();
    let mut inner = Context { source: cx.source, escape: cx.escape, diagnostics: &mut found };
    read(parsed, &mut inner);
    for mut diagnostic in found {
        let fails_now = matches!(diagnostic.code, "json-not-strings" | "missing-equals" | "missing-value");
        if diagnostic.severity == Severity::Error && !fails_now {
            diagnostic.severity = Severity::Warning;
            diagnostic = diagnostic.note("every image built on this one will fail");
        }
        cx.report(diagnostic);
    }
}

fn trigger(args: Text<'_>, heredocs: &[Heredoc]) -> Spanned<String> {
    let mut text = Spanned::new(args.to_line_end().as_str().to_owned(), args.span());
    for heredoc in heredocs {
        text.value.push('\n');
        text.value.push_str(&heredoc.raw_body);
        text.value.push_str(&heredoc.name);
    }
    text
}
