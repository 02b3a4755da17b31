//! Finding the images that a Dockerfile builds on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::build::{Build, fail_on_errors, internal, unless_canceled};
use super::{BuildError, lock, report};
use crate::diagnostic::{Diagnostic, Pass};
use crate::dockerfile::Dockerfile;
use crate::plan::{self, Base, Bases, ImageLocation, Options, Wanted};
use crate::source::image::{AnsweredBy, PullPolicy, ResolvedImage};
use crate::source::{self, oci_layout::LayoutAddress};

impl Build {
    /// Asks for images until the plans of all platforms want no more.
    pub(super) async fn resolve_images(
        &mut self,
        dockerfile: &Dockerfile,
        variants: &[Options],
        found: &mut Vec<Diagnostic>,
    ) -> Result<Bases, BuildError> {
        let mut bases = Bases::new();
        loop {
            let mut wanted: Vec<Wanted> = Vec::new();
            for options in variants {
                match plan::wanted_images(dockerfile, options, &bases) {
                    Ok(more) => wanted.extend(more),
                    Err(diagnostics) => {
                        found.extend(diagnostics);
                        fail_on_errors(found)?;
                        return Err(internal("no images can be asked for, but there is no error"));
                    }
                }
            }
            if wanted.is_empty() {
                return Ok(bases);
            }
            let mut seen = BTreeSet::new();
            wanted.retain(|wanted| seen.insert(wanted.key.clone()));
            self.refuse_unpinned(|| {
                let is_open = |wanted: &&Wanted| match &wanted.key.image {
                    ImageLocation::Reference(image_ref) => self.lock.image(image_ref).digest.is_none(),
                    ImageLocation::Layout(_) => false,
                };
                wanted.iter().filter(is_open).map(lock::unpinned_image).collect()
            })?;
            let policy = if self.request.pull { PullPolicy::Always } else { PullPolicy::Missing };
            let mut tasks = tokio::task::JoinSet::new();
            for group in by_image(wanted) {
                let mut resolving = Vec::with_capacity(group.len());
                for (place, (number, wanted)) in group.into_iter().enumerate() {
                    let step = self.reporter.announce(format!("[internal] load metadata for {}", describe(&wanted)));
                    let policy = if place == 0 { policy } else { PullPolicy::Missing };
                    resolving.push((number, step, self.resolve(&wanted, policy), wanted));
                }
                tasks.spawn(async move {
                    let mut results = Vec::with_capacity(resolving.len());
                    for (number, step, resolving, wanted) in resolving {
                        results.push((number, step, wanted, resolving.await));
                    }
                    results
                });
            }
            let results = unless_canceled(&self.cancel, async { Ok(tasks.join_all().await.into_iter().flatten()) }).await?;
            let mut errors: Vec<(usize, BuildError)> = Vec::new();
            for (number, step, wanted, result) in results {
                match result {
                    Ok(image) => {
                        self.reporter.done(step, answered(&image, self.now_secs()));
                        let base =
                            Base { name: image.name.clone(), manifest: image.manifest.digest, config: image.config.clone() };
                        let image_ref = match &wanted.key.image {
                            ImageLocation::Reference(image_ref) => Some(self.lock.image(image_ref)),
                            ImageLocation::Layout(_) => None,
                        };
                        self.images.insert(image.manifest.digest, (Arc::new(image), image_ref));
                        bases.insert(wanted.key, base);
                    }
                    Err(error) => {
                        self.reporter.failed(step, error.to_string());
                        errors.push((number, report::wanted_error(&error, &wanted)));
                    }
                }
            }
            errors.sort_by_key(|(number, _)| *number);
            if let Some((_, first)) = errors.first() {
                // what is known without the images is worth knowing
                let early = plan::lower(dockerfile, &variants[0], &Bases::new()).1;
                found.extend(early.into_iter().filter(|finding| finding.rule.is_some_and(|rule| rule.pass < Pass::Bases)));
                let kind = first.kind;
                let diagnostics = errors.into_iter().flat_map(|(_, error)| error.diagnostics).collect();
                return Err(BuildError { kind, diagnostics });
            }
        }
    }

    fn resolve(
        &self,
        wanted: &Wanted,
        policy: PullPolicy,
    ) -> impl Future<Output = Result<ResolvedImage, source::SourceError>> + Send + 'static {
        let (store, client, mut key, now_secs) = (self.store.clone(), self.client.clone(), wanted.key.clone(), self.now_secs());
        if let ImageLocation::Reference(image_ref) = &mut key.image {
            *image_ref = self.lock.image(image_ref);
        }
        async move {
            match &key.image {
                ImageLocation::Reference(image_ref) => {
                    source::image::resolve(&store, &client, image_ref, &key.platform, policy, now_secs).await
                }
                ImageLocation::Layout(text) => {
                    let text = text.strip_prefix("oci-layout://").unwrap_or(text);
                    source::oci_layout::resolve(&store, &LayoutAddress::parse(text)?, &key.platform).await
                }
            }
        }
    }
}

/// Platforms of one image together, each with its number: the first one asks what the name stands for, and the others follow what it
/// was told, so that all are of one index and a registry that counts counts one.
fn by_image(wanted: Vec<Wanted>) -> Vec<Vec<(usize, Wanted)>> {
    let mut groups: Vec<Vec<(usize, Wanted)>> = Vec::new();
    for (number, wanted) in wanted.into_iter().enumerate() {
        match groups.iter_mut().find(|group| group[0].1.key.image == wanted.key.image) {
            Some(group) => group.push((number, wanted)),
            None => groups.push(vec![(number, wanted)]),
        }
    }
    groups
}

fn describe(wanted: &Wanted) -> String {
    match &wanted.key.image {
        ImageLocation::Reference(image_ref) => image_ref.canonical(),
        ImageLocation::Layout(text) => text.clone(),
    }
}

/// Where an image came from, in words.
fn answered(image: &ResolvedImage, now_secs: i64) -> Option<String> {
    match &image.answered_by {
        AnsweredBy::Store { set_secs: Some(set_secs) } => {
            Some(format!("using {} from the store, put there {}", image.name, age(now_secs - set_secs)))
        }
        AnsweredBy::Store { set_secs: None } => Some(format!("using {} from the store", image.name)),
        AnsweredBy::Registry(host) => Some(format!("using {} from {host}", image.name)),
        AnsweredBy::Layout(path) => Some(format!("using {} from {}", image.name, path.display())),
    }
}

fn age(seconds: i64) -> String {
    match seconds {
        ..120 => "just now".to_owned(),
        120..7200 => format!("{} minutes ago", seconds / 60),
        7200..172_800 => format!("{} hours ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
