//! Caches elsewhere: read while a build is planned, written while it runs and behind its last step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::reporter::Reporter;
use super::{BuildError, report};
use crate::cache::Cache;
use crate::cache::key::adoption_of;
use crate::diagnostic::with_causes;
use crate::digest::{CacheKey, DiffId};
use crate::event::StepNumber;
use crate::graph::{Graph, Mount, MountKind, Op};
use crate::layer::{Form, LayerLimits};
use crate::registry::Client;
use crate::store::{Store, StoreError};
use crate::travel::config::{Contents, Offer};
use crate::travel::inline;
use crate::travel::{
    self, Answers, CacheSource, CacheTarget, Import, Imports, Mode, OnFailure, Place, Results, Sending, Sent, SentMount,
    TravelError, Uploads,
};
use crate::worker::Stack;

/// Caches that are being read.
pub struct Importing(Vec<(StepNumber, JoinHandle<Result<Import, TravelError>>)>);

impl Importing {
    /// Begins to read all of them.
    pub fn begin(sources: &[CacheSource], client: &Client, reporter: &Reporter) -> Importing {
        let begin = |source: &CacheSource| {
            let place = Place::new(&source.address, client)?;
            let step = reporter.announce(format!("importing cache manifest from {}", place.name()));
            Some((step, tokio::spawn(Import::open(place))))
        };
        Importing(sources.iter().filter_map(begin).collect())
    }

    /// Waits for them. One that cannot be read is none, and a note says why.
    pub async fn finish(self, reporter: &Reporter) -> Arc<Imports> {
        let mut imports = Vec::with_capacity(self.0.len());
        for (step, task) in self.0 {
            match task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
                Ok(import) => {
                    reporter.done(step, Some(format!("it has {}", count(import.results() as u64, "result"))));
                    imports.push(import);
                }
                Err(error) => reporter.done(step, Some(format!("{}; the build goes on without it", with_causes(&error)))),
            }
        }
        Arc::new(Imports::new(imports))
    }
}

/// Says what was brought here from caches, if anything was.
pub fn tell_transfers(imports: &Imports, reporter: &Reporter) {
    let fetched = imports.transfers();
    if fetched.layers + fetched.mounts > 0 {
        let step = reporter.announce("fetching layers from caches".to_owned());
        let mounts = if fetched.mounts > 0 { format!("{}, ", count(fetched.mounts, "cache mount")) } else { String::new() };
        reporter.done(step, Some(format!("{}, {mounts}{}", count(fetched.layers, "layer"), count(fetched.bytes, "byte"))));
    }
}

/// How caches want the layers of all steps, and those of the image alone.
pub fn forms(targets: &[CacheTarget]) -> (Vec<Form>, Vec<Form>) {
    let (all, image): (Vec<&CacheTarget>, Vec<&CacheTarget>) = targets.iter().partition(|target| target.mode == Mode::Max);
    let form = |target: &CacheTarget| Form { encoding: target.encoding, epoch: None };
    let forms = |targets: Vec<&CacheTarget>| {
        let mut forms: Vec<Form> = Vec::new();
        for form in targets.into_iter().map(form) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    };
    (forms(all), forms(image))
}

/// What goes to each of `targets`; `None` for what goes with the image.
pub fn uploads(
    targets: &[CacheTarget],
    (store, client): (&Store, &Client),
    imports: &Arc<Imports>,
    limits: LayerLimits,
) -> Vec<Option<Arc<Uploads>>> {
    let uploads = |target: &CacheTarget| {
        let place = Place::new(&target.address, client)?;
        let sending = Sending::new(store.clone(), imports.clone(), limits, target.clone(), place);
        Some(Arc::new(Uploads::new(sending)))
    };
    targets.iter().map(uploads).collect()
}

/// What a build has to leave in caches.
pub struct Leaving {
    /// Where results came from.
    pub imports: Arc<Imports>,
    /// What is on its way already, by the number of the cache.
    uploads: Vec<Option<Arc<Uploads>>>,
    /// Results of all steps.
    results: Results,
    /// Layers of the images.
    image_layers: Vec<DiffId>,
}

