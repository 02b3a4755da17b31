//! What a request means for the plan and for the run.

use std::collections::{BTreeMap, HashMap};

use super::inputs::Inputs;
use super::{BuildRequest, ContextSource, DockerfileSource, Entitlement, NamedContextSource, NoCache};
use crate::cache::Reuse;
use crate::export::Form;
use crate::graph::{Graph, StepIndex};
use crate::plan::{NamedContext, Options, Wish};
use crate::reference::Platform;
use crate::sandbox;

/// What shapes the plan, once per platform; at least one.
pub(super) fn options(request: &BuildRequest, inputs: &Inputs, stages: Wish) -> Vec<Options> {
    let host = Platform::host();
    let named_contexts: BTreeMap<String, NamedContext> = request
        .named_contexts
        .iter()
        .map(|(name, source)| {
            let context = match source {
                NamedContextSource::Directory(_) | NamedContextSource::Remote(_) => NamedContext::Local,
                NamedContextSource::Image(image_ref) => NamedContext::Image(image_ref.clone()),
                NamedContextSource::Layout(text) => NamedContext::Layout(format!("oci-layout://{text}")),
            };
            (name.clone(), context)
        })
        .collect();
    let mut build_args = request.build_args.clone();
    if let Some(epoch) = request.client_env.iter().find(|(name, _)| name == "SOURCE_DATE_EPOCH")
        && !build_args.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH")
    {
        build_args.push(epoch.clone());
    }
    let options = Options {
        build_args,
        epoch_default: None,
        target: request.target.clone(),
        target_platform: host.clone(),
        platform_requested: !request.platforms.is_empty(),
        build_platform: host,
        labels: request.labels.clone(),
        named_contexts,
        network: request.network,
        allow_host_network: request.allow.contains(&Entitlement::NetworkHost),
        allow_insecure: request.allow.contains(&Entitlement::SecurityInsecure),
        extra_hosts: request.extra_hosts.clone(),
        shm_size_bytes: request.shm_size_bytes,
        ulimits: request.ulimits.clone(),
        limits: request.limits,
        has_main_context: !matches!(request.context, ContextSource::Stream(_)),
        ignore: inputs.ignore.clone(),
        stages,
        platform_in_names: request.form() == Form::Index,
    };
    match request.platforms.as_slice() {
        [] => vec![options],
        platforms => {
            let variant = |platform: &Platform| Options { target_platform: platform.clone(), ..options.clone() };
            platforms.iter().map(variant).collect()
        }
    }
}

/// Names what is built, so that a build can be compared with the one before.
pub(super) fn project(request: &BuildRequest) -> String {
    let context = match &request.context {
        ContextSource::Directory(path) => path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string(),
        ContextSource::Stream(_) => "-".to_owned(),
        ContextSource::Remote(remote) => remote.clone(),
    };
    let dockerfile = match &request.dockerfile {
        DockerfileSource::Default => "Dockerfile".to_owned(),
        DockerfileSource::File(path) => path.display().to_string(),
        DockerfileSource::Stream(_) => "-".to_owned(),
        DockerfileSource::Url(url) => url.clone(),
    };
    format!("{context}\0{dockerfile}\0{}", request.target.as_deref().unwrap_or_default())
}

/// The right to `RUN --security=insecure`, if it was given.
pub(super) fn entitled(allow: &[Entitlement]) -> Option<sandbox::Entitled> {
    let names: Vec<&str> =
        allow.iter().filter(|allowed| **allowed == Entitlement::SecurityInsecure).map(|_| sandbox::Entitled::NAME).collect();
    sandbox::Entitled::among(&names)
}

/// The steps whose former results do not count.
pub(super) fn reuse(graph: &Graph, no_cache: &NoCache) -> HashMap<StepIndex, Reuse> {
    let refused = |index: &StepIndex| match no_cache {
        NoCache::Never => false,
        NoCache::All => true,
        NoCache::Stages(stages) => stages.iter().any(|stage| stage.eq_ignore_ascii_case(&graph.step(*index).origin.stage)),
    };
    graph.indices().filter(refused).map(|index| (index, Reuse::Refused)).collect()
}
