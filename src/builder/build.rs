//! The flow of one build, from the client's files to the exported image.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use super::attest::{self, Sbom};
use super::caches::{self, Importing, Leaving};
use super::deliver::Delivered;
use super::inputs::{self, Inputs};
use super::lock::{self, Lock, Locking};
use super::options::{entitled, options, project, reuse};
use super::output::ProductImage;
use super::preflight::Preflight;
use super::remote::Arrived;
use super::report;
use super::reporter::Reporter;
use super::retold::Retold;
use super::sbom;
use super::settings::{self, Settings};
use super::{BuildError, BuildRequest, BuildResult, ErrorKind, NoCache};
use crate::cache::{Cache, history};
use crate::diagnostic::{Diagnostic, Severity, with_causes};
use crate::digest::Digest;
use crate::dockerfile::{self, Dockerfile};
use crate::event::{Event, EventSink, StepNumber};
use crate::export::Claim;
use crate::graph::{Graph, Op, StepIndex};
use crate::layer::LayerLimits;
use crate::plan::{self, Joined, Options, Outline, Wish};
use crate::reference::ImageRef;
use crate::registry::Client;
use crate::schedule::{Failure, Limits, Schedule, Summary, Worker};
use crate::snapshot::View;
use crate::source::image::ResolvedImage;
use crate::source::{self};
use crate::store::Store;
use crate::task;
use crate::travel::{self, Answers, Imports};
use crate::worker::ahead::Ahead;
use crate::worker::{
    Credentials, KeyAgents, LocalWorker, Output, Shared, Shells, Sources, Stack, Strictness, Wanting, WorkError,
};

type Images = HashMap<Digest, (Arc<ResolvedImage>, Option<ImageRef>)>;

