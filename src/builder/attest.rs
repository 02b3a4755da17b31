//! What `--attest` asks for, and the provenance of an image: where it came from and how it was made.
//!
//! Source of the form: SLSA, "Provenance" v1 and v0.2; what of a build stands where: moby/buildkit,
//! `docs/attestations/slsa-definitions.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::definition::Definition;
use super::{BuildRequest, ContextSource, DockerfileSource, NamedContextSource};
use crate::diagnostic::Source;
use crate::digest::Digest;
use crate::dockerfile::ignore::Patterns;
pub use crate::export::attestation::Reach;
use crate::export::attestation::{Claim, StepLayers, package_url};
use crate::graph::{Graph, MountKind, Network, Op, StepIndex};
use crate::reference::{ImageRef, Platform};
use crate::worker::Sources;

/// `--attest`, `--provenance`, `--sbom`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attestations {
    /// How the image was made.
    pub provenance: Option<Provenance>,
    /// What is in the image.
    pub sbom: Option<Sbom>,
}

/// Who finds out what is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sbom {
    /// This program.
    BuiltIn,
    /// An image that does.
    Scanner(Scanner),
}

/// `generator=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanner {
    /// The image.
    pub image: ImageRef,
    /// What else was said: it gets them as variables `BUILDKIT_SCAN_…`.
    pub parameters: BTreeMap<String, String>,
}

impl Attestations {
    /// Whether any is asked for.
    pub fn any(&self) -> bool {
        self.provenance.is_some() || self.sbom.is_some()
    }
}

/// How much provenance tells, in which form, and what the client vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// `mode=`.
    pub detail: Detail,
    /// `version=`.
    pub version: Version,
    /// `builder-id=`.
    pub builder_id: String,
    /// `reproducible=`: what the client says of this build.
    pub reproducible: bool,
    /// `filename=`.
    pub file_name: String,
    /// `inline-only=`.
    pub reach: Reach,
}

impl Default for Provenance {
    fn default() -> Provenance {
        Provenance {
            detail: Detail::Min,
            version: Version::V1,
            builder_id: String::new(),
            reproducible: false,
            file_name: "provenance.json".to_owned(),
            reach: Reach::Everywhere,
        }
    }
}

/// `mode=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Sources alone: nothing that a build argument could give away.
    Min,
    /// Arguments, every step, the Dockerfile.
    Max,
}

/// `version=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// SLSA v1.
    V1,
    /// SLSA v0.2.
    V02,
}

/// What provenance tells of all images of a build.
pub struct Story<'a> {
    /// The steps.
    pub graph: &'a Graph,
    /// What the names of sources stood for.
    pub sources: &'a Sources,
    /// What [`parameters`] gave.
    pub parameters: Parameters,
    /// The Dockerfile.
    pub dockerfile: Source,
    /// What the main context leaves out.
    pub ignore: Option<&'a Patterns>,
    /// What was asked for.
    pub asked: Provenance,
}

/// One image's provenance without times: those are known at the end.
#[derive(Debug, Clone)]
pub struct Told {
    asked: Provenance,
    materials: Vec<Value>,
    parameters: Parameters,
    environment: Value,
    config: Option<Value>,
    /// What BuildKit adds to the form, apart from times.
    metadata: Value,
    layers: BTreeMap<String, Range<usize>>,
    completeness: Completeness,
    entry_point: String,
}

/// What a statement can vouch for.
#[derive(Debug, Clone, Copy)]
struct Completeness {
    /// All that was asked for is told.
    request: bool,
    /// All sources are known by their digests: there are none on the client's disk.
    materials: bool,
    /// Beyond that, no command could reach a network.
    hermetic: bool,
}

const DOCKERFILE_VERSION: &str = concat!("croze-", env!("CARGO_PKG_VERSION"));

