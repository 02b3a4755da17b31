//! What holds for the whole file: global arguments, the epoch, the frontend asked for.

use super::scope::Scope;
use super::{Options, words};
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::{ArgDeclaration, Dockerfile, InstructionKind};
use crate::reference::ImageRef;

/// The declarations of all `ARG` instructions before the first `FROM`.
pub(super) fn declarations(dockerfile: &Dockerfile) -> impl Iterator<Item = &ArgDeclaration> {
    dockerfile.global_args.iter().flat_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(declarations) => declarations.as_slice(),
        _ => &[],
    })
}

/// The scope of `FROM` lines, and `SOURCE_DATE_EPOCH` in seconds.
///
/// A given build argument hides the default, and errors in it.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    options: &Options,
    predefined: Scope,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Scope, Option<i64>) {
    let mut scope = predefined;
    let mut epoch_span = None;
    for declaration in declarations(dockerfile) {
        let name = declaration.name.value.as_str();
        if name == EPOCH {
            epoch_span = Some(declaration.span);
        }
        match (options.build_arg(name), &declaration.default) {
            (Some(given), _) => scope.set(name, given),
            (None, Some(default)) => match words::expand(default, &dockerfile.source, dockerfile.directives.escape, &scope) {
                Ok(expanded) => scope.set(name, &expanded.text),
                Err(error) => diagnostics.push(*error),
            },
            (None, None) => {}
        }
    }
    let epoch = epoch(dockerfile, options, &scope, epoch_span, diagnostics);
    (scope, epoch)
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn epoch(
    dockerfile: &Dockerfile,
    options: &Options,
    scope: &Scope,
    declared: Option<Span>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<i64> {
    let value = options.build_arg(EPOCH).or_else(|| scope.value(EPOCH)).filter(|value| !value.is_empty())?;
    if let Ok(seconds) = value.parse::<i64>() {
        return Some(seconds);
    }
    let message = format!("invalid SOURCE_DATE_EPOCH: `{value}`");
    let diagnostic = match declared.filter(|_| options.build_arg(EPOCH).is_none()) {
        Some(span) => Diagnostic::error("bad-epoch", message, &dockerfile.source, span),
        None => Diagnostic::error_without_place("bad-epoch", message),
    };
    diagnostics.push(diagnostic.help("give whole seconds since 1970-01-01"));
    None
}

/// Refuses `# syntax=` images other than Docker's own, whose language is built in.
pub(super) fn check_syntax(dockerfile: &Dockerfile, options: &Options, diagnostics: &mut Vec<Diagnostic>) {
    let given = options.build_arg("BUILDKIT_SYNTAX").filter(|value| !value.is_empty());
    let written = dockerfile.directives.syntax.as_ref();
    let Some(image) = given.or(written.map(|syntax| syntax.value.as_str())) else { return };
    if is_docker_frontend(image) {
        return;
    }
    let message = format!("syntax `{image}` is not supported: the built-in language serves only `docker/dockerfile`");
    let diagnostic = match written.filter(|_| given.is_none()) {
        Some(syntax) => Diagnostic::error("unknown-syntax", message, &dockerfile.source, syntax.span),
        None => {
            Diagnostic::error_without_place("unknown-syntax", message).note("it comes from the build argument BUILDKIT_SYNTAX")
        }
    };
    diagnostics.push(diagnostic.help("leave the syntax out, or write `# syntax=docker/dockerfile:1`"));
}

fn is_docker_frontend(image: &str) -> bool {
    let is_ours = |image_ref: ImageRef| {
        image_ref.host == "docker.io"
            && matches!(image_ref.repository.as_str(), "docker/dockerfile" | "docker/dockerfile-upstream")
    };
    image == "dockerfile.v0" || image.parse::<ImageRef>().is_ok_and(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_frontends_are_ours() {
        for image in
            ["docker/dockerfile", "docker/dockerfile:1.7-labs", "docker.io/docker/dockerfile-upstream:master", "dockerfile.v0"]
        {
            assert!(is_docker_frontend(image), "{image}");
        }
        for image in ["ghcr.io/docker/dockerfile:1", "docker/dockerfile-x", "r2d4/llb"] {
            assert!(!is_docker_frontend(image), "{image}");
        }
    }
}