/// See [`super::build()`].
pub async fn build(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<BuildResult, BuildError> {
    let outputs = super::output::parse(&request)?;
    let (mut build, inputs) = Build::open(store, request, events, cancel).await?;
    let importing = Importing::begin(&build.request.cache_from, &build.client, &build.reporter);
    let mut planned = build.plan(&inputs, Wish::Target).await.map_err(Refused::into_error)?;
    planned.warnings.sort_by_key(|warning| warning.place.as_ref().map(|(_, span)| span.start));
    refuse_violations(&planned)?;
    if build.request.strictness == Strictness::Strict && !planned.warnings.is_empty() {
        return Err(report::strict_error(planned.warnings));
    }
    build.add_scans(&mut planned.plan).await?;
    let (plan, wanting) = build.refuse_missing(planned.plan, &inputs).await?;
    for warning in &planned.warnings {
        build.reporter.events.event(Event::Warning(Box::new(warning.clone())));
    }
    let cancel = build.cancel.clone();
    let imports = unless_canceled(&cancel, async { Ok(importing.finish(&build.reporter).await) }).await?;
    let Ran { mut product, summary, leaving } = build.run((plan, wanting), inputs, &outputs, imports).await?;
    for image in &mut product.images {
        let config = &mut image.draft.config.rest;
        // a base image's is about the base image
        config.remove(travel::inline::MEMBER);
        if build.request.has_inline_cache() {
            config.insert(travel::inline::MEMBER.to_owned(), leaving.inline().into());
        }
    }
    let exporting = super::output::export((&build.store, &build.client), product, outputs, &build.reporter, &mut build.request);
    let exported = unless_canceled(&cancel, exporting).await?;
    for (number, target) in build.request.cache_to.iter().enumerate() {
        unless_canceled(&cancel, leaving.send(number, target, &build.reporter)).await?;
    }
    caches::tell_transfers(&leaving.imports, &build.reporter);
    let Summary { ran_steps, cached_steps } = summary;
    Ok(BuildResult { ran_steps, cached_steps, warnings: planned.warnings, ..exported })
}

/// See [`super::lock_names`].
pub async fn lock_names(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<PathBuf, BuildError> {
    let wish = if request.target.is_some() { Wish::Target } else { Wish::Every };
    let (mut build, inputs) = Build::open(store, request, events, cancel).await?;
    let planned = build.plan(&inputs, wish).await.map_err(Refused::into_error)?;
    let found = build.ask_sources(&planned.plan).await?;
    build.write_lock(&found)?;
    build.lock_path.ok_or_else(|| internal("a lock file without a path"))
}

/// Gives `work` up when the client wants to stop: for what starts no sandbox, and leaves nothing that can be seen when it ends
/// halfway. Blocking code in it goes on until it ends or the process does.
pub(super) async fn unless_canceled<T>(
    cancel: &watch::Receiver<bool>,
    work: impl Future<Output = Result<T, BuildError>>,
) -> Result<T, BuildError> {
    let mut cancel = cancel.clone();
    tokio::select! {
        result = work => result,
        // an error means that the client is gone and can stop nothing any more; it has to be waited for then
        Ok(_) = cancel.wait_for(|stop| *stop) => Err(interrupted()),
    }
}

fn interrupted() -> BuildError {
    BuildError { kind: ErrorKind::Interrupted, diagnostics: Vec::new() }
}

/// What the phases of a build share.
pub(super) struct Build {
    pub(super) store: Store,
    pub(super) client: Arc<Client>,
    limits: LayerLimits,
    pub(super) reporter: Arc<Reporter>,
    pub(super) request: BuildRequest,
    pub(super) images: Images,
    /// What names stand for, and where that is written.
    pub(super) lock: Lock,
    lock_path: Option<PathBuf>,
    /// What the names of contexts stood for, and when their files changed as far as servers said.
    pub(super) names: Sources,
    pub(super) times: HashMap<String, i64>,
    pub(super) cancel: watch::Receiver<bool>,
    /// What is built, as the history of builds calls it.
    project: String,
    /// What provenance tells of the request.
    parameters: attest::Parameters,
    /// What answers for keys of `--ssh` that are files.
    _key_agents: KeyAgents,
}

/// What the Dockerfile comes to.
pub(super) struct Planned {
    plan: Joined,
    /// What the target can be given; as for the warnings, the first platform speaks for all.
    pub(super) outline: Outline,
    /// Those that people want to read, in the order in which they were found.
    pub(super) warnings: Vec<Diagnostic>,
    /// `# check=error=true`.
    errors_on_violation: bool,
}

impl Refused {
    /// All of it in one report: a warning may be the reason for an error.
    pub(super) fn into_error(self) -> BuildError {
        let Refused { mut warnings, error } = self;
        if error.kind == ErrorKind::Interrupted {
            return error;
        }
        // what an error says of a place needs no warning
        warnings.retain(|warning| !error.diagnostics.iter().any(|error| error.place.is_some() && error.place == warning.place));
        warnings.sort_by_key(|warning| warning.place.as_ref().map(|(_, span)| span.start));
        BuildError { kind: error.kind, diagnostics: warnings.into_iter().chain(error.diagnostics).collect() }
    }
}

impl Planned {
    /// What the build is refused with when findings are errors and there are some.
    pub(super) fn violation(&self) -> Option<String> {
        let rules: BTreeSet<&str> = self.warnings.iter().filter_map(|warning| Some(warning.rule?.name)).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        (self.errors_on_violation && !rules.is_empty()).then(|| format!("lint violation found for rules: {}", rules.join(", ")))
    }
}

/// Why it comes to nothing.
pub(super) struct Refused {
    /// Those that people want to read, in the order in which they were found.
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) error: BuildError,
}

/// What running gave.
struct Ran {
    product: super::output::Product,
    summary: Summary,
    leaving: Leaving,
}

impl Build {
    /// Fetches and opens what the client brought.
    pub(super) async fn open(
        store: Store,
        mut request: BuildRequest,
        events: Arc<dyn EventSink>,
        cancel: watch::Receiver<bool>,
    ) -> Result<(Build, Inputs), BuildError> {
        let lock_path = lock::path(&request);
        if request.locking != Locking::Obey && lock_path.is_none() {
            let message = "`--lock` and `--locked` need a context that is a directory and a Dockerfile that is a file";
            let diagnostics = vec![Diagnostic::error_without_place("lock", message)];
            return Err(BuildError { kind: ErrorKind::Usage, diagnostics });
        }
        let mut lock = match &lock_path {
            Some(path) if request.locking != Locking::Update => Lock::read(path)?,
            _ => Lock::default(),
        };
        if let Locking::Renew(names) = &request.locking {
            names.iter().try_for_each(|name| lock.forget(name))?;
        }
        let project = project(&request);
        if request.no_cache != NoCache::All {
            let (store, project) = (store.clone(), project.clone());
            task::beside(move || history::look_ahead(&store, &project));
        }
        let mut parameters = attest::parameters(&request);
        let key_agents = KeyAgents::serve(&mut request.ssh, &store).map_err(|error| report::key_error(&error))?;
        let Settings { registry, limits } = settings::read(&request.client_env)?;
        let client = Arc::new(super::registry::client(registry, &request.client_env));
        let reporter = Arc::new(Reporter::new(events));
        let fetching = super::remote::fetch(&store, &client, &mut request, &lock);
        let Arrived { files, names, times, main_digest } = unless_canceled(&cancel, fetching).await?;
        parameters.found(main_digest);
        let (request, inputs) = {
            let store = store.clone();
            let opening = task::blocking(move || inputs::open(&store, &mut request, files).map(|inputs| (request, inputs)));
            unless_canceled(&cancel, opening).await?
        };
        let definition = reporter.announce(format!("[internal] load build definition from {}", inputs.dockerfile.name()));
        reporter.done(definition, None);
        if let Some(name) = inputs.ignore.as_ref().and_then(|patterns| patterns.file_name()) {
            let ignore = reporter.announce(format!("[internal] load {name}"));
            reporter.done(ignore, None);
        }
        let build = Build {
            store,
            client,
            limits,
            reporter,
            request,
            images: Images::new(),
            lock,
            lock_path,
            names,
            times,
            cancel,
            project,
            parameters,
            _key_agents: key_agents,
        };
        Ok((build, inputs))
    }

    /// Parses and lowers; resolves images on the way.
    pub(super) async fn plan(&mut self, inputs: &Inputs, stages: Wish) -> Result<Planned, Refused> {
        let (dockerfile, mut found) = dockerfile::parse(&inputs.dockerfile);
        let mut variants = options(&self.request, inputs, stages);
        let checks = plan::check_options(&dockerfile, &variants[0]).map_err(|bad| Refused {
            warnings: Vec::new(),
            error: BuildError { kind: ErrorKind::Usage, diagnostics: vec![*bad] },
        })?;
        let result = match self.settle_epoch(&dockerfile, inputs, &mut variants).await {
            Ok(()) => self.lower(&dockerfile, &variants, &mut found).await,
            Err(error) => Err(error),
        };
        found.retain(|warning| warning.severity == Severity::Warning && dockerfile.reports(warning, &checks));
        let warnings = found;
        match result {
            Ok((plan, outline)) => Ok(Planned { plan, outline, warnings, errors_on_violation: checks.error }),
            Err(error) => Err(Refused { warnings, error }),
        }
    }

    /// Lowers the file, whose problems so far are in `found`; more are added.
    async fn lower(
        &mut self,
        dockerfile: &Dockerfile,
        variants: &[Options],
        found: &mut Vec<Diagnostic>,
    ) -> Result<(Joined, Outline), BuildError> {
        if found.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            let more = plan::mistakes(dockerfile, &variants[0], found);
            found.extend(more);
            fail_on_errors(found)?;
        }
        let bases = self.resolve_images(dockerfile, variants, found).await?;
        let mut plans = Vec::with_capacity(variants.len());
        for (number, options) in variants.iter().enumerate() {
            let (lowered, mut more) = plan::lower(dockerfile, options, &bases);
            // what people should know of the Dockerfile is told once, as BuildKit tells it: for the first platform
            more.retain(|diagnostic| number == 0 || diagnostic.severity == Severity::Error);
            found.extend(more);
            fail_on_errors(found)?;
            plans.push(lowered.ok_or_else(|| internal("the plan has neither a result nor an error"))?);
        }
        let outline = plans[0].outline.clone();
        let plan = plan::join(plans, |op| self.lock.pin(op));
        self.refuse_unpinned(|| plan.steps.iter().filter_map(|index| lock::unpinned_step(plan.graph.step(*index))).collect())?;
        Ok((plan, outline))
    }

    /// Ends the build here if files that steps will ask for are not there. Answers with the secrets and agents that are not, by
    /// the steps that lead to them.
    async fn refuse_missing(&self, plan: Joined, inputs: &Inputs) -> Result<(Joined, Wanting), BuildError> {
        let BuildRequest { secrets, ssh, .. } = &self.request;
        let preflight = Preflight { plan, contexts: inputs.contexts.clone(), secrets: secrets.clone(), ssh: ssh.clone() };
        let (plan, missing) = task::blocking(move || {
            let missing = preflight.missing();
            (preflight.plan, missing)
        })
        .await;
        let refused = |diagnostics| BuildError { kind: ErrorKind::Usage, diagnostics };
        let mut wanting = Wanting::new();
        for (index, diagnostic) in missing.into_errors().map_err(refused)? {
            for step in plan.graph.needed(&[index]) {
                wanting.entry(step).or_default().push(diagnostic.clone());
            }
        }
        Ok((plan, wanting))
    }

    /// Runs the plan and names the layers of the results.
    async fn run(
        &mut self,
        (plan, wanting): (Joined, Wanting),
        inputs: Inputs,
        outputs: &super::output::Wanted,
        imports: Arc<Imports>,
    ) -> Result<Ran, BuildError> {
        let began = Instant::now();
        let asked = self.request.attestations.provenance.clone().unwrap_or_default();
        let parameters = std::mem::take(&mut self.parameters);
        let ignore = inputs.ignore.clone();
        let dockerfile = inputs.dockerfile.clone();
        let images_by_name = self.image_digests();
        let Joined { graph, images, epoch, steps, .. } = plan;
        let mut targets: Vec<StepIndex> = images.iter().map(|image| image.target).collect();
        let graph = Arc::new(graph);
        let numbers: HashMap<StepIndex, StepNumber> = steps
            .iter()
            .filter(|index| !graph.step(**index).origin.name.is_empty())
            .map(|index| (*index, self.reporter.announce(graph.step(*index).origin.name.clone())))
            .collect();
        let mut cache = Cache::new(self.store.clone()).of_project(&self.project);
        if !imports.is_empty() {
            cache = cache.with(imports.clone());
        }
        let events = self.events(&graph, &numbers);
        let mut ahead = Ahead { steps: graph.stacked(&targets), forms: outputs.forms(epoch), ..Ahead::default() };
        targets.extend(images.iter().filter_map(|image| image.scan));
        let told = self.request.leaves_cache().then(|| Arc::new(Mutex::new(Answers::default())));
        let (all_forms, image_forms) = caches::forms(&self.request.cache_to);
        ahead.all_forms = all_forms;
        ahead.forms.extend(image_forms);
        let uploads = caches::uploads(&self.request.cache_to, (&self.store, &self.client), &imports, self.limits);
        let modes = self.request.cache_to.iter().map(|target| target.mode);
        ahead.uploads = modes.zip(&uploads).filter_map(|(mode, uploads)| Some((mode, uploads.clone()?))).collect();
        let contexts: Vec<_> = inputs.contexts.values().cloned().collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            strictness: self.request.strictness,
            store: self.store.clone(),
            cache: cache.clone(),
            imports: imports.clone(),
            told: told.clone(),
            graph: graph.clone(),
            images: std::mem::take(&mut self.images),
            contexts: inputs.contexts,
            client: self.client.clone(),
            limits: self.limits,
            events: events.clone(),
            numbers: numbers.clone(),
            secret_key: self.request.secret_key(),
            secrets: std::mem::take(&mut self.request.secrets),
            ssh: std::mem::take(&mut self.request.ssh),
            wanting,
            proxy_env: self.request.proxies(),
            entitled: entitled(&self.request.allow),
            resources: self.request.resources.clone(),
            cgroup_parent: self.request.cgroup_parent.clone(),
            shells: self.request.on_failure.map(Shells::new).map(Arc::new),
            now_secs: self.now_secs(),
            ahead,
            unread: if outputs.want_files() || self.request.attestations.sbom == Some(Sbom::BuiltIn) {
                HashSet::new()
            } else {
                graph.unread(&steps)
            },
            processors,
            cancel: self.cancel.clone(),
        };
        let mut damaged = HashSet::new();
        let (worker, ran, fetched) = loop {
            let (stop, stopped) = watch::channel(false);
            let shared = Shared { cancel: stopped, ..shared.clone() };
            let worker = Arc::new(LocalWorker::new(shared).map_err(|error| report::step_error(&error, None))?);
            let schedule = Schedule {
                graph: graph.clone(),
                worker: worker.clone(),
                cache: cache.clone(),
                store: self.store.clone(),
                events: events.clone(),
                numbers: numbers.clone(),
                reuse: reuse(&graph, &self.request.no_cache),
                limits: Limits { commands: self.request.max_parallelism, processors },
                cancel: stop,
            };
            let ran = schedule.run(&targets, self.cancel.clone()).await;
            // what no step read is fetched for the outputs
            let fetched = match &ran {
                Ok((stacks, _)) if outputs.any() => {
                    self.provide_layers(&worker, &imports, &stacks[..images.len()], (outputs, epoch)).await
                }
                _ => Ok(Delivered::new()),
            };
            let error = match (&ran, &fetched) {
                (Err(Failure::Step { error, .. }), _) | (_, Err(error)) => Some(error),
                _ => None,
            };
            // what the caches lack or spoil is made here, and so is what was damaged in the store; the steps that have ended are
            // not run again
            let what = match error.filter(|error| !worker.is_final(error)) {
                // it is damaged as soon as it is made: the disk, or our own mistake
                Some(WorkError::LayerDamaged(diff_id)) if !damaged.insert(*diff_id) => break (worker, ran, fetched),
                Some(WorkError::LayerDamaged(_)) => "mending the store",
                Some(_) => "doing without a part of the cache",
                None => break (worker, ran, fetched),
            };
            let step = self.reporter.announce(what.to_owned());
            self.reporter.done(step, error.map(|error| with_causes(error)));
            cache.begin_anew();
        };
        for context in contexts {
            // losing the index costs reading the files again next time, no more
            let _ = context.save_index();
        }
        let ended = if self.request.leaves_cache() { cache.ended_steps() } else { BTreeMap::new() };
        // losing it costs an explanation
        let _ = cache.save_history(self.now_secs());
        let (mut outputs, summary) = ran.map_err(|failure| match failure {
            Failure::Step { index, error } => report::run_error(error, Some(index), &graph),
            Failure::Interrupted => interrupted(),
        })?;
        let delivered = fetched.map_err(|error| match error {
            WorkError::Canceled => interrupted(),
            error => report::run_error(error, None, &graph),
        })?;
        let run = attest::Run::of(&self.request, epoch, began.elapsed());
        let mut built = Vec::with_capacity(images.len());
        let mut sources = Sources { images: images_by_name, ..worker.sources() };
        sources.commits.append(&mut self.names.commits);
        sources.urls.append(&mut self.names.urls);
        self.write_lock(&sources)?;
        let story = attest::Story { graph: &graph, sources: &sources, parameters, dockerfile, ignore: ignore.as_deref(), asked };
        let mut scans = outputs.split_off(images.len()).into_iter();
        for (image, output) in images.into_iter().zip(outputs) {
            let Output::Stack(stack) = output else { return Err(internal("a target is no file system")) };
            let told = story.told(image.target, stack.layers().len());
            let scan = image.scan.and_then(|_| scans.next());
            let claims = self.claims(&worker, &told, (&stack, scan), &run).await?;
            built.push(ProductImage { draft: image.draft, stack, claims, provenance: told.for_metadata() });
        }
        let stacks: Vec<&Stack> = built.iter().map(|image: &ProductImage| &*image.stack).collect();
        let answers = told.map(|told| told.lock().expect("no holder of this lock panics").clone()).unwrap_or_default();
        let leaving = Leaving::of(&cache, (imports.clone(), uploads), (&ended, answers), &graph, &stacks)
            .map_err(|error| report::store_error(&error))?;
        Ok(Ran { product: super::output::Product { images: built, epoch, imports, delivered }, summary, leaving })
    }

    /// Who is told of steps: a build with caches, or in a damaged store, may look at its steps more than once.
    fn events(&self, graph: &Graph, numbers: &HashMap<StepIndex, StepNumber>) -> Arc<dyn EventSink> {
        let names = numbers.iter().map(|(index, number)| (*number, graph.step(*index).origin.name.clone())).collect();
        Arc::new(Retold::new(self.reporter.clone(), names))
    }

    /// Writes the lock file, if that is wanted.
    fn write_lock(&self, found: &Sources) -> Result<(), BuildError> {
        match (&self.request.locking, &self.lock_path) {
            (Locking::Write | Locking::Update | Locking::Renew(_), Some(path)) => self.lock.write(path, found),
            _ => Ok(()),
        }
    }

    /// Asks for every download and git tree of a plan what its name stands for.
    async fn ask_sources(&self, plan: &Joined) -> Result<Sources, BuildError> {
        let mut found = Sources { images: self.image_digests(), ..self.names.clone() };
        let credentials = Credentials(&self.request.secrets);
        for index in &plan.steps {
            let step = plan.graph.step(*index);
            let failed = |error: source::SourceError| report::step_error(&error.into(), Some(step));
            match &step.op {
                Op::Http(http) => {
                    let auth = credentials.http(&http.url);
                    let fetching = source::http::fetch(&self.store, &self.client, &http.url, http.checksum, auth.as_ref());
                    let file = unless_canceled(&self.cancel, async { fetching.await.map_err(failed) }).await?;
                    found.urls.insert(http.url.clone(), file.digest);
                }
                Op::Git(git) => {
                    let access = credentials.git(&git.remote, self.request.default_agent(), self.request.proxies());
                    let asking = async { source::git::resolve(git, &access).await.map_err(failed) };
                    let commit = unless_canceled(&self.cancel, asking).await?;
                    found.commits.insert((git.remote.clone(), git.reference.clone()), commit.id);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// With `--locked`, ends the build here if there is anything that the lock file does not have.
    pub(super) fn refuse_unpinned(&self, unpinned: impl FnOnce() -> Vec<Diagnostic>) -> Result<(), BuildError> {
        let diagnostics = if self.request.locking == Locking::Require { unpinned() } else { Vec::new() };
        if diagnostics.is_empty() { Ok(()) } else { Err(BuildError { kind: ErrorKind::Policy, diagnostics }) }
    }

    /// What the names of images stood for.
    fn image_digests(&self) -> BTreeMap<String, Digest> {
        let digest = |image_ref: &ImageRef| match image_ref.digest {
            Some(digest) => Some(digest),
            // a damaged name was told where it was resolved
            None => self.store.name(image_ref).ok().flatten().map(|record| record.manifest),
        };
        let named = self.images.values().filter_map(|(_, image_ref)| image_ref.as_ref());
        named.filter_map(|image_ref| Some((attest::name_alone(image_ref), digest(image_ref)?))).collect()
    }

    /// What is to be said of an image whose layers are there.
    async fn claims(
        &self,
        worker: &LocalWorker,
        told: &attest::Told,
        (stack, scan): (&Stack, Option<Output>),
        run: &attest::Run,
    ) -> Result<Vec<Claim>, BuildError> {
        let asked = &self.request.attestations;
        let mut claims: Vec<Claim> = asked.provenance.iter().map(|_| told.claim(run)).collect();
        if let Some(scan) = &scan {
            claims.splice(0..0, self.scanned(worker, scan).await?);
        }
        if asked.sbom == Some(Sbom::BuiltIn) {
            let step = self.reporter.announce("scanning the packages of the image".to_owned());
            let trees = worker.trees(stack).await.map_err(|error| report::step_error(&error, None))?;
            let created = run.finished.clone();
            let scanned = task::blocking(move || sbom::claim(&View::new(trees)?, &created)).await;
            claims.insert(0, scanned.map_err(|error| report::environment_error(&error))?);
            self.reporter.done(step, None);
        }
        Ok(claims)
    }

    pub(super) fn now_secs(&self) -> i64 {
        self.request.now_secs()
    }

    pub(super) async fn unless_canceled<T>(&self, work: impl Future<Output = Result<T, BuildError>>) -> Result<T, BuildError> {
        unless_canceled(&self.cancel, work).await
    }
}

/// Takes the errors out, in the order of the file, if there are any.
pub(super) fn fail_on_errors(found: &mut Vec<Diagnostic>) -> Result<(), BuildError> {
    if found.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        let mut diagnostics: Vec<Diagnostic> =
            found.extract_if(.., |diagnostic| diagnostic.severity == Severity::Error).collect();
        diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|(_, span)| span.start));
        let policy = diagnostics.iter().all(|diagnostic| diagnostic.code == "entitlement");
        return Err(BuildError { kind: if policy { ErrorKind::Policy } else { ErrorKind::Usage }, diagnostics });
    }
    Ok(())
}

/// `# check=error=true`: a finding of a build check fails the build before a step runs.
fn refuse_violations(planned: &Planned) -> Result<(), BuildError> {
    let Some(message) = planned.violation() else { return Ok(()) };
    let violation = Diagnostic::error_without_place("lint-violation", message)
        .note("the Dockerfile or a build argument says `check=error=true`")
        .help("mend what the warnings say, or leave a rule out: `# check=skip=Rule;error=true`");
    let diagnostics = planned.warnings.iter().cloned().chain([violation]).collect();
    Err(BuildError { kind: ErrorKind::Usage, diagnostics })
}

pub(super) fn internal(text: &str) -> BuildError {
    BuildError { kind: ErrorKind::Internal, diagnostics: vec![Diagnostic::error_without_place("internal", text)] }
}