impl Story<'_> {
    /// The provenance of the image with `target` as its tree, which has so many layers.
    pub fn told(&self, target: StepIndex, layers: usize) -> Told {
        let (graph, detail) = (self.graph, self.asked.detail);
        let steps = graph.needed(&[target]);
        let ops = || steps.iter().map(|index| &graph.step(*index).op);
        let mut materials: Vec<Value> = ops().filter_map(|op| self.material(op)).collect();
        materials.extend(self.parameters.source.iter().map(|(uri, digest)| json!({"uri": uri, "digest": digest})));
        materials.sort_by_key(Value::to_string);
        materials.dedup();
        let mut parameters = self.parameters.clone();
        let contexts = ops().filter_map(|op| match op {
            Op::Context(context) => Some(context.name.clone()),
            _ => None,
        });
        parameters.locals.extend(contexts.filter(|name| !parameters.remote.contains(name)));
        if detail == Detail::Max {
            parameters.note_credentials(ops());
        }
        let is_offline = |op: &Op| !matches!(op, Op::Exec(exec) if exec.network != Network::None);
        let complete = parameters.locals.is_empty();
        let completeness = Completeness {
            request: detail == Detail::Max || !parameters.keeps_back,
            materials: complete,
            hermetic: complete && ops().all(is_offline),
        };
        let environment = json!({"dockerfileVersion": DOCKERFILE_VERSION, "platform": Platform::host().to_string()});
        let definition = Definition::new(graph, &steps, self.ignore);
        let (config, metadata, layers) = match detail {
            Detail::Min => (None, json!({}), BTreeMap::new()),
            Detail::Max => {
                let source = definition.source(&self.dockerfile);
                (Some(definition.operations()), json!({"source": source}), definition.layers(layers))
            }
        };
        let (asked, entry_point) = (self.asked.clone(), self.dockerfile.name().to_owned());
        Told { asked, materials, parameters, environment, config, metadata, layers, completeness, entry_point }
    }

    fn material(&self, op: &Op) -> Option<Value> {
        match op {
            Op::Image(image) => {
                let name: ImageRef = image.name.parse().ok()?;
                let digest = self.sources.images.get(&name_alone(&name)).copied().unwrap_or(image.manifest);
                Some(json!({"uri": package_url(&name, Some(&image.platform)), "digest": {"sha256": digest.hex()}}))
            }
            Op::Http(http) => {
                let digest = http
                    .checksum
                    .or_else(|| self.sources.urls.get(&http.url).copied())
                    .map(|digest| json!({"sha256": digest.hex()}));
                Some(json!({"uri": http.url, "digest": digest.unwrap_or_else(|| json!({}))}))
            }
            Op::Git(git) => {
                let key = (git.remote.clone(), git.reference.clone());
                let commit = self.sources.commits.get(&key).or(git.checksum.as_ref()).map(|commit| json!({"sha1": commit}));
                let reference = if git.reference.is_empty() { String::new() } else { format!("#{}", git.reference) };
                Some(json!({"uri": format!("{}{reference}", git.remote), "digest": commit.unwrap_or_else(|| json!({}))}))
            }
            _ => None,
        }
    }
}

/// The canonical name without a digest.
pub fn name_alone(name: &ImageRef) -> String {
    ImageRef { digest: None, ..name.clone() }.canonical()
}

/// What the client asked for, as far as it may be known: values of arguments and labels may be secrets.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Where the main context is, if that is elsewhere, and its digest.
    source: Option<(String, Value)>,
    args: BTreeMap<String, String>,
    /// Whether there are arguments that are not told.
    keeps_back: bool,
    /// Names of sources on the client's disk.
    locals: BTreeSet<String>,
    /// Names of contexts that are elsewhere.
    remote: BTreeSet<String>,
    /// Ids, and whether the commands can do without.
    secrets: BTreeMap<String, bool>,
    ssh: BTreeMap<String, bool>,
}