impl Leaving {
    /// Of a build whose steps have ended and whose images are these.
    pub fn of(
        cache: &Cache,
        (imports, uploads): (Arc<Imports>, Vec<Option<Arc<Uploads>>>),
        (ended, answers): (&BTreeMap<CacheKey, DiffId>, Answers),
        graph: &Graph,
        stacks: &[&Stack],
    ) -> Result<Leaving, StoreError> {
        let mut results = Results { answers, mount_ids: mount_ids(graph), ..Results::default() };
        for (key, diff_id) in ended {
            if let Some(record) = cache.record(key)?.filter(|record| record.diff_id == *diff_id) {
                results.records.insert(*key, record);
                results.carried.insert(*diff_id);
                if let Some(adopted_by) = results.answers.memos.get(&adoption_of(key)).map(|digest| CacheKey(*digest))
                    && let Some(record) = cache.record(&adopted_by)?.filter(|record| record.diff_id == *diff_id)
                {
                    results.adoptions.insert(adopted_by, record);
                }
            }
        }
        let image_layers = stacks.iter().flat_map(|stack| stack.diff_ids()).collect();
        Ok(Leaving { imports, uploads, results, image_layers })
    }

    /// The cache as a member of an image's config.
    pub fn inline(&self) -> String {
        let mut contents = Contents { records: self.results.all(), ..Contents::default() };
        for record in contents.records.values() {
            contents.layers.insert(record.diff_id, Offer { blob: None, tar_bytes: 0 });
        }
        inline::write(&contents, self.results.answers.clone())
    }

    /// Writes the cache of this number, which is `target`, and tells so.
    ///
    /// # Errors
    /// It could not be written, unless the target says that this does not matter.
    pub async fn send(&self, number: usize, target: &CacheTarget, reporter: &Reporter) -> Result<(), BuildError> {
        // what goes with the image has gone by now
        let Some(uploads) = self.uploads.get(number).and_then(Option::as_ref) else { return Ok(()) };
        let step = reporter.announce(uploads.describe().to_owned());
        let mut results = self.results.clone();
        if target.mode == Mode::Min {
            results.carried.retain(|diff_id| self.image_layers.contains(diff_id));
        }
        match travel::send(uploads, &results).await {
            Ok(Some(sent)) => {
                tell_sent(&sent, reporter, step);
                reporter.done(step, None);
                Ok(())
            }
            Ok(None) => {
                reporter.done(step, Some("no step has a result to write".to_owned()));
                Ok(())
            }
            Err(error) if target.on_failure == OnFailure::Note => {
                reporter.done(step, Some(format!("{}; ignored, as `ignore-error` says", with_causes(&error))));
                Ok(())
            }
            Err(error) => {
                reporter.failed(step, error.to_string());
                Err(report::travel_error(&error))
            }
        }
    }
}

/// Ids of all cache mounts.
fn mount_ids(graph: &Graph) -> BTreeSet<String> {
    let mounts = graph.indices().filter_map(|index| match &graph.step(index).op {
        Op::Exec(op) => Some(&op.mounts),
        _ => None,
    });
    let id = |mount: &Mount| match &mount.kind {
        MountKind::Cache { id, .. } => Some(id.clone()),
        _ => None,
    };
    mounts.flatten().filter_map(id).collect()
}

fn tell_sent(sent: &Sent, reporter: &Reporter, step: StepNumber) {
    let new = format!("sent {}, {}", count(sent.layers as u64, "layer"), count(sent.bytes, "byte"));
    reporter.note(step, if sent.there > 0 { format!("{new}; {} were there", sent.there) } else { new });
    if sent.mounts > 0 {
        let SentMount { sent_bytes, there_bytes } = sent.of_mounts;
        let mounts = count(sent.mounts as u64, "cache mount");
        reporter.note(step, format!("{mounts}: sent {}; {there_bytes} were there", count(sent_bytes, "byte")));
    }
    reporter.note(step, format!("writing cache manifest {} of {}", sent.root, count(sent.results as u64, "result")));
}

/// `1 layer`, `2 layers`.
fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
