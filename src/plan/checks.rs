//! Build checks that need the values of variables or the state of a stage; all are warnings, by the rule's name.
//!
//! Spec: BuildKit's list of build checks. Those that need the text alone are the parser's.

use super::scope::{self, Scope};
use super::words::{self, did_you_mean, with_help};
use super::{Options, globals};
use crate::diagnostic::{Diagnostic, Severity, Source, Span, quoted, suggestion};
use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::{ArgDeclaration, Dockerfile, Instruction, InstructionKind, Pair, Word, check, rules};
use crate::image::ImageConfig;
use crate::reference::{ImageRef, Platform};

/// What `# check=` says, or the build argument that replaces it.
///
/// # Errors
/// Text that is no option.
pub fn check_options(dockerfile: &Dockerfile, options: &Options) -> Result<check::Options, Box<Diagnostic>> {
    const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
    match (options.build_arg(ARGUMENT), &dockerfile.directives.check) {
        (Some(text), _) => check::Options::from_text(text).map_err(|bad| {
            let message = format!("{bad} in the build argument `{ARGUMENT}`");
            Box::new(Diagnostic::error_without_place("check-option", message).help(check::HELP))
        }),
        (None, Some(directive)) => check::Options::from_directive(directive, &dockerfile.source).map_err(Box::new),
        (None, None) => Ok(check::Options::default()),
    }
}

/// A source of `COPY` or `ADD` that the context's ignore file leaves out.
///
/// `instruction` is `Copy` or `Add`.
pub(super) fn ignored_source(
    instruction: &str,
    path: &str,
    patterns: Option<&Patterns>,
    source: &Source,
    span: Span,
) -> Option<Diagnostic> {
    // a pattern that takes files back in makes the answer depend on them
    let patterns = patterns.filter(|patterns| !patterns.has_exceptions())?;
    let inside = path.trim_start_matches('/');
    let is_ignored =
        if inside.is_empty() || inside == "." { patterns.ignores_everything() } else { patterns.is_ignored(inside.as_bytes()) };
    let pattern = patterns.ignored_by(inside.as_bytes()).map(|pattern| format!("`{pattern}` hides it"));
    let message = format!("Attempting to {instruction} file {} that is excluded by .dockerignore", quoted(path));
    let warning = Diagnostic::finding(&rules::COPY_IGNORED_FILE, message, source, span);
    is_ignored.then(|| match pattern {
        Some(pattern) => warning.note(pattern),
        None => warning,
    })
}

/// A variable that no `ARG` before the first `FROM` declares.
pub(super) fn undefined_in_from<'a>(
    name: &str,
    dockerfile: &Dockerfile,
    word: &Word,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let span = words::variable_span(name, &dockerfile.source, word.span);
    let suggested = suggestion(name, candidates).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    let message = format!("FROM argument '{name}' is not declared{suggested}");
    Diagnostic::finding(&rules::UNDEFINED_ARG_IN_FROM, message, &dockerfile.source, span)
}

/// Base names that are empty or invalid when no build arguments are given.
pub(super) fn default_base_names(dockerfile: &Dockerfile, predefined: &Scope, diagnostics: &mut Vec<Diagnostic>) {
    let escape = dockerfile.directives.escape;
    let mut defaults = predefined.clone();
    for declaration in globals::declarations(dockerfile) {
        let Some(default) = &declaration.default else { continue };
        match words::expand(default, &dockerfile.source, escape, &defaults) {
            Ok(expanded) => defaults.set(&declaration.name.value, &expanded.text),
            // the build itself will report it, unless an argument is given for it
            Err(_) => return,
        }
    }
    for stage in &dockerfile.stages {
        let base = &stage.from.base;
        let Ok(expanded) = words::expand(base, &dockerfile.source, escape, &defaults) else { return };
        if expanded.text.parse::<ImageRef>().is_err() {
            let message = format!("Default value for ARG {} results in empty or invalid base image name", base.value);
            diagnostics.push(Diagnostic::finding(&rules::INVALID_DEFAULT_ARG_IN_FROM, message, &dockerfile.source, base.span));
        }
    }
}

/// How a word came by its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variables {
    /// It is a constant.
    None,
    /// `$TARGETPLATFORM` is the only one.
    TargetPlatform,
    /// Others.
    Some,
}

