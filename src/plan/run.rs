//! `RUN` and its mounts.

use super::lowering::{MAIN_CONTEXT, StageLowering};
use super::stages::Command;
use super::{path, text};
use crate::diagnostic::{Diagnostic, Source, Span, Spanned};
use crate::dockerfile::mount::{self, MountSharing, MountSpec, MountType};
use crate::dockerfile::{self, Run, RunNetwork, RunSecurity};
use crate::graph::{ExecOp, InlineFile, Mount, MountKind, Network, Op, Security, Sharing, StepIndex};

/// What a `RUN` starts.
struct Program {
    args: Vec<String>,
    /// The heredoc that is the program itself.
    script: Option<InlineFile>,
    /// Added to the step's name: how a heredoc begins.
    summary: String,
}

/// The mounts of a `RUN`, with what they ask of the step.
struct Mounts {
    mounts: Vec<Mount>,
    /// Inputs of the step; the first is its root.
    inputs: Vec<StepIndex>,
    ssh_sockets: Vec<String>,
    /// Variables that hold secrets.
    secret_names: Vec<String>,
}

impl StageLowering<'_, '_> {
    pub(super) fn run(&mut self, run: &Run, command: &Command<'_>) {
        let source = &command.source;
        let program = self.run_program(run);
        if let Some(device) = run.devices.first() {
            let message = format!("device `{}` can not be given: devices are not supported", device.value);
            self.error("unsupported-device", message, source, device.span);
        }
        let mounts = self.mounts(run, command);
        let network = self.network(run, command);
        let security = self.security(run, source);
        // a command without words was reported by the parser
        let Some(mounts) = mounts.filter(|_| !program.args.is_empty()) else { return };
        let shown = self.shown_run(&program, &mounts.secret_names, command);
        let mut origin = self.origin(&shown, command);
        origin.words.mounts = run.mounts.iter().map(|mount| mount.span).collect();
        origin.words.user.clone_from(&self.state.user_place);
        origin.limits = self.limits(run, source);
        let mut env = self.state.scope.clone();
        if let Some(socket) = mounts.ssh_sockets.first()
            && env.value("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", socket);
        }
        let history = format!("RUN {}{} # buildkit", self.arguments_text(), program.args.join(" "));
        let options = self.lowering.options;
        let op = Op::Exec(ExecOp {
            args: program.args,
            env: env.lines(),
            proxy_env: self.lowering.proxy_env.clone(),
            cwd: self.state.directory(),
            user: self.state.config.config.user.clone(),
            mounts: mounts.mounts,
            network,
            security,
            hostname: options.build_arg("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty()).map(str::to_owned),
            extra_hosts: options.extra_hosts.clone(),
            shm_size_bytes: options.shm_size_bytes,
            ulimits: options.ulimits.clone(),
            platform: self.state.platform.clone(),
            script: program.script,
        });
        self.state.tree = self.lowering.graph.add(op, &mounts.inputs, origin);
        self.record(history, Some(self.state.tree));
    }

    /// One heredoc alone is the script; when it begins with `#!` the shell starts it as a file. With more text around it
    /// the shell gets everything and must know heredocs itself.
    fn run_program(&self, run: &Run) -> Program {
        if let Some(only) = run.script() {
            let summary = format!(" ({})", text::heredoc_summary(&only.body));
            if only.body.starts_with("#!") {
                let script = InlineFile { name: only.name.clone(), content: only.body.clone() };
                let args = self.with_shell(&format!("/dev/pipes/{}", only.name));
                return Program { args, script: Some(script), summary };
            }
            return Program { args: self.with_shell(&only.body), script: None, summary };
        }
        let args = match &run.command {
            dockerfile::Command::Shell(line) if !run.heredocs.is_empty() => {
                let mut script = line.clone();
                for heredoc in &run.heredocs {
                    script.push_str(&format!("\n{}{}", heredoc.raw_body, heredoc.name));
                }
                self.with_shell(&script)
            }
            command => self.program(command),
        };
        Program { args, script: None, summary: String::new() }
    }

    fn shown_run(&self, program: &Program, secret_names: &[String], command: &Command<'_>) -> String {
        let name = text::with_upper_keyword(&command.instruction().text) + &program.summary;
        text::with_known_variables(&name, |variable| {
            if secret_names.iter().any(|secret| secret == variable) {
                return Some("****".to_owned());
            }
            self.state.scope.value(variable).map(str::to_owned)
        })
    }

