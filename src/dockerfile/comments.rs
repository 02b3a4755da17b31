//! Comments above an instruction that describe what it defines: `# NAME description`.

use super::arguments::Context;
use super::ast::ArgDeclaration;
use super::rules;
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// What the first comment that begins with `name` and a blank says behind them.
pub(super) fn description(comments: &[Spanned<String>], name: &str) -> Option<String> {
    let said = comments.iter().find_map(|comment| comment.value.strip_prefix(name)?.strip_prefix(' '));
    said.filter(|said| !said.is_empty() && !name.is_empty()).map(str::to_owned)
}

/// Gives each argument its description.
pub(super) fn describe_arguments(
    declarations: &mut [ArgDeclaration],
    comments: &[Spanned<String>],
    instruction: Span,
    cx: &mut Context<'_>,
) {
    for declaration in declarations.iter_mut() {
        declaration.description = description(comments, &declaration.name.value);
    }
    let names: Vec<&str> = declarations.iter().map(|declaration| declaration.name.value.as_str()).collect();
    check("ARG", &names, comments, instruction, cx);
}

/// Reports a comment right above that does not begin with one of the names.
pub(super) fn check(instruction: &str, names: &[&str], comments: &[Spanned<String>], span: Span, cx: &mut Context<'_>) {
    let Some(last) = comments.last() else { return };
    if names.is_empty() || names.contains(&last.value.split(' ').next().unwrap_or_default()) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { names[0] };
    let message = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    cx.report(Diagnostic::finding(&rules::INVALID_DEFINITION_DESCRIPTION, message, cx.source, span));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_follows_the_name() {
        let comments =
            ["other x", "VERSION of the tool", "VERSIONS no"].map(|text| Spanned::new(text.to_owned(), Span::default()));
        assert_eq!(description(&comments, "VERSION").as_deref(), Some("of the tool"));
        assert_eq!(description(&comments, "VERS"), None);
        assert_eq!(description(&comments, ""), None);
    }
}
