//! What holds for the whole file: global arguments, the epoch, the frontend asked for.

use super::epoch::{self, EPOCH, Epoch};
use super::scope::Scope;
use super::{Options, words};
use crate::diagnostic::Diagnostic;
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
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    options: &Options,
    predefined: Scope,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Scope, Option<i64>) {
    let mut scope = scope(dockerfile, options, predefined, diagnostics);
    if let Some(settled) = options.epoch_default.filter(|_| scope.value(EPOCH).is_some()) {
        match settled {
            Some(seconds) => scope.set(EPOCH, &seconds.to_string()),
            None => scope.unset(EPOCH),
        }
    }
    let epoch = match epoch::read(dockerfile, options, &scope) {
        Ok(Epoch::Seconds(seconds)) => Some(seconds),
        Ok(Epoch::Unset | Epoch::Of(_)) => None,
        Err(error) => {
            diagnostics.push(*error);
            None
        }
    };
    (scope, epoch)
}

/// The scope of `FROM` lines. A given build argument hides the default, and errors in it.
pub(super) fn scope(dockerfile: &Dockerfile, options: &Options, predefined: Scope, diagnostics: &mut Vec<Diagnostic>) -> Scope {
    let mut scope = predefined;
    for declaration in declarations(dockerfile) {
        let name = declaration.name.value.as_str();
        match (options.build_arg(name), &declaration.default) {
            (Some(given), _) => scope.set(name, given),
            (None, Some(default)) => match words::expand(default, &dockerfile.source, dockerfile.directives.escape, &scope) {
                Ok(expanded) => scope.set(name, &expanded.text),
                Err(error) => diagnostics.push(*error),
            },
            (None, None) => {}
        }
    }
    scope
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