    /// `|2 A=1 B= `: all declared arguments in the order of their first declaration, with the values in force.
    fn arguments_text(&self) -> String {
        let mut seen: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.state.arguments {
            let in_force = self.state.scope.value(name).or(value.as_deref()).unwrap_or_default();
            match seen.iter_mut().find(|(known, _)| known == name) {
                Some((_, value)) => *value = in_force.to_owned(),
                None => seen.push((name, in_force.to_owned())),
            }
        }
        if seen.is_empty() {
            return String::new();
        }
        let pairs: Vec<String> = seen.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("|{} {} ", pairs.len(), pairs.join(" "))
    }

    fn network(&mut self, run: &Run, command: &Command<'_>) -> Network {
        let options = self.lowering.options;
        let network = match run.network.as_ref().map(|network| network.value) {
            None | Some(RunNetwork::Default) => options.network,
            Some(RunNetwork::None) => Network::None,
            Some(RunNetwork::Host) => Network::Host,
        };
        if network == Network::Host && !options.allow_host_network {
            let span = run.network.as_ref().map_or(command.instruction().span, |network| network.span);
            self.missing_entitlement("network.host", &command.source, span);
        }
        network
    }

    fn security(&mut self, run: &Run, source: &Source) -> Security {
        let Some(security) = run.security.as_ref().filter(|security| security.value == RunSecurity::Insecure) else {
            return Security::Sandbox;
        };
        if !self.lowering.options.allow_insecure {
            self.missing_entitlement("security.insecure", source, security.span);
        }
        Security::Insecure
    }

    fn missing_entitlement(&mut self, name: &str, source: &Source, span: Span) {
        let diagnostic = Diagnostic::error("entitlement", format!("the entitlement `{name}` is not allowed"), source, span)
            .help(format!("pass `--allow {name}` if you trust this Dockerfile with it"));
        self.lowering.diagnostics.push(diagnostic);
    }

    /// Reads the mounts; `None` after an error in any of them.
    fn mounts(&mut self, run: &Run, command: &Command<'_>) -> Option<Mounts> {
        let mut mounts =
            Mounts { mounts: Vec::new(), inputs: vec![self.state.tree], ssh_sockets: Vec::new(), secret_names: Vec::new() };
        let mut failed = false;
        for (number, raw) in run.mounts.iter().enumerate() {
            let node = command.inputs.get(number).copied().flatten();
            let spec = self.mount_options(raw, &command.source);
            let mount = spec.and_then(|spec| self.mount(&spec, node, raw.span, &mut mounts, command));
            match mount {
                Some(mount) => mounts.mounts.push(mount),
                None => failed = true,
            }
        }
        (!failed).then_some(mounts)
    }

    fn mount_options(&mut self, raw: &Spanned<String>, source: &Source) -> Option<MountSpec> {
        let escape = self.lowering.dockerfile.directives.escape;
        let scope = &self.state.scope;
        let mut unset = Vec::new();
        let spec = mount::parse(raw, source, &mut |word| {
            let expanded = dockerfile::expand::word(word, escape, scope)?;
            unset.extend(expanded.unset);
            Ok(expanded.text)
        });
        self.warn_unset(&unset, source, raw.span);
        spec.map_err(|diagnostic| self.lowering.diagnostics.push(diagnostic)).ok()
    }

    fn mount(
        &mut self,
        spec: &MountSpec,
        node: Option<usize>,
        span: Span,
        mounts: &mut Mounts,
        command: &Command<'_>,
    ) -> Option<Mount> {
        match spec.kind {
            MountType::Secret => return self.secret(spec, span, mounts, command),
            MountType::Ssh => return self.ssh(spec, span, mounts, command),
            MountType::Bind | MountType::Cache | MountType::Tmpfs => {}
        }
        let written = spec.target.as_deref().unwrap_or_default();
        let target = path::join(&self.state.directory(), written);
        if target == "/" {
            let message = match spec.target {
                Some(_) => "invalid mount target `/`".to_owned(),
                None => format!("a `{}` mount without a `target`", spec.kind.name()),
            };
            let diagnostic =
                Diagnostic::error("bad-mount-target", message, &command.source, span).help("name a directory: `target=/path`");
            self.lowering.diagnostics.push(diagnostic);
            return None;
        }
        let source_path = path::clean(spec.source.as_deref().unwrap_or_default());
        let kind = match spec.kind {
            MountType::Tmpfs => MountKind::Tmpfs { size_bytes: spec.size_bytes.filter(|size_bytes| *size_bytes > 0) },
            MountType::Cache => self.cache(spec, node, span, source_path, mounts, command)?,
            _ => {
                let input = self.mounted_tree(spec, node, span, &source_path, mounts, command)?;
                MountKind::Bind { input, source: source_path, writable: spec.read_only == Some(false) }
            }
        };
        Some(Mount { target, kind })
    }