/// A `--platform` that is a constant, or only says the default.
pub(super) fn platform_flag(
    word: &Word,
    source: &Source,
    expanded: (&str, Variables),
    stage: &str,
    platform: &Platform,
    globals: &Scope,
) -> Option<Diagnostic> {
    let warning = |rule, message: String| Some(Diagnostic::finding(rule, message, source, word.span));
    match expanded {
        (text, Variables::None) if !stage.contains(&platform.os) && !stage.contains(&platform.architecture) => {
            let message = format!("FROM --platform flag should not use constant value {}", quoted(text));
            warning(&rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED, message)
        }
        (text, Variables::TargetPlatform) if globals.value("TARGETPLATFORM") == Some(text) => {
            let message =
                format!("Setting platform to predefined {} in FROM is redundant as this is the default behavior", word.value);
            warning(&rules::REDUNDANT_TARGET_PLATFORM, message)
        }
        _ => None,
    }
}

/// A base image for another system or architecture than expected.
pub(super) fn base_platform(
    written: &str,
    expected: &Platform,
    config: &ImageConfig,
    source: &Source,
    span: Span,
) -> Option<Diagnostic> {
    let actual = config.platform();
    if expected.os == config.os && expected.architecture == config.architecture {
        return None;
    }
    let message =
        format!("Base image {written} was pulled with platform \"{actual}\", expected \"{expected}\" for current build");
    Some(Diagnostic::finding(&rules::INVALID_BASE_IMAGE_PLATFORM, message, source, span))
}

/// A key of `ARG` or `ENV` that looks like a secret's.
pub(super) fn secret_key(instruction: &str, key: &str, source: &Source, span: Span) -> Option<Diagnostic> {
    let words: Vec<String> = key.to_lowercase().split('_').map(str::to_owned).collect();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let looks_secret =
        has(&["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"]);
    if !looks_secret || has(&["public", "file", "version"]) {
        return None;
    }
    let message = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {})", quoted(key));
    Some(
        Diagnostic::finding(&rules::SECRETS_USED_IN_ARG_OR_ENV, message, source, span)
            .help("mount it into the command that needs it: `RUN --mount=type=secret,id=…`"),
    )
}

/// A variable that nothing sets and no `ARG` declares.
pub(super) fn undefined_variable<'a>(
    name: &str,
    source: &Source,
    span: Span,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let span = words::variable_span(name, source, span);
    let suggested = suggestion(name, candidates).map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
    let message = format!("Usage of undefined variable '${name}'{suggested}");
    Diagnostic::finding(&rules::UNDEFINED_VAR, message, source, span)
}

/// `ENV key value`; `keyword` as the file spells it.
pub(super) fn legacy_pair(keyword: &str, pair: &Pair, source: &Source) -> Option<Diagnostic> {
    let message = format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
    let span = pair.key.span.join(pair.value.span);
    let value = &pair.value.value;
    let value = if value.contains([' ', '\t']) { format!("\"{value}\"") } else { value.clone() };
    let help = format!("{} {}={value}", keyword.to_uppercase(), pair.key.value);
    pair.legacy.then(|| Diagnostic::finding(&rules::LEGACY_KEY_VALUE_FORMAT, message, source, span).help(help))
}

/// Build arguments that neither the file nor a trigger of a base declares; `triggered` are the instructions of all stages.
pub(super) fn unused_build_args<'a>(
    dockerfile: &'a Dockerfile,
    triggered: impl Iterator<Item = &'a Instruction>,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if options.build_args.is_empty() {
        return;
    }
    let name = |declaration: &'a ArgDeclaration| declaration.name.value.as_str();
    let mut declared: Vec<&str> = globals::declarations(dockerfile).map(name).collect();
    let written = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in written.chain(triggered) {
        if let InstructionKind::Arg(declarations) = &instruction.kind {
            declared.extend(declarations.iter().map(name));
        }
    }
    for (name, _) in &options.build_args {
        if declared.contains(&name.as_str()) || scope::is_predefined(name) {
            continue;
        }
        let message = format!("build argument `{name}` is not used: no `ARG {name}` declares it");
        let diagnostic =
            Diagnostic { severity: Severity::Warning, ..Diagnostic::error_without_place("unused-build-arg", message) };
        diagnostics.push(with_help(diagnostic, did_you_mean(name, declared.iter().copied())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_whole_words() {
        let source = Source::new("Dockerfile", "");
        let warns = |key: &str| secret_key("ARG", key, &source, Span::default()).is_some();
        for key in ["API_KEY", "token", "DB_PASSWORD_x", "my_auth"] {
            assert!(warns(key), "{key}");
        }
        for key in ["MONKEY", "PUBLIC_KEY", "TOKEN_FILE", "KEY_VERSION", "AUTHOR"] {
            assert!(!warns(key), "{key}");
        }
    }
}
