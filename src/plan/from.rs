//! `FROM` lines with their variables replaced.

use std::collections::BTreeSet;

use super::checks::Variables;
use super::scope::{Scope, Watched};
use super::words::{self, did_you_mean, with_help};
use super::{checks, globals};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::{Dockerfile, From, Word};
use crate::reference::Platform;

/// What a `FROM` line says.
pub(super) struct Header {
    /// Image, stage or `scratch`; `None` after an error.
    pub base: Option<String>,
    /// `--platform`, when given and valid.
    pub platform: Option<Platform>,
    /// The arguments that are set and were used.
    pub used_arguments: BTreeSet<String>,
}

/// Reads a `FROM` line in the global scope and checks its variables.
pub(super) fn read(dockerfile: &Dockerfile, from: &From, globals: &Scope, diagnostics: &mut Vec<Diagnostic>) -> Header {
    let mut used_arguments = BTreeSet::new();
    let base = expand(dockerfile, &from.base, globals, diagnostics).map(|(text, used)| {
        used_arguments.extend(used.set);
        text
    });
    if base.as_deref() == Some("") {
        let message = format!("base name ({}) should not be blank", from.base.value);
        diagnostics.push(Diagnostic::error("blank-base", message, &dockerfile.source, from.base.span));
    }
    let platform = from.platform.as_ref().and_then(|word| platform(dockerfile, from, word, globals, diagnostics));
    let platform = platform.map(|(platform, used)| {
        used_arguments.extend(used);
        platform
    });
    Header { base: base.filter(|base| !base.is_empty()), platform, used_arguments }
}

fn platform(
    dockerfile: &Dockerfile,
    from: &From,
    word: &Word,
    globals: &Scope,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Platform, BTreeSet<String>)> {
    let (text, used) = expand(dockerfile, word, globals, diagnostics)?;
    let source = &dockerfile.source;
    if text.is_empty() {
        let message = format!("empty platform value from expression {}", word.value);
        let name = word.value.trim_start_matches('$').trim_matches(['{', '}']);
        let help = did_you_mean(name, globals.names());
        diagnostics.push(with_help(Diagnostic::error("empty-platform", message, source, word.span), help));
        return None;
    }
    match text.parse::<Platform>() {
        Ok(platform) => {
            let stage = from.name.as_ref().map_or("", |name| name.value.as_str());
            diagnostics.extend(checks::platform_flag(word, source, (&text, used.kind()), stage, &platform, globals));
            Some((platform, used.set))
        }
        Err(error) => {
            let message = format!("failed to parse platform: {error}");
            diagnostics.push(Diagnostic::error("bad-platform", message, source, word.span));
            None
        }
    }
}

/// The variables of a word.
struct Used {
    /// Those with a value.
    set: BTreeSet<String>,
    /// Those without.
    unset: Vec<String>,
}

impl Used {
    fn kind(&self) -> Variables {
        if self.set.is_empty() && self.unset.is_empty() {
            Variables::None
        } else if self.set.iter().eq(["TARGETPLATFORM"]) && self.unset.is_empty() {
            Variables::TargetPlatform
        } else {
            Variables::Some
        }
    }
}

fn expand(dockerfile: &Dockerfile, word: &Word, globals: &Scope, diagnostics: &mut Vec<Diagnostic>) -> Option<(String, Used)> {
    let watched = Watched::new(globals);
    let expanded = match words::expand(word, &dockerfile.source, dockerfile.directives.escape, &watched) {
        Ok(expanded) => expanded,
        Err(error) => {
            diagnostics.push(*error);
            return None;
        }
    };
    let set = watched.used();
    let declared: Vec<&str> = globals::declarations(dockerfile).map(|declaration| declaration.name.value.as_str()).collect();
    for name in &expanded.unset {
        if !declared.contains(&name.as_str()) && globals.value(name).is_none() {
            // BuildKit takes them in no order: the file's own come first here
            let candidates = declared.iter().copied().chain(globals.names());
            diagnostics.push(checks::undefined_in_from(name, dockerfile, word, candidates));
        }
    }
    Some((expanded.text, Used { set, unset: expanded.unset }))
}
