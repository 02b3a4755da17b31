//! What a target can be given: build arguments, secrets and ssh agents, its own and those of the stages that it needs.
//!
//! Source: BuildKit's `frontend.outline`. An argument counts where a needed stage declares it or a needed `FROM` uses it.

use std::collections::{BTreeMap, BTreeSet};

use super::scope::{Scope, Watched};
use super::stages::{BaseKind, Stages};
use super::{Options, globals, words};
use crate::diagnostic::Span;
use crate::dockerfile::{ArgDeclaration, Dockerfile, InstructionKind};

/// What a target can be given, each list in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Build arguments.
    pub arguments: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Credential>,
    /// Agents.
    pub agents: Vec<Credential>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// The value that it has in this build; empty when it has none.
    pub value: String,
    /// What the comment above it says.
    pub description: Option<String>,
    /// The instruction that declares it.
    pub lines: Span,
}

/// A secret or an agent that a command mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: String,
    /// Whether the command fails without it.
    pub required: bool,
    /// The first instruction that mounts it.
    pub lines: Span,
}

/// What one stage's own instructions ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// Every name that an `ARG` declares.
    declared: BTreeSet<String>,
    /// Those that do not only pass a global one on.
    arguments: BTreeMap<String, Argument>,
    secrets: Vec<Credential>,
    agents: Vec<Credential>,
}

impl Notes {
    pub(super) fn argument(&mut self, declaration: &ArgDeclaration, value: Option<&str>, is_global: bool, lines: Span) {
        let name = &declaration.name.value;
        self.declared.insert(name.clone());
        if !is_global {
            self.arguments.insert(name.clone(), argument(declaration, value, lines));
        }
    }

    pub(super) fn secret(&mut self, id: &str, required: bool, lines: Span) {
        note(&mut self.secrets, id, required, lines);
    }

    pub(super) fn agent(&mut self, id: &str, required: bool, lines: Span) {
        note(&mut self.agents, id, required, lines);
    }
}

/// The first mention of an id counts.
fn note(credentials: &mut Vec<Credential>, id: &str, required: bool, lines: Span) {
    if !credentials.iter().any(|known| known.id == id) {
        credentials.push(Credential { id: id.to_owned(), required, lines });
    }
}

fn argument(declaration: &ArgDeclaration, value: Option<&str>, lines: Span) -> Argument {
    Argument {
        name: declaration.name.value.clone(),
        value: value.unwrap_or_default().to_owned(),
        description: declaration.description.clone(),
        lines,
    }
}

/// The outline of the target, from the notes of all nodes.
pub(super) fn of_target(dockerfile: &Dockerfile, options: &Options, stages: &Stages<'_>, notes: &[Notes]) -> Outline {
    let from = stages.nodes[stages.target].from;
    let mut outline = Outline {
        name: from.and_then(|from| from.name.as_ref()).map(|name| name.value.clone()),
        description: from.and_then(|from| from.description.clone()),
        ..Outline::default()
    };
    let globals = Globals::read(dockerfile, options, &stages.globals);
    let mut seen = BTreeSet::new();
    let mut visited = BTreeSet::new();
    let mut pending = vec![stages.target];
    while let Some(index) = pending.pop() {
        if !visited.insert(index) {
            continue;
        }
        let (node, notes) = (&stages.nodes[index], &notes[index]);
        for name in globals.with_needed(node.used_arguments.iter().chain(&notes.declared)) {
            let known = notes.arguments.get(&name).or_else(|| globals.arguments.get(&name).map(|(argument, _)| argument));
            if let Some(argument) = known.filter(|_| !seen.contains(&name)) {
                outline.arguments.push(argument.clone());
                seen.insert(name);
            }
        }
        for secret in &notes.secrets {
            note(&mut outline.secrets, &secret.id, secret.required, secret.lines);
        }
        for agent in &notes.agents {
            note(&mut outline.agents, &agent.id, agent.required, agent.lines);
        }
        pending.extend(node.commands.iter().rev().flat_map(|command| command.inputs.iter().flatten()));
        if let BaseKind::Stage(base) = node.base {
            pending.push(base);
        }
    }
    outline.arguments.sort_by_key(|argument| argument.lines.start);
    outline.secrets.sort_by_key(|secret| secret.lines.start);
    outline.agents.sort_by_key(|agent| agent.lines.start);
    outline
}

/// The global arguments, each with those that its default uses.
struct Globals {
    arguments: BTreeMap<String, (Argument, BTreeSet<String>)>,
}

impl Globals {
    fn read(dockerfile: &Dockerfile, options: &Options, globals: &Scope) -> Globals {
        let mut arguments: BTreeMap<String, (Argument, BTreeSet<String>)> = BTreeMap::new();
        let mut scope = globals.clone();
        for declaration in globals::declarations(dockerfile) {
            scope.unset(&declaration.name.value);
        }
        for instruction in &dockerfile.global_args {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let name = &declaration.name.value;
                let (value, mut needed) = value(dockerfile, options, declaration, &scope);
                if needed.remove(name)
                    && let Some((_, before)) = arguments.get(name)
                {
                    needed.extend(before.iter().cloned());
                }
                if let Some(value) = &value {
                    scope.set(name, value);
                }
                arguments.insert(name.clone(), (argument(declaration, value.as_deref(), instruction.lines), needed));
            }
        }
        Globals { arguments }
    }

    /// The names and all that their defaults are made of.
    fn with_needed<'n>(&self, names: impl Iterator<Item = &'n String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<String> = names.cloned().collect();
        while let Some(name) = pending.pop() {
            if found.insert(name.clone())
                && let Some((_, needed)) = self.arguments.get(&name)
            {
                pending.extend(needed.iter().cloned());
            }
        }
        found
    }
}

/// The value of a global argument, and the names that its default uses.
fn value(
    dockerfile: &Dockerfile,
    options: &Options,
    declaration: &ArgDeclaration,
    scope: &Scope,
) -> (Option<String>, BTreeSet<String>) {
    let none = (None, BTreeSet::new());
    match (options.build_arg(&declaration.name.value), &declaration.default) {
        (Some(given), _) => (Some(given.to_owned()), BTreeSet::new()),
        (None, Some(default)) => {
            let watched = Watched::new(scope);
            let expanded = words::expand(default, &dockerfile.source, dockerfile.directives.escape, &watched);
            // a default without a value is an error that was reported already
            expanded.map_or(none, |expanded| (Some(expanded.text), watched.used()))
        }
        (None, None) => none,
    }
}
