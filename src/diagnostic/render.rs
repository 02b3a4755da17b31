//! Draws diagnostics for people; the only file that knows how they look.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::{Diagnostic, Severity};

/// Whether output may hold terminal colors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Color {
    /// Plain text only.
    Never,
    /// ANSI colors.
    Always,
}

/// Several diagnostics, each with its newline; those of several lines are set off by a blank one.
pub fn render_all<'a>(diagnostics: impl IntoIterator<Item = &'a Diagnostic>, color: Color) -> String {
    let mut text = String::new();
    let mut is_block = false;
    for diagnostic in diagnostics {
        let rendered = render(diagnostic, color);
        let was_block = std::mem::replace(&mut is_block, rendered.contains('\n'));
        if !text.is_empty() && (was_block || is_block) {
            text.push('\n');
        }
        text.push_str(&rendered);
        text.push('\n');
    }
    text
}

/// The diagnostic as lines of text, without a final newline.
///
/// The first line says what is wrong (and for a build check its rule, in brackets), the second `file:line:column`; then the source line with the place underlined,
/// then notes and helps.
pub fn render(diagnostic: &Diagnostic, color: Color) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = printable(&diagnostic.message);
    let label = printable(&diagnostic.label);
    let labels: Vec<String> = diagnostic.labels.iter().map(|label| printable(&label.text)).collect();
    let notes: Vec<String> = diagnostic.notes.iter().map(|note| printable(note)).collect();
    let helps: Vec<String> = diagnostic.helps.iter().map(|help| printable(help)).collect();
    let mut title = level.primary_title(message.as_str());
    if let Some(rule) = diagnostic.rule {
        title = title.id(rule.name);
    }
    let mut group = Group::with_title(title);
    if let Some((source, span)) = &diagnostic.place {
        let end = source.text().len();
        let range = span.start.min(end)..span.end.min(end);
        let mut primary = AnnotationKind::Primary.span(range);
        if !label.is_empty() {
            primary = primary.label(label.as_str());
        }
        let mut snippet = Snippet::source(source.text()).path(source.name()).fold(true).annotation(primary);
        for (label, text) in diagnostic.labels.iter().zip(&labels) {
            let range = label.span.start.min(end)..label.span.end.min(end);
            snippet = snippet.annotation(AnnotationKind::Context.span(range).label(text.as_str()));
        }
        group = group.element(snippet);
    }
    for note in &notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    for help in &helps {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    if let Some(url) = diagnostic.rule.and_then(|rule| rule.url) {
        group = group.element(Level::NOTE.message(url));
    }
    let renderer = match color {
        Color::Never => Renderer::plain(),
        Color::Always => Renderer::styled(),
    };
    renderer.render(&[group]).to_string()
}

/// Control characters of the input must not reach a terminal; newlines stay.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\n' && c != '\t';
            let (plain, quoted) = if escaped { (None, Some(c.escape_default())) } else { (Some(c), None) };
            plain.into_iter().chain(quoted.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Source, Span};

    #[test]
    fn says_what_where_and_what_to_try() {
        let source = Source::new("Dockerfile", "FROM a\nCOPY --chmd=0755 run.sh /\n");
        let diagnostic = Diagnostic::error("unknown-flag", "unknown flag `--chmd` for `COPY`", &source, Span::new(12, 18))
            .help("did you mean `--chmod`?");
        let text = render(&diagnostic, Color::Never);
        assert_eq!(
            text,
            "error: unknown flag `--chmd` for `COPY`\n --> Dockerfile:2:6\n  |\n2 | COPY --chmd=0755 run.sh /\n  |      ^^^^^^\n  |\n  = help: did you mean `--chmod`?"
        );
    }

    #[test]
    fn blocks_are_set_off() {
        let source = Source::new("Dockerfile", "FROM a AS B\n");
        let block = Diagnostic::warning("odd", "odd", &source, Span::new(10, 11));
        let line = Diagnostic::error_without_place("x", "wrong");
        assert_eq!(
            render_all([&line, &line, &block, &line], Color::Never),
            "error: wrong\nerror: wrong\n\nwarning: odd\n --> Dockerfile:1:11\n  |\n1 | FROM a AS B\n  |           ^\n\nerror: wrong\n"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        let diagnostic = Diagnostic::error_without_place("x", "bad \u{1b}[31m name");
        assert_eq!(render(&diagnostic, Color::Never), "error: bad \\u{1b}[31m name");
    }
}