/// See [`Parameters`].
pub fn parameters(request: &BuildRequest) -> Parameters {
    let mut parameters = Parameters::default();
    let mut private: BTreeMap<String, String> = BTreeMap::new();
    private.extend(request.build_args.iter().map(|(name, value)| (format!("build-arg:{name}"), value.clone())));
    private.extend(request.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
    if request.attestations.provenance.as_ref().is_some_and(|asked| asked.detail == Detail::Max) {
        parameters.args.append(&mut private);
    }
    parameters.keeps_back = !private.is_empty();
    parameters.args.extend(request.target.as_ref().map(|target| ("target".to_owned(), target.clone())));
    for (name, source) in &request.named_contexts {
        let written = match source {
            NamedContextSource::Directory(_) => format!("local:{name}"),
            NamedContextSource::Image(image) => format!("docker-image://{}", image.canonical()),
            NamedContextSource::Layout(layout) => format!("oci-layout://{layout}"),
            NamedContextSource::Remote(remote) => without_credentials(remote),
        };
        if !matches!(source, NamedContextSource::Directory(_)) {
            parameters.remote.insert(name.clone());
        }
        parameters.args.insert(format!("context:{name}"), written);
    }
    if let ContextSource::Remote(remote) = &request.context {
        parameters.remote.insert("context".to_owned());
        parameters.source = Some((without_credentials(remote), json!({})));
    }
    // a Dockerfile of a context that is elsewhere is elsewhere too
    let is_local = |source: &DockerfileSource| matches!(source, DockerfileSource::Stream(_));
    if parameters.source.is_none() || is_local(&request.dockerfile) {
        parameters.locals.insert("dockerfile".to_owned());
    }
    parameters
}

/// A URL whose user and password are not told.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, host)) => {
            let user = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
            format!("{scheme}://{user}@{host}{}", &rest[end..])
        }
        None => url.to_owned(),
    }
}

impl Parameters {
    /// What the main context turned out to be: a digest and its algorithm.
    pub fn found(&mut self, digest: Option<(&'static str, String)>) {
        if let (Some((_, known)), Some((algorithm, digest))) = (&mut self.source, digest) {
            *known = json!({algorithm: digest});
        }
    }

    /// `configSource`: the Dockerfile of this name.
    fn config_source(&self, entry_point: &str) -> Value {
        match &self.source {
            Some((uri, digest)) => json!({"uri": uri, "digest": digest, "path": entry_point}),
            None => json!({"path": entry_point}),
        }
    }

    /// Secrets and agents that commands ask for; one that any of them requires is required.
    fn note_credentials<'a>(&mut self, ops: impl Iterator<Item = &'a Op>) {
        for op in ops {
            let Op::Exec(exec) = op else { continue };
            for mount in &exec.mounts {
                let (known, id, required) = match &mount.kind {
                    MountKind::Secret { id, required, .. } => (&mut self.secrets, id, *required),
                    MountKind::Ssh { id, required, .. } => (&mut self.ssh, id, *required),
                    _ => continue,
                };
                let optional = known.entry(id.clone()).or_insert(true);
                *optional &= !required;
            }
        }
    }

    /// `request`, for the Dockerfile of this name.
    fn request(&self, entry_point: &str) -> Value {
        let mut members = Map::new();
        members.insert("frontend".into(), json!("dockerfile.v0"));
        if !self.args.is_empty() {
            members.insert("args".into(), json!(self.args));
        }
        let credential = |(id, optional): (&String, &bool)| match optional {
            true => json!({"id": id, "optional": true}),
            false => json!({"id": id}),
        };
        for (name, all) in [("secrets", &self.secrets), ("ssh", &self.ssh)] {
            if !all.is_empty() {
                members.insert(name.into(), all.iter().map(credential).collect());
            }
        }
        if !self.locals.is_empty() {
            members.insert("locals".into(), self.locals.iter().map(|name| json!({"name": name})).collect());
        }
        // what the client itself has asked for, where that is not all of the above
        if !self.args.is_empty() {
            members
                .insert("root".into(), json!({"configSource": self.config_source(entry_point), "request": {"args": self.args}}));
        }
        Value::Object(members)
    }
}

/// When a build ran, as text, and what tells it from others.
pub struct Run {
    /// RFC 3339.
    pub started: String,
    /// RFC 3339.
    pub finished: String,
    /// Names this run.
    pub id: String,
}

impl Run {
    /// The run of `request` that took `elapsed`. With `SOURCE_DATE_EPOCH` it has that time, so that its statements can be made
    /// again byte by byte.
    pub fn of(request: &BuildRequest, epoch: Option<i64>, elapsed: Duration) -> Run {
        let text = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
        match epoch {
            Some(epoch) => Run { started: text(epoch), finished: text(epoch), id: identity(&epoch.to_string()) },
            None => {
                let started = request.now_secs();
                let finished = started.saturating_add(i64::try_from(elapsed.as_secs()).unwrap_or(0));
                let seed = format!("{:?} {elapsed:?} {}", request.now, std::process::id());
                Run { started: text(started), finished: text(finished), id: identity(&seed) }
            }
        }
    }
}

