//! What `--attest` asks for, and the provenance of an image: where it came from and how it was made.
//!
//! Source of the form: SLSA, "Provenance" v1 and v0.2; what of a build stands where: moby/buildkit,
//! `docs/attestations/slsa-definitions.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::definition::Definition;
use super::{BuildRequest, ContextSource, DockerfileSource};
use crate::diagnostic::Source;
use crate::digest::Digest;
use crate::export::attestation::{Claim, package_url};
use crate::graph::{Graph, Op, StepIndex};
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

/// How much provenance tells, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// `mode=`.
    pub detail: Detail,
    /// `version=`.
    pub version: Version,
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
    pub parameters: Value,
    /// The Dockerfile.
    pub dockerfile: Source,
    /// How much to tell.
    pub detail: Detail,
}

/// One image's provenance without times: those are known at the end.
#[derive(Debug, Clone)]
pub struct Told {
    materials: Vec<Value>,
    parameters: Value,
    environment: Value,
    config: Option<Value>,
    /// What BuildKit adds to the form, apart from times.
    metadata: Value,
    detail: Detail,
    entry_point: String,
}

const DOCKERFILE_VERSION: &str = concat!("croze-", env!("CARGO_PKG_VERSION"));

impl Story<'_> {
    /// The provenance of the image with `target` as its tree.
    pub fn told(&self, target: StepIndex) -> Told {
        let (graph, detail) = (self.graph, self.detail);
        let steps = graph.needed(&[target]);
        let mut materials: Vec<Value> = steps.iter().filter_map(|index| self.material(&graph.step(*index).op)).collect();
        materials.sort_by_key(Value::to_string);
        materials.dedup();
        let environment = json!({"dockerfileVersion": DOCKERFILE_VERSION, "platform": Platform::host().to_string()});
        let definition = Definition::new(graph, &steps);
        let config = (detail == Detail::Max).then(|| definition.operations());
        let metadata = match detail {
            Detail::Min => json!({}),
            Detail::Max => json!({"source": definition.source(&self.dockerfile)}),
        };
        let (parameters, entry_point) = (self.parameters.clone(), self.dockerfile.name().to_owned());
        Told { materials, parameters, environment, config, metadata, detail, entry_point }
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

/// What the client asked for, as far as `detail` lets it be known.
pub fn parameters(request: &BuildRequest, detail: Detail) -> Value {
    let mut parameters = Map::new();
    parameters.insert("frontend".into(), json!("dockerfile.v0"));
    if detail == Detail::Max {
        let mut args: BTreeMap<String, &str> = BTreeMap::new();
        args.extend(request.build_args.iter().map(|(name, value)| (format!("build-arg:{name}"), value.as_str())));
        args.extend(request.labels.iter().map(|(name, value)| (format!("label:{name}"), value.as_str())));
        args.extend(request.target.as_ref().map(|target| ("target".to_owned(), target.as_str())));
        if !args.is_empty() {
            parameters.insert("args".into(), json!(args));
        }
        let ids = |ids: Vec<&String>| ids.into_iter().map(|id| json!({"id": id, "optional": true})).collect::<Vec<_>>();
        let secrets = ids(request.secrets.iter().map(|secret| &secret.id).collect());
        if !secrets.is_empty() {
            parameters.insert("secrets".into(), json!(secrets));
        }
        let ssh = ids(request.ssh.iter().map(|agent| &agent.id).collect());
        if !ssh.is_empty() {
            parameters.insert("ssh".into(), json!(ssh));
        }
    }
    let mut locals = Vec::new();
    if matches!(request.context, ContextSource::Directory(_)) {
        locals.push(json!({"name": "context"}));
    }
    if matches!(request.dockerfile, DockerfileSource::Default | DockerfileSource::File(_)) {
        locals.push(json!({"name": "dockerfile"}));
    }
    if !locals.is_empty() {
        parameters.insert("locals".into(), json!(locals));
    }
    Value::Object(parameters)
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
    pub fn claim(&self, version: Version, run: &Run) -> Claim {
        let (predicate_type, predicate) = match version {
            Version::V1 => ("https://slsa.dev/provenance/v1", self.v1(run)),
            Version::V02 => ("https://slsa.dev/provenance/v0.2", self.v02(Some(run))),
        };
        Claim {
            predicate_type: predicate_type.to_owned(),
            file_name: "provenance.json".to_owned(),
            predicate,
            subjects: Vec::new(),
        }
    }

    /// What `--metadata-file` has of it: v0.2 without the run.
    pub fn for_metadata(&self) -> Value {
        self.v02(None)
    }

    fn v1(&self, run: &Run) -> Value {
        let mut internal = Map::new();
        internal.insert("builderPlatform".into(), self.environment["platform"].clone());
        internal.insert("dockerfileVersion".into(), self.environment["dockerfileVersion"].clone());
        internal.extend(self.config.clone().map(|config| ("buildConfig".to_owned(), config)));
        json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": {"path": self.entry_point}, "request": self.parameters},
                "internalParameters": internal,
                "resolvedDependencies": self.materials,
            },
            "runDetails": {
                "builder": {"id": ""},
                "metadata": {
                    "invocationId": run.id,
                    "startedOn": run.started,
                    "finishedOn": run.finished,
                    "buildkit_metadata": self.metadata,
                    "buildkit_completeness": {"request": self.detail == Detail::Max, "resolvedDependencies": false},
                },
            },
        })
    }

    fn v02(&self, run: Option<&Run>) -> Value {
        let mut predicate = json!({
            "builder": {"id": ""},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": self.materials,
            "invocation": {
                "configSource": {"entryPoint": self.entry_point},
                "parameters": self.parameters,
                "environment": self.environment,
            },
        });
        if let Some(run) = run {
            predicate["metadata"] = json!({
                "buildInvocationID": run.id,
                "buildStartedOn": run.started,
                "buildFinishedOn": run.finished,
                "completeness": {"parameters": self.detail == Detail::Max, "environment": true, "materials": false},
                "reproducible": false,
                "https://mobyproject.org/buildkit@v1#metadata": self.metadata,
            });
            if let Some(config) = &self.config {
                predicate["buildConfig"] = config.clone();
            }
        }
        predicate
    }
}
