//! Instructions that change the image config, and `WORKDIR`, which makes a directory as well.

use std::time::Duration;

use super::lowering::{Place, StageLowering, WINDOWS};
use super::stages::Command;
use super::{checks, expose, path, scope, signal, text, words};
use crate::diagnostic::{Diagnostic, Source, Span, quoted};
use crate::dockerfile::{self, ArgDeclaration, InstructionKind, Pair, Word, check, rules};
use crate::graph::{MkdirOp, Op};
use crate::image::Healthcheck;

impl StageLowering<'_, '_> {
    /// Carries out an instruction that makes no step.
    pub(super) fn configure(&mut self, kind: &InstructionKind, command: &Command<'_>) {
        let source = &command.source;
        match kind {
            InstructionKind::Arg(declarations) => self.arg(declarations, command),
            InstructionKind::Env(pairs) => self.env(pairs, command),
            InstructionKind::Label(pairs) => self.label(pairs, command),
            InstructionKind::Cmd(program) => self.cmd(program, command),
            InstructionKind::Entrypoint(program) => self.entrypoint(program, command),
            InstructionKind::Healthcheck(check) => self.healthcheck(check, command),
            InstructionKind::Expose(ports) => self.expose(ports, source),
            InstructionKind::Maintainer(author) => {
                self.state.config.author = Some(author.clone());
                self.record(format!("MAINTAINER {author}"), None);
            }
            InstructionKind::Onbuild(trigger) => self.state.config.config.on_build.push(trigger.value.clone()),
            InstructionKind::Shell(shell) => {
                self.record(format!("SHELL {}", text::plain_list(shell)), None);
                self.state.config.config.shell = shell.clone();
            }
            InstructionKind::Stopsignal(word) => self.stopsignal(word, source),
            InstructionKind::User(word) => {
                if let Some(user) = self.expand(word, source) {
                    self.record(format!("USER {user}"), None);
                    self.state.config.config.user = user;
                    self.state.user_place = Some((source.clone(), word.span));
                }
            }
            InstructionKind::Volume(words) => self.volume(words, source),
            InstructionKind::Add(_) | InstructionKind::Copy(_) | InstructionKind::Run(_) | InstructionKind::Workdir(_) => {}
        }
    }

    /// Makes the directory, except for `/`, and makes it current.
    pub(super) fn workdir(&mut self, word: &Word, command: &Command<'_>) {
        let source = &command.source;
        let Some(directory) = self.expand(word, source) else { return };
        if !self.state.has_workdir && !directory.starts_with('/') {
            let message =
                format!("Relative workdir {} can have unexpected results if the base image changes", quoted(&directory));
            self.warn(Some(Diagnostic::finding(&rules::WORKDIR_RELATIVE_PATH, message, source, word.span)));
        }
        self.state.has_workdir = true;
        let directory = path::workdir(&self.state.config.config.working_dir, &directory);
        self.state.config.config.working_dir = directory.clone();
        let layer = (directory != "/").then(|| {
            let op = Op::Mkdir(MkdirOp { path: path::clean(&directory), user: self.state.config.config.user.clone() });
            let shown = self.shown(command);
            let origin = self.origin(&shown, command);
            self.state.tree = self.lowering.graph.add(op, &[self.state.tree], origin);
            self.state.tree
        });
        self.record(format!("WORKDIR {directory}"), layer);
    }

    /// The program of a command: shell text goes to the current shell as one argument.
    pub(super) fn program(&self, command: &dockerfile::Command) -> Vec<String> {
        match command {
            dockerfile::Command::Exec(words) => words.clone(),
            dockerfile::Command::Shell(text) => self.with_shell(text),
        }
    }

    /// The current shell with `script` as its last argument.
    pub(super) fn with_shell(&self, script: &str) -> Vec<String> {
        let shell = &self.state.config.config.shell;
        let mut words: Vec<String> = match shell.as_slice() {
            [] if self.state.config.os == WINDOWS => ["cmd", "/S", "/C"].map(str::to_owned).into(),
            [] => ["/bin/sh", "-c"].map(str::to_owned).into(),
            shell => shell.to_vec(),
        };
        words.push(script.to_owned());
        words
    }