/// The 25 characters of BuildKit's ids.
fn identity(seed: &str) -> String {
    Digest::of(seed.as_bytes()).hex()[..25].to_owned()
}

impl Told {
    /// The statement's content for an image.
    pub fn claim(&self, run: &Run) -> Claim {
        let (predicate_type, predicate, place): (_, _, &[&str]) = match self.asked.version {
            Version::V1 => ("https://slsa.dev/provenance/v1", self.v1(run), &["runDetails", "metadata", METADATA_V1]),
            Version::V02 => ("https://slsa.dev/provenance/v0.2", self.v02(Some(run)), &["metadata", METADATA_V02]),
        };
        Claim {
            predicate_type: predicate_type.to_owned(),
            file_name: self.asked.file_name.clone(),
            predicate,
            subjects: Vec::new(),
            layers: Some(StepLayers { place, steps: self.layers.clone() }),
            reach: self.asked.reach,
        }
    }

    /// What `--metadata-file` has of it: v0.2 without the run.
    pub fn for_metadata(&self) -> Value {
        self.v02(None)
    }

    fn v1(&self, run: &Run) -> Value {
        let mut internal = Map::new();
        internal.extend(self.config.clone().map(|config| ("buildConfig".to_owned(), config)));
        internal.insert("builderPlatform".into(), self.environment["platform"].clone());
        internal.insert("dockerfileVersion".into(), self.environment["dockerfileVersion"].clone());
        let Completeness { request, materials, hermetic } = self.completeness;
        let mut metadata = json!({
            "invocationId": run.id,
            "startedOn": run.started,
            "finishedOn": run.finished,
            METADATA_V1: self.metadata,
        });
        if hermetic {
            metadata["buildkit_hermetic"] = json!(true);
        }
        metadata["buildkit_completeness"] = json!({"request": request, "resolvedDependencies": materials});
        if self.asked.reproducible {
            metadata["buildkit_reproducible"] = json!(true);
        }
        json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "resolvedDependencies": self.materials,
                "externalParameters": {"configSource": self.parameters.config_source(&self.entry_point), "request": self.parameters.request(&self.entry_point)},
                "internalParameters": internal,
            },
            "runDetails": {"builder": {"id": self.asked.builder_id}, "metadata": metadata},
        })
    }

    fn v02(&self, run: Option<&Run>) -> Value {
        let mut config_source = self.parameters.config_source(&self.entry_point);
        // the older form has another word for it
        config_source["entryPoint"] = config_source["path"].take();
        if let Value::Object(members) = &mut config_source {
            members.remove("path");
        }
        let mut predicate = json!({
            "builder": {"id": self.asked.builder_id},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": self.materials,
            "invocation": {
                "configSource": config_source,
                "parameters": self.parameters.request(&self.entry_point),
                "environment": self.environment,
            },
        });
        if let Some(run) = run {
            if let Some(config) = &self.config {
                predicate["buildConfig"] = config.clone();
            }
            let Completeness { request, materials, hermetic } = self.completeness;
            predicate["metadata"] = json!({
                "buildInvocationID": run.id,
                "buildStartedOn": run.started,
                "buildFinishedOn": run.finished,
                "completeness": {"parameters": request, "environment": true, "materials": materials},
                "reproducible": self.asked.reproducible,
                METADATA_V02: self.metadata,
            });
            if hermetic {
                predicate["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
            }
        }
        predicate
    }
}

/// Where the forms have what is BuildKit's own.
const METADATA_V1: &str = "buildkit_metadata";
const METADATA_V02: &str = "https://mobyproject.org/buildkit@v1#metadata";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_context_is_not_told() {
        assert_eq!(without_credentials("https://me:pass@host/x.git#main"), "https://xxxxx:xxxxx@host/x.git#main");
        assert_eq!(without_credentials("https://token@host/x"), "https://xxxxx@host/x");
        assert_eq!(without_credentials("https://host/a@b"), "https://host/a@b");
        assert_eq!(without_credentials("git@host:x/y.git"), "git@host:x/y.git");
    }
}
