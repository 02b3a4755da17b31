//! The steps of an image as provenance tells them in full: BuildKit's operations, and where the Dockerfile says each.
//!
//! Source of the form: moby/buildkit, `docs/attestations/slsa-definitions.md`, `solver/pb/ops.proto`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::base64;
use crate::diagnostic::Source;
use crate::digest::Digest;
use crate::dockerfile::ignore::Patterns;
use crate::graph::{Chmod, CopySource, Graph, Mount, MountKind, Network, Op, Security, Sharing, Step, StepIndex, Unpack};
use crate::reference::Platform;

/// Steps by the names that they have here: inputs before the steps that read them.
pub struct Definition<'a> {
    graph: &'a Graph,
    nodes: Vec<Node>,
    names: BTreeMap<Node, String>,
    /// What the main context leaves out.
    ignore: Option<&'a Patterns>,
}

/// What BuildKit counts as a step. The empty tree is none: whoever begins with it has no input there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Step(StepIndex),
    /// The heredoc of this number among the sources of a copy: a file in a tree of its own.
    Heredoc(StepIndex, usize),
}

impl<'a> Definition<'a> {
    /// The last of `steps` is the image's.
    pub fn new(graph: &'a Graph, steps: &[StepIndex], ignore: Option<&'a Patterns>) -> Definition<'a> {
        let nodes: Vec<Node> = steps
            .iter()
            .filter(|index| !matches!(graph.step(**index).op, Op::Scratch))
            .flat_map(|index| heredocs(graph, *index).into_iter().chain([Node::Step(*index)]))
            .collect();
        let names = nodes.iter().enumerate().map(|(number, node)| (*node, format!("step{number}"))).collect();
        Definition { graph, nodes, names, ignore }
    }

    /// `buildConfig`: all operations, and one without a doing of its own that stands for the result.
    pub fn operations(&self) -> Value {
        let mut all = Vec::with_capacity(self.nodes.len() + 1);
        let mut digests = Map::new();
        for node in &self.nodes {
            all.push(self.described(node));
            digests.insert(self.digest(node).to_string(), json!(self.names[node]));
        }
        if let Some(last) = self.nodes.last() {
            let name = format!("step{}", self.nodes.len());
            all.push(result(&name, &self.names[last]));
            digests.insert(Digest::of(self.digest(last).as_bytes()).to_string(), json!(name));
        }
        json!({"digestMapping": digests, "llbDefinition": all})
    }

    /// `source`: the Dockerfile, and the lines of it that each step comes from.
    pub fn source(&self, dockerfile: &Source) -> Value {
        let locations: Map<String, Value> = self.nodes.iter().map(|node| self.located(node, dockerfile)).collect();
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

    /// Which of the image's layers, counted from the bottom, each step's file system is made of. Steps are those whose layers the
    /// image has; `layers` is how many these are.
    pub fn layers(&self, layers: usize) -> BTreeMap<String, Range<usize>> {
        let mut found = BTreeMap::new();
        let target = self.nodes.last().and_then(|node| match node {
            Node::Step(index) => Some((*index, 0..layers)),
            Node::Heredoc(..) => None,
        });
        let mut todo: Vec<(StepIndex, Range<usize>)> = target.into_iter().collect();
        while let Some((index, range)) = todo.pop() {
            if let Some(name) = self.names.get(&Node::Step(index)).filter(|_| !range.is_empty()) {
                found.insert(format!("{name}:0"), range.clone());
            }
            let inputs = self.graph.inputs(index);
            match (&self.graph.step(index).op, inputs.as_slice()) {
                (Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_), [below, ..]) => {
                    todo.push((*below, range.start..range.end.saturating_sub(1).max(range.start)));
                }
                (Op::Merge, [below, above]) => {
                    let middle = range.end.saturating_sub(self.own_layers(*above)).max(range.start);
                    todo.extend([(*below, range.start..middle), (*above, middle..range.end)]);
                }
                _ => {}
            }
        }
        found
    }

    /// How many layers a step has that stands on the empty tree, as what is merged does.
    fn own_layers(&self, index: StepIndex) -> usize {
        let mut index = index;
        let mut layers = 0;
        while let (Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_), Some(below)) =
            (&self.graph.step(index).op, self.graph.inputs(index).first())
        {
            layers += 1;
            index = *below;
        }
        layers
    }

    fn digest(&self, node: &Node) -> Digest {
        match node {
            Node::Step(index) => self.graph.step(*index).id.0,
            Node::Heredoc(index, number) => {
                let id = self.graph.step(*index).id.0;
                Digest::of(format!("{id} {number}").as_bytes())
            }
        }
    }

    fn described(&self, node: &Node) -> Value {
        let mut members = Map::new();
        members.insert("id".into(), json!(self.names[node]));
        match node {
            Node::Heredoc(copy, number) => {
                members.insert("op".into(), self.written(*copy, *number));
            }
            Node::Step(index) => {
                let inputs = Inputs::new(self, *index);
                members.insert("op".into(), self.operation(self.graph.step(*index), &inputs));
                if !inputs.names.is_empty() {
                    members.insert("inputs".into(), inputs.names.iter().map(|name| json!(format!("{name}:0"))).collect());
                }
            }
        }
        Value::Object(members)
    }

    /// The operation that writes a heredoc.
    fn written(&self, copy: StepIndex, number: usize) -> Value {
        let Op::Copy(copy) = &self.graph.step(copy).op else { return json!({}) };
        let Some(CopySource::Inline(file)) = copy.sources.get(number) else { return json!({}) };
        let data = base64::encode(file.content.as_bytes());
        let written = json!({"mkfile": {"path": format!("/{}", file.name), "mode": 420, "data": data, "timestamp": -1}});
        files(vec![(written, NONE)], NONE, 0)
    }

    /// All places of a step, the last of the file first.
    fn located(&self, node: &Node, dockerfile: &Source) -> (String, Value) {
        let name = self.names[node].clone();
        let Node::Step(index) = node else { return (name, json!({})) };
        let origin = &self.graph.step(*index).origin;
        let mut spans: Vec<_> =
            origin.place.iter().chain(&origin.other_places).filter(|(source, _)| source == dockerfile).collect();
        spans.sort_by_key(|(_, span)| std::cmp::Reverse(span.start));
        let ranges = |(source, span): &(Source, crate::diagnostic::Span)| {
            let line = |offset: usize| source.line_column(offset).0;
            let range = |line: usize| json!({"start": {"line": line}, "end": {"line": line}});
            let lines = line(span.start)..=line(span.end.saturating_sub(1).max(span.start));
            json!({"ranges": lines.map(range).collect::<Vec<_>>()})
        };
        let places: Vec<Value> = spans.into_iter().map(ranges).collect();
        (name, if places.is_empty() { json!({}) } else { json!({"locations": places}) })
    }

    /// What the steps ask a context for: sorted paths, or nothing if it is all of it.
    fn paths_of(&self, context: &str) -> Vec<String> {
        let is_asked = |input: StepIndex| matches!(&self.graph.step(input).op, Op::Context(found) if found.name == context);
        let mut paths: Vec<&str> = Vec::new();
        for node in &self.nodes {
            let Node::Step(index) = node else { continue };
            let inputs = self.graph.inputs(*index);
            let reads = |input: usize| inputs.get(input).is_some_and(|input| is_asked(*input));
            match &self.graph.step(*index).op {
                Op::Copy(copy) => paths.extend(copy.sources.iter().filter_map(|source| match source {
                    CopySource::Path { input, pattern } if reads(*input) => Some(pattern.as_str()),
                    _ => None,
                })),
                Op::Exec(exec) => paths.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { input, source, .. } | MountKind::Cache { seed: Some((input, source)), .. }
                        if reads(*input) =>
                    {
                        Some(source.as_str())
                    }
                    _ => None,
                })),
                _ => {}
            }
        }
        if paths.contains(&"/") {
            return Vec::new();
        }
        paths.sort_unstable();
        paths.dedup();
        paths.into_iter().map(|path| path.trim_start_matches('/').to_owned()).collect()
    }

    fn operation(&self, step: &Step, inputs: &Inputs) -> Value {
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
                let mut attributes = Map::new();
                // lists are text in text
                let ignored = self.ignore.filter(|_| context.name == "context").map(Patterns::texts).unwrap_or_default();
                for (name, list) in [("local.excludepatterns", ignored), ("local.followpaths", self.paths_of(&context.name))] {
                    if !list.is_empty() {
                        attributes.insert(name.to_owned(), json!(json!(list).to_string()));
                    }
                }
                attributes.insert("local.sharedkeyhint".to_owned(), json!(context.name));
                operation["Op"]["source"]["attrs"] = Value::Object(attributes);
                operation
            }
            Op::Http(http) => {
                let mut operation = source(http.url.clone());
                operation["Op"]["source"]["attrs"] = json!({"http.filename": http.file_name});
                if let Some(checksum) = &http.checksum {
                    operation["Op"]["source"]["attrs"]["http.checksum"] = json!(checksum);
                }
                operation
            }
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
                let mut root = json!({"dest": "/"});
                set_input(&mut root, inputs.place(0));
                let mounts: Vec<Value> =
                    std::iter::once(root).chain(sorted.iter().filter_map(|described| mount(described, inputs))).collect();
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
                let variables: Vec<Value> = exec.mounts.iter().filter_map(secret_variable).collect();
                if !variables.is_empty() {
                    command["secretenv"] = json!(variables);
                }
                json!({"Op": {"exec": command}, "constraints": {}, "platform": platform(&exec.platform)})
            }
            Op::Copy(copy) => {
                let action = |(number, source): (usize, &CopySource)| {
                    let (mut action, input) = match source {
                        CopySource::Path { input, pattern } => (copied(pattern, &copy.destination), inputs.place(*input)),
                        CopySource::Inline(file) => {
                            (taken(&file.name, &copy.destination), inputs.heredocs.get(&number).copied().unwrap_or(NONE))
                        }
                        CopySource::Download { input } => {
                            (taken(self.file_name(step, *input), &copy.destination), inputs.place(*input))
                        }
                        CopySource::Checkout { input } => (copied("/", &copy.destination), inputs.place(*input)),
                    };
                    match &copy.chmod {
                        None => {}
                        Some(Chmod::Octal(mode)) => action["mode"] = json!(mode),
                        Some(Chmod::Symbolic(clauses)) => {
                            action["modeStr"] = json!(clauses);
                            if let Value::Object(members) = &mut action {
                                members.remove("mode");
                            }
                        }
                    }
                    if let Some(owner) = &copy.chown {
                        action["owner"] = owned(owner);
                    }
                    if matches!(source, CopySource::Path { .. }) {
                        if copy.unpack != Unpack::Never {
                            action["attemptUnpackDockerCompatibility"] = json!(true);
                        }
                        if !copy.excludes.is_empty() {
                            action["exclude_patterns"] = json!(copy.excludes);
                        }
                    }
                    (json!({"copy": action}), input)
                };
                let actions = copy.sources.iter().enumerate().map(action).collect();
                files(actions, inputs.place(0), inputs.names.len())
            }
            Op::Mkdir(mkdir) => {
                let mut made = json!({"path": mkdir.path, "mode": 493, "makeParents": true, "timestamp": -1});
                if !mkdir.user.is_empty() {
                    made["owner"] = owned(&mkdir.user);
                }
                files(vec![(json!({"mkdir": made}), NONE)], inputs.place(0), inputs.names.len())
            }
            Op::Merge => {
                let part = |place: usize| if place == 0 { json!({}) } else { json!({"input": place}) };
                let parts: Vec<Value> = (0..inputs.names.len()).map(part).collect();
                json!({"Op": {"merge": {"inputs": parts}}, "constraints": {}})
            }
            Op::Scratch => json!({"Op": {}, "constraints": {}}),
        }
    }

    /// What the download is called that a copy of `step` reads.
    fn file_name(&self, step: &Step, input: usize) -> &str {
        let copy = self.nodes.iter().find_map(|node| match node {
            Node::Step(index) if self.graph.step(*index).id == step.id => Some(*index),
            _ => None,
        });
        let read = copy.and_then(|copy| self.graph.inputs(copy).get(input).copied());
        match read.map(|read| &self.graph.step(read).op) {
            Some(Op::Http(http)) => &http.file_name,
            _ => "",
        }
    }
}