    /// A build argument hides the default; without either, the global value is taken. Later names of the instruction see
    /// the earlier ones.
    fn arg(&mut self, declarations: &[ArgDeclaration], command: &Command<'_>) {
        let source = &command.source;
        let mut message = String::from("ARG");
        for declaration in declarations {
            let name = &declaration.name.value;
            self.warn(checks::secret_key("ARG", name, source, declaration.name.span));
            let options = self.lowering.options;
            let given = options.build_arg(name);
            let is_global =
                given.is_none() && declaration.default.is_none() && self.lowering.stages.globals.value(name).is_some();
            let value = match (given, &declaration.default) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => match self.expand(default, source) {
                    Some(text) => Some(text),
                    None => continue,
                },
                (None, None) => self.lowering.stages.globals.value(name).map(str::to_owned),
            };
            message.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                message.push_str(&format!("={value}"));
                if !scope::is_never_environment(name) {
                    self.state.scope.set(name, value);
                }
            }
            let lines = self.lines(command);
            self.notes().argument(declaration, value.as_deref(), is_global, lines);
            self.state.arguments.push((name.clone(), value));
        }
        self.record(message, None);
    }

    /// All values of one `ENV` see the variables from before it.
    fn env(&mut self, pairs: &[Pair], command: &Command<'_>) {
        let source = &command.source;
        let Some(expanded) = self.pairs(pairs, source) else { return };
        let mut message = String::from("ENV");
        for ((name, value), pair) in expanded.into_iter().zip(pairs) {
            self.warn(checks::legacy_pair(command.keyword(), pair, source));
            self.warn(checks::secret_key("ENV", &name, source, pair.key.span));
            message.push_str(&format!(" {name}={value}"));
            self.state.scope.set(&name, &value);
            let line = format!("{name}={value}");
            let env = &mut self.state.config.config.env;
            match env.iter_mut().find(|known| known.split('=').next() == Some(name.as_str())) {
                Some(known) => *known = line,
                None => env.push(line),
            }
        }
        self.record(message, None);
    }

    fn label(&mut self, pairs: &[Pair], command: &Command<'_>) {
        let Some(expanded) = self.pairs(pairs, &command.source) else { return };
        let mut message = String::from("LABEL");
        for ((name, value), pair) in expanded.into_iter().zip(pairs) {
            self.warn(checks::legacy_pair(command.keyword(), pair, &command.source));
            message.push_str(&format!(" {name}={value}"));
            self.state.config.config.labels.insert(name, value);
        }
        self.record(message, None);
    }

    /// Keys and values with variables replaced; `None` after an error in any of them.
    fn pairs(&mut self, pairs: &[Pair], source: &Source) -> Option<Vec<(String, String)>> {
        let expanded: Vec<(Option<String>, Option<String>)> =
            pairs.iter().map(|pair| (self.expand(&pair.key, source), self.expand(&pair.value, source))).collect();
        expanded.into_iter().map(|(key, value)| Some((key?, value?))).collect()
    }

    fn cmd(&mut self, program: &dockerfile::Command, command: &Command<'_>) {
        let place = self.place(command);
        let previous = self.said.cmd.replace(place);
        self.only_once(command, previous);
        self.recommend_exec_form(program, command);
        let words = self.program(program);
        self.record(format!("CMD {}", text::quoted_list(&words)), None);
        let config = &mut self.state.config.config;
        config.cmd = words;
        config.args_escaped = true;
    }

    /// An `ENTRYPOINT` drops the `CMD` of the base, not the stage's own.
    fn entrypoint(&mut self, program: &dockerfile::Command, command: &Command<'_>) {
        let place = self.place(command);
        let previous = self.said.entrypoint.replace(place);
        self.only_once(command, previous);
        self.recommend_exec_form(program, command);
        let words = self.program(program);
        self.record(format!("ENTRYPOINT {}", text::quoted_list(&words)), None);
        let own_cmd = self.said.cmd.is_some();
        let config = &mut self.state.config.config;
        config.entrypoint = words;
        if !own_cmd {
            config.cmd.clear();
        }
    }

    fn healthcheck(&mut self, check: &dockerfile::Healthcheck, command: &Command<'_>) {
        let place = self.place(command);
        let previous = self.said.healthcheck.replace(place);
        self.only_once(command, previous);
        let check = stored_healthcheck(check);
        self.record(format!("HEALTHCHECK {}", text::healthcheck(&check)), None);
        self.state.config.config.healthcheck = Some(check);
    }

    /// Words are taken in sorted order, and one may hold several ports once its variables are replaced.
    fn expose(&mut self, ports: &[Word], source: &Source) {
        let mut sorted: Vec<&Word> = ports.iter().collect();
        sorted.sort_by(|left, right| left.value.cmp(&right.value));
        let mut exposed = Vec::new();
        for word in sorted {
            let escape = self.lowering.dockerfile.directives.escape;
            let texts = match dockerfile::expand::words(&word.value, escape, &self.state.scope) {
                Ok((texts, _unset)) => texts,
                Err(error) => {
                    self.lowering.diagnostics.push(words::failure(word, source, &error));
                    continue;
                }
            };
            for text in &texts {
                match expose::parse(text) {
                    Ok(parsed) => {
                        self.warn_of_odd_ports(text, &parsed, source, word.span);
                        exposed.extend(parsed.ports);
                    }
                    Err(message) => {
                        let error = Diagnostic::error("bad-port", message, source, word.span).help(expose::FORM);
                        self.lowering.diagnostics.push(error);
                    }
                }
            }
        }
        self.record(format!("EXPOSE {}", text::plain_list(&exposed)), None);
        for port in exposed {
            self.state.config.config.exposed_ports.insert(port, empty_object());
        }
    }

    fn warn_of_odd_ports(&mut self, text: &str, ports: &expose::Ports, source: &Source, span: Span) {
        if ports.odd_case {
            let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            self.warn(Some(Diagnostic::finding(&rules::EXPOSE_PROTO_CASING, message, source, span)));
        }
        if ports.mapped {
            let message = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
            let finding = Diagnostic::finding(&rules::EXPOSE_INVALID_FORMAT, message, source, span);
            let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
            self.warn(Some(finding.help(format!("EXPOSE {port}"))));
        }
    }

    fn stopsignal(&mut self, word: &Word, source: &Source) {
        let Some(name) = self.expand(word, source) else { return };
        if !signal::is_signal(&name) {
            let error = Diagnostic::error("bad-signal", format!("invalid signal `{name}`"), source, word.span);
            self.lowering.diagnostics.push(match signal::nearest_signal(&name) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help("it is one signal, by its name, such as `SIGTERM`, or by its number"),
            });
            return;
        }
        self.record(format!("STOPSIGNAL {name}"), None);
        self.state.config.config.stop_signal = name;
    }

    fn volume(&mut self, words: &[Word], source: &Source) {
        let mut volumes = Vec::new();
        for word in words {
            match self.expand(word, source) {
                Some(volume) if volume.is_empty() => {
                    self.error("empty-volume", "a `VOLUME` can not be an empty string", source, word.span);
                }
                Some(volume) => volumes.push(volume),
                None => {}
            }
        }
        self.record(format!("VOLUME {}", text::plain_list(&volumes)), None);
        for volume in volumes {
            self.state.config.config.volumes.insert(volume, empty_object());
        }
    }

    /// Points at the earlier of two, which has no effect. Whether to speak of it is up to the comment above the later one.
    fn only_once(&mut self, command: &Command<'_>, previous: Option<Place>) {
        let Some(Place { source, span, lines }) = previous else { return };
        let dockerfile = self.lowering.dockerfile;
        let here = (!command.is_trigger()).then(|| command.instruction().span);
        if !dockerfile.wants(&rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, here, &check::Options::default()) {
            return;
        }
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            command.keyword()
        );
        let finding = Diagnostic::finding(&rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, message, &source, span);
        self.warn(Some(Diagnostic { lines: Some(lines), ..finding }));
    }

    fn recommend_exec_form(&mut self, program: &dockerfile::Command, command: &Command<'_>) {
        if matches!(program, dockerfile::Command::Shell(_)) && self.state.config.config.shell.is_empty() {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                command.keyword()
            );
            let span = command.instruction().span;
            self.warn(Some(Diagnostic::finding(&rules::JSON_ARGS_RECOMMENDED, message, &command.source, span)));
        }
    }

    pub(super) fn warn(&mut self, warning: Option<Diagnostic>) {
        self.lowering.diagnostics.extend(warning);
    }
}

fn stored_healthcheck(check: &dockerfile::Healthcheck) -> Healthcheck {
    // durations beyond 292 years do not fit; nobody means them
    let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match check {
        dockerfile::Healthcheck::None => Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() },
        dockerfile::Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                dockerfile::Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                dockerfile::Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
            };
            Healthcheck {
                test,
                interval: nanoseconds(*interval),
                timeout: nanoseconds(*timeout),
                start_period: nanoseconds(*start_period),
                start_interval: nanoseconds(*start_interval),
                retries: i64::from(*retries),
            }
        }
    }
}

fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
