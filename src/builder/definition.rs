//! The steps of an image as provenance tells them in full: BuildKit's operations, and where the Dockerfile says each.
//!
//! Source of the form: moby/buildkit, `docs/attestations/slsa-definitions.md`, `solver/pb/ops.proto`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::diagnostic::Source;
use crate::digest::Digest;
use crate::graph::{Chmod, CopySource, Graph, Mount, MountKind, Network, Op, Security, Sharing, Step, StepIndex, Unpack};
use crate::reference::Platform;
use crate::registry::base64;

/// Steps by the names that they have here: inputs before the steps that read them.
pub struct Definition<'a> {
    graph: &'a Graph,
    steps: &'a [StepIndex],
    names: BTreeMap<StepIndex, String>,
}

impl<'a> Definition<'a> {
    /// The last of `steps` is the image's.
    pub fn new(graph: &'a Graph, steps: &'a [StepIndex]) -> Definition<'a> {
        let names = steps.iter().enumerate().map(|(number, index)| (*index, format!("step{number}"))).collect();
        Definition { graph, steps, names }
    }

    /// `buildConfig`: all operations, and one without a doing of its own that stands for the result.
    pub fn operations(&self) -> Value {
        let step = |index: &StepIndex| {
            let step = self.graph.step(*index);
            let inputs = self.graph.inputs(*index);
            let mut members = Map::new();
            members.insert("id".into(), json!(self.names[index]));
            members.insert("op".into(), operation(step, inputs.len()));
            if !inputs.is_empty() {
                members.insert("inputs".into(), inputs.iter().map(|input| json!(format!("{}:0", self.names[input]))).collect());
            }
            Value::Object(members)
        };
        let mut all: Vec<Value> = self.steps.iter().map(step).collect();
        let mut digests: Map<String, Value> =
            self.steps.iter().map(|index| (self.graph.step(*index).id.0.to_string(), json!(self.names[index]))).collect();
        if let Some(last) = self.steps.last() {
            let name = format!("step{}", self.steps.len());
            all.push(result(&name, &self.names[last]));
            digests.insert(Digest::of(self.graph.step(*last).id.0.as_bytes()).to_string(), json!(name));
        }
        json!({"digestMapping": digests, "llbDefinition": all})
    }

    /// `source`: the Dockerfile, and the lines of it that each step comes from.
    pub fn source(&self, dockerfile: &Source) -> Value {
        let locations: Map<String, Value> = self
            .steps
            .iter()
            .map(|index| {
                let location = match &self.graph.step(*index).origin.place {
                    Some((source, span)) if source == dockerfile => {
                        let line = |offset: usize| source.line_column(offset).0;
                        let range = |line: usize| json!({"start": {"line": line}, "end": {"line": line}});
                        let lines = line(span.start)..=line(span.end.saturating_sub(1).max(span.start));
                        json!({"locations": [{"ranges": lines.map(range).collect::<Vec<_>>()}]})
                    }
                    _ => json!({}),
                };
                (self.names[index].clone(), location)
            })
            .collect();
        let name = dockerfile.name();
        // what a client is asked for who has a file of that name
        let wanted = json!([name, format!("{name}.dockerignore"), name.to_lowercase()]).to_string();
        let attributes = json!({"local.differ": "none", "local.followpaths": wanted, "local.sharedkeyhint": "dockerfile"});
        let load = json!({"Op": {"source": {"identifier": "local://dockerfile", "attrs": attributes}}, "constraints": {}});
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        let (first, last) = (digest(&load.to_string()), digest(&digest(&load.to_string())));
        let info = json!({
            "filename": name,
            "language": "Dockerfile",
            "data": base64::encode(dockerfile.text().as_bytes()),
            "llbDefinition": [{"id": "step0", "op": load}, result("step1", "step0")],
            "digestMapping": {first: "step0", last: "step1"},
        });
        json!({"locations": locations, "infos": [info]})
    }
}

/// The operation that stands for what `input` gives.
fn result(name: &str, input: &str) -> Value {
    json!({"id": name, "op": {"Op": {}}, "inputs": [format!("{input}:0")]})
}