    /// Caches are named by their id alone: neither image nor stage nor platform tell them apart.
    fn cache(
        &mut self,
        spec: &MountSpec,
        node: Option<usize>,
        span: Span,
        source_path: String,
        mounts: &mut Mounts,
        command: &Command<'_>,
    ) -> Option<MountKind> {
        let target = spec.target.as_deref().unwrap_or_default();
        let id = match spec.id.as_deref() {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ if target.starts_with('/') => path::clean(target),
            _ => path::clean(target).trim_start_matches('/').to_owned(),
        };
        let namespace = self.lowering.options.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
        let id = format!("{namespace}/{id}");
        let owned = spec.uid.is_some() || spec.gid.is_some() || spec.mode.is_some();
        // an owner asks for a fresh directory, unless there is a directory of the seed to begin with
        let source_is_root = source_path == "/";
        let seeded = spec.from.is_some() && !(source_is_root && owned);
        let seed = match seeded {
            true => Some((self.mounted_tree(spec, node, span, &source_path, mounts, command)?, source_path)),
            false => None,
        };
        Some(MountKind::Cache {
            id,
            sharing: match spec.sharing {
                None | Some(MountSharing::Shared) => Sharing::Shared,
                Some(MountSharing::Private) => Sharing::Private,
                Some(MountSharing::Locked) => Sharing::Locked,
            },
            seed,
            is_owned: owned && source_is_root,
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
            mode: spec.mode.unwrap_or(0o755),
            writable: spec.read_only != Some(true),
        })
    }

    /// Number of the input that a mount shows: the tree of `from`, else the main context.
    fn mounted_tree(
        &mut self,
        spec: &MountSpec,
        node: Option<usize>,
        span: Span,
        source_path: &str,
        mounts: &mut Mounts,
        command: &Command<'_>,
    ) -> Option<usize> {
        let tree = match (spec.from.as_deref().filter(|from| !from.is_empty()), node) {
            (None, _) => self.lowering.context(MAIN_CONTEXT),
            (Some(from), node) => {
                let state = node.and_then(|node| self.lowering.results[node].as_ref());
                let Some(state) = state else {
                    let target = spec.target.as_deref().unwrap_or_default();
                    let message = format!(
                        "cannot mount from stage `{from}` to `{target}`, stage needs to be defined before current command"
                    );
                    self.error("stage-order", message, &command.source, span);
                    return None;
                };
                state.tree
            }
        };
        self.lowering.use_path(tree, source_path);
        let known = mounts.inputs.iter().skip(1).position(|input| *input == tree);
        Some(known.map_or_else(
            || {
                mounts.inputs.push(tree);
                mounts.inputs.len() - 1
            },
            |position| position + 1,
        ))
    }

    fn secret(&mut self, spec: &MountSpec, span: Span, mounts: &mut Mounts, command: &Command<'_>) -> Option<Mount> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (from_source, target) = (given(&spec.source), given(&spec.target));
        let id = from_source.or(given(&spec.id)).or(target.as_deref().map(|target| path::base_name(target).to_owned()));
        let Some(id) = id else {
            self.error("bad-secret", "invalid secret mount: one of `id`, `source`, `target` is required", &command.source, span);
            return None;
        };
        let lines = self.lines(command);
        self.notes().secret(&id, spec.required, lines);
        // an empty name asks for the id's
        let env = spec.env.clone().map(|name| if name.is_empty() { id.clone() } else { name });
        mounts.secret_names.extend(env.clone());
        let file = spec.env.is_none() || target.is_some();
        let target = target.unwrap_or_else(|| format!("/run/secrets/{}", path::base_name(&id)));
        let kind = MountKind::Secret {
            id,
            required: spec.required,
            env,
            file,
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
            mode: spec.mode.unwrap_or(0o400),
        };
        Some(Mount { target: path::join(&self.state.directory(), &target), kind })
    }

    fn ssh(&mut self, spec: &MountSpec, span: Span, mounts: &mut Mounts, command: &Command<'_>) -> Option<Mount> {
        if spec.source.as_deref().is_some_and(|text| !text.is_empty()) {
            self.error("bad-ssh", "an ssh mount does not support `source`", &command.source, span);
            return None;
        }
        let number = mounts.ssh_sockets.len();
        let target = match spec.target.as_deref().filter(|target| !target.is_empty()) {
            Some(target) => path::join(&self.state.directory(), target),
            None => format!("/run/buildkit/ssh_agent.{number}"),
        };
        mounts.ssh_sockets.push(target.clone());
        let id = spec.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned());
        let lines = self.lines(command);
        self.notes().agent(&id, spec.required, lines);
        let kind = MountKind::Ssh {
            id,
            required: spec.required,
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
            mode: spec.mode.unwrap_or(0o600),
        };
        Some(Mount { target, kind })
    }
}
