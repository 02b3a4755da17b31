//! `# syntax=`, `# escape=` and `# check=` at the top of a file.

use std::ops::Range;

use super::ast::Directives;
use crate::diagnostic::{Diagnostic, Source, Span, Spanned};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// What the top of a file says.
pub(super) struct Top {
    pub(super) directives: Directives,
    /// Where the lines of directives end and the file proper begins.
    pub(super) end: usize,
}

/// Reads the directives; the first line that is none ends them.
///
/// `escape` may be indented and must stand on the very first lines, `syntax` and `check` start at the first column and may
/// follow a `#!` line: BuildKit looks for them separately.
pub(super) fn read(source: &Source, diagnostics: &mut Vec<Diagnostic>) -> Top {
    let text = source.text();
    let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
    let mut directives = Directives { syntax: None, escape: '\\', check: None };
    let mut seen: Vec<Directive<'_>> = Vec::new();
    let mut end = start;
    for line in lines(text, start) {
        let Some(directive) = Directive::parse(text, line.clone(), Indent::Allowed) else { break };
        if let Some(first) = seen.iter().find(|first| first.key == directive.key) {
            let message = format!("only one `{}` parser directive can be used", directive.key);
            let diagnostic =
                Diagnostic::error("duplicate-directive", message, source, directive.span).also(first.span, "first given here");
            diagnostics.push(diagnostic);
            // BuildKit fails there; reading on would take the rest for comments.
        } else if directive.key == "escape" {
            match directive.value {
                "\\" => {}
                "`" => directives.escape = '`',
                other => diagnostics.push(
                    Diagnostic::error(
                        "escape-directive",
                        format!("invalid escape token `{other}`"),
                        source,
                        directive.value_span,
                    )
                    .help("the escape character is ` or \\"),
                ),
            }
        }
        seen.push(directive);
        end = next_line(text, line.end);
    }
    let shebang = text[start..].starts_with("#!");
    for line in lines(text, start).skip(usize::from(shebang)) {
        let Some(directive) = Directive::parse(text, line, Indent::Refused) else { break };
        let slot = match directive.key.as_str() {
            "syntax" => &mut directives.syntax,
            "check" => &mut directives.check,
            _ => continue,
        };
        if slot.is_none() {
            *slot = Some(directive.first_word());
        }
    }
    Top { directives, end }
}

#[derive(Clone, Copy, PartialEq)]
enum Indent {
    Allowed,
    Refused,
}

/// A comment of the form `# key = value` whose key is known.
struct Directive<'a> {
    key: String,
    value: &'a str,
    value_span: Span,
    span: Span,
}

impl<'a> Directive<'a> {
    fn parse(text: &'a str, line: Range<usize>, indent: Indent) -> Option<Directive<'a>> {
        let written = &text[line.clone()];
        let trimmed = if indent == Indent::Allowed { written.trim_start() } else { written };
        let (key, value) = trimmed.strip_prefix('#')?.split_once('=')?;
        let key = key.trim_start().trim_end_matches(|c: char| c.is_ascii_whitespace()).to_ascii_lowercase();
        let value = value.trim_matches(|c: char| c.is_ascii_whitespace());
        if !matches!(key.as_str(), "syntax" | "escape" | "check") || value.is_empty() {
            return None;
        }
        // The value is a part of `text`, so the difference of the addresses is its offset.
        let value_start = value.as_ptr().addr() - text.as_ptr().addr();
        let start = line.end - trimmed.len();
        Some(Directive {
            key,
            value,
            value_span: Span::new(value_start, value_start + value.len()),
            span: Span::new(start, line.end),
        })
    }

    /// The value up to its first blank.
    fn first_word(&self) -> Spanned<String> {
        let word = self.value.split(' ').next().unwrap_or_default();
        Spanned::new(word.to_owned(), Span::new(self.value_span.start, self.value_span.start + word.len()))
    }
}

/// The lines from `start` on, without their endings.
fn lines(text: &str, start: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= text.len() {
            return None;
        }
        let begin = at;
        let end = text[begin..].find('\n').map_or(text.len(), |length| begin + length);
        at = end + 1;
        Some(begin..begin + text[begin..end].trim_end_matches('\r').len())
    })
}

fn next_line(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |length| from + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Directives, usize, Vec<String>) {
        let mut diagnostics = Vec::new();
        let top = read(&Source::new("Dockerfile", text), &mut diagnostics);
        (top.directives, top.end, diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[track_caller]
    fn check(text: &str, syntax: Option<&str>, escape: char, check: Option<&str>) {
        let (directives, _, messages) = read_text(text);
        assert_eq!(messages, [""; 0]);
        assert_eq!(directives.syntax.map(|value| value.value).as_deref(), syntax);
        assert_eq!(directives.escape, escape);
        assert_eq!(directives.check.map(|value| value.value).as_deref(), check);
    }

    #[test]
    fn directives_at_the_top() {
        check("# syntax=docker/dockerfile:1 # yes\n#escape=`\nFROM a", Some("docker/dockerfile:1"), '`', None);
        check("#   EsCaPe\t=  `  \nFROM a", None, '`', None);
        check("\u{feff}# check=skip=all\r\nFROM a", None, '\\', Some("skip=all"));
    }

    #[test]
    fn anything_else_ends_them() {
        check("# hello\n# escape=`\n", None, '\\', None);
        check("\n# escape=`\n", None, '\\', None);
        check("# unknown=1\n# escape=`\n", None, '\\', None);
        check("# escape=\n# syntax=x\n", None, '\\', None);
    }

    #[test]
    fn a_shebang_hides_escape_but_not_syntax() {
        check("#!/usr/bin/env x\n# syntax=y\n# escape=`\n", Some("y"), '\\', None);
        check(" # escape=`\n", None, '`', None);
        check(" # syntax=y\n", None, '\\', None);
    }

    #[test]
    fn mistakes() {
        assert_eq!(read_text("# escape=\\\n# escape=`\nFROM a").2, ["only one `escape` parser directive can be used"]);
        assert_eq!(read_text("# escape=x\n").2, ["invalid escape token `x`"]);
    }

    #[test]
    fn the_rest_begins_after_them() {
        assert_eq!(read_text("# escape=`\n# a\nFROM a").1, 11);
    }
}