fn operation(step: &Step, inputs: usize) -> Value {
    let platform = |platform: &Platform| json!({"Architecture": platform.architecture, "OS": platform.os});
    let source = |identifier: String| json!({"Op": {"source": {"identifier": identifier}}, "constraints": {}});
    match &step.op {
        Op::Image(image) => {
            let mut operation = source(format!("docker-image://{}@{}", image.name, image.manifest));
            operation["platform"] = platform(&image.platform);
            operation
        }
        Op::Context(context) => {
            let mut operation = source(format!("local://{}", context.name));
            operation["Op"]["source"]["attrs"] = json!({"local.sharedkeyhint": context.name});
            operation
        }
        Op::Http(http) => source(http.url.clone()),
        Op::Git(git) => {
            source(format!("git://{}#{}", git.remote.split_once("://").map_or(&*git.remote, |(_, rest)| rest), git.reference))
        }
        Op::Exec(exec) => {
            // sorted, and behind them what comes from the client
            let mut sorted: Vec<&Mount> = exec.mounts.iter().collect();
            sorted.sort_by_key(|mount| {
                let is_credential = matches!(mount.kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
                (is_credential, mount.target.as_str())
            });
            let mounts: Vec<Value> = std::iter::once(json!({"dest": "/"})).chain(sorted.into_iter().map(mount)).collect();
            let mut meta = json!({"args": exec.args, "env": exec.env, "cwd": exec.cwd, "removeMountStubsRecursive": true});
            if !exec.user.is_empty() {
                meta["user"] = json!(exec.user);
            }
            let mut command = json!({"meta": meta, "mounts": mounts});
            match exec.network {
                Network::Default => {}
                Network::Host => command["network"] = json!(1),
                Network::None => command["network"] = json!(2),
            }
            if exec.security == Security::Insecure {
                command["security"] = json!(1);
            }
            json!({"Op": {"exec": command}, "constraints": {}, "platform": platform(&exec.platform)})
        }
        Op::Copy(copy) => {
            let action = |source: &CopySource| match source {
                CopySource::Path { input, pattern } => {
                    let mut action = copied(pattern, &copy.destination);
                    match &copy.chmod {
                        None => {}
                        Some(Chmod::Octal(mode)) => action["mode"] = json!(mode),
                        Some(Chmod::Symbolic(clauses)) => action["modeStr"] = json!(clauses),
                    }
                    if let Some(owner) = &copy.chown {
                        action["owner"] = owned(owner);
                    }
                    if copy.unpack != Unpack::Never {
                        action["attemptUnpackDockerCompatibility"] = json!(true);
                    }
                    if !copy.excludes.is_empty() {
                        action["exclude_patterns"] = json!(copy.excludes);
                    }
                    (json!({"copy": action}), *input)
                }
                CopySource::Inline(file) => (
                    json!({"mkfile": {"path": copy.destination, "mode": 420, "data": base64::encode(file.content.as_bytes()), "timestamp": -1}}),
                    usize::MAX,
                ),
                CopySource::Download { input } | CopySource::Checkout { input } => {
                    (json!({"copy": copied("/", &copy.destination)}), *input)
                }
            };
            files(copy.sources.iter().map(action).collect(), inputs)
        }
        Op::Mkdir(mkdir) => {
            let made = json!({"mkdir": {"path": mkdir.path, "mode": 493, "makeParents": true, "timestamp": -1}});
            files(vec![(made, usize::MAX)], inputs)
        }
        Op::Merge => {
            let inputs: Vec<Value> = (0..inputs).map(|input| json!({"input": input})).collect();
            json!({"Op": {"merge": {"inputs": inputs}}, "constraints": {}})
        }
        Op::Scratch => json!({"Op": {}, "constraints": {}}),
    }
}

/// `--chown`: a user, and a group of the same name or number unless another is named.
fn owned(owner: &str) -> Value {
    let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
    let account = |text: &str| match text.parse::<u32>() {
        Ok(id) => json!({"User": {"byId": id}}),
        Err(_) => json!({"User": {"byName": {"name": text}}}),
    };
    json!({"user": account(user), "group": account(group)})
}

/// What every copy of a Dockerfile is.
fn copied(source: &str, destination: &str) -> Value {
    json!({
        "src": source,
        "dest": destination,
        "mode": -1,
        "followSymlink": true,
        "dirCopyContents": true,
        "createDestPath": true,
        "allowWildcard": true,
        "allowEmptyWildcard": true,
        "timestamp": -1,
    })
}

/// Actions on files, each on what the one before it left; beside each, the number of the input that it reads.
fn files(actions: Vec<(Value, usize)>, inputs: usize) -> Value {
    let last = actions.len().saturating_sub(1);
    let listed: Vec<Value> = actions
        .into_iter()
        .enumerate()
        .map(|(number, (action, read))| {
            // results of actions are counted on behind the inputs
            let input = if number == 0 { 0 } else { inputs + number - 1 };
            let second = i64::try_from(read).unwrap_or(-1);
            let output = if number == last { 0 } else { -1 };
            json!({"Action": action, "input": input, "secondaryInput": second, "output": output})
        })
        .collect();
    json!({"Op": {"file": {"actions": listed}}, "constraints": {}})
}

fn mount(mount: &Mount) -> Value {
    const NONE: i64 = -1;
    let dest = &mount.target;
    match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            let mut bind = json!({"dest": dest, "input": input, "output": NONE});
            if source != "/" {
                bind["selector"] = json!(source);
            }
            if !writable {
                bind["readonly"] = json!(true);
            }
            bind
        }
        MountKind::Cache { id, sharing, seed, writable, .. } => {
            let mut options = json!({"ID": id});
            match sharing {
                Sharing::Shared => {}
                Sharing::Private => options["sharing"] = json!(1),
                Sharing::Locked => options["sharing"] = json!(2),
            }
            let input = seed.as_ref().map_or(NONE, |(input, _)| i64::try_from(*input).unwrap_or(NONE));
            let mut cache = json!({"dest": dest, "input": input, "output": NONE, "mountType": 3, "cacheOpt": options});
            if let Some((_, path)) = seed.as_ref().filter(|(_, path)| path != "/") {
                cache["selector"] = json!(path);
            }
            if !writable {
                cache["readonly"] = json!(true);
            }
            cache
        }
        MountKind::Tmpfs { size_bytes } => {
            let options = size_bytes.map_or_else(|| json!({}), |bytes| json!({"size": bytes}));
            json!({"dest": dest, "input": NONE, "output": NONE, "mountType": 4, "TmpfsOpt": options})
        }
        MountKind::Secret { id, required, uid, gid, mode, .. } => {
            json!({"dest": dest, "input": NONE, "mountType": 1, "secretOpt": credential(id, *required, *uid, *gid, *mode)})
        }
        MountKind::Ssh { id, required, uid, gid, mode } => {
            json!({"dest": dest, "input": NONE, "mountType": 2, "SSHOpt": credential(id, *required, *uid, *gid, *mode)})
        }
    }
}

fn credential(id: &str, required: bool, uid: u32, gid: u32, mode: u32) -> Value {
    let mut options = json!({"ID": id, "mode": mode});
    for (name, value) in [("uid", uid), ("gid", gid)] {
        if value != 0 {
            options[name] = json!(value);
        }
    }
    if !required {
        options["optional"] = json!(true);
    }
    options
}