/// The inputs of a step as BuildKit numbers them: each once, and the empty tree not at all.
struct Inputs {
    names: Vec<String>,
    /// By the number that the step's operation has for it.
    places: Vec<i64>,
    /// Of heredocs, by the number among the sources.
    heredocs: BTreeMap<usize, i64>,
}

const NONE: i64 = -1;

impl Inputs {
    fn new(definition: &Definition, index: StepIndex) -> Inputs {
        let mut names: Vec<String> = Vec::new();
        let mut place = |node: &Node| match definition.names.get(node) {
            None => NONE,
            Some(name) => {
                let known = names.iter().position(|known| known == name);
                let place = known.unwrap_or_else(|| {
                    names.push(name.clone());
                    names.len() - 1
                });
                i64::try_from(place).unwrap_or(NONE)
            }
        };
        let places = definition.graph.inputs(index).into_iter().map(|input| place(&Node::Step(input))).collect();
        let heredocs = heredocs(definition.graph, index)
            .into_iter()
            .filter_map(|node| match node {
                Node::Heredoc(_, number) => Some((number, place(&node))),
                Node::Step(_) => None,
            })
            .collect();
        Inputs { names, places, heredocs }
    }

    fn place(&self, number: usize) -> i64 {
        self.places.get(number).copied().unwrap_or(NONE)
    }
}

/// The heredocs among the sources of a copy.
fn heredocs(graph: &Graph, index: StepIndex) -> Vec<Node> {
    let Op::Copy(copy) = &graph.step(index).op else { return Vec::new() };
    let is_inline = |(_, source): &(usize, &CopySource)| matches!(source, CopySource::Inline(_));
    copy.sources.iter().enumerate().filter(is_inline).map(|(number, _)| Node::Heredoc(index, number)).collect()
}

/// The operation that stands for what `input` gives.
fn result(name: &str, input: &str) -> Value {
    json!({"id": name, "op": {"Op": {}}, "inputs": [format!("{input}:0")]})
}

/// `--chown` and `USER`: a user, and a group if one is named.
fn owned(owner: &str) -> Value {
    let account = |text: &str| match text.parse::<u32>() {
        Ok(id) => json!({"User": {"byId": id}}),
        Err(_) => json!({"User": {"byName": {"name": text}}}),
    };
    match owner.split_once(':') {
        Some((user, group)) => json!({"user": account(user), "group": account(group)}),
        None => json!({"user": account(owner)}),
    }
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

/// The copy of one file that is known by name.
fn taken(name: &str, destination: &str) -> Value {
    json!({"src": format!("/{name}"), "dest": destination, "mode": -1, "createDestPath": true, "timestamp": -1})
}

/// Actions on files, each on what the one before it left, the first on the input at place `below`; beside each, the place of the
/// input that it reads.
fn files(actions: Vec<(Value, i64)>, below: i64, inputs: usize) -> Value {
    let last = actions.len().saturating_sub(1);
    let listed: Vec<Value> = actions
        .into_iter()
        .enumerate()
        .map(|(number, (action, read))| {
            // results of actions are counted on behind the inputs
            let input = if number == 0 { json!(below) } else { json!(inputs + number - 1) };
            let output = if number == last { 0 } else { NONE };
            json!({"Action": action, "input": input, "secondaryInput": read, "output": output})
        })
        .collect();
    json!({"Op": {"file": {"actions": listed}}, "constraints": {}})
}

/// `None` for a secret that is a variable alone.
fn mount(mount: &Mount, inputs: &Inputs) -> Option<Value> {
    let dest = &mount.target;
    Some(match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            let mut bind = json!({"dest": dest, "output": NONE});
            set_input(&mut bind, inputs.place(*input));
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
            let mut cache = json!({"dest": dest, "output": NONE, "mountType": 3, "cacheOpt": options});
            set_input(&mut cache, seed.as_ref().map_or(NONE, |(input, _)| inputs.place(*input)));
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
        MountKind::Secret { file: false, .. } => return None,
        MountKind::Secret { id, required, uid, gid, mode, .. } => {
            let secret = credential(id, *required, *uid, *gid, *mode);
            json!({"dest": dest, "input": NONE, "mountType": 1, "secretOpt": secret})
        }
        MountKind::Ssh { id, required, uid, gid, mode } => {
            let agent = credential(id, *required, *uid, *gid, *mode);
            json!({"dest": dest, "input": NONE, "mountType": 2, "SSHOpt": agent})
        }
    })
}

/// As in all of BuildKit's JSON, a zero is left out.
fn set_input(mount: &mut Value, place: i64) {
    if place != 0 {
        mount["input"] = json!(place);
    }
}

/// What a secret says that is a variable.
fn secret_variable(mount: &Mount) -> Option<Value> {
    let MountKind::Secret { id, required, env: Some(name), .. } = &mount.kind else { return None };
    let mut variable = json!({"ID": id, "name": name});
    if !required {
        variable["optional"] = json!(true);
    }
    Some(variable)
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
