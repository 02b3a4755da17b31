//! From a finished stack of layers to what the client asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::attest::{Provenance, Reach};
use super::deliver::Delivered;
use super::reporter::Reporter;
use super::{BuildError, BuildRequest, BuildResult, Entitlement, ErrorKind, ExportedImage, report};
use crate::diagnostic::Diagnostic;
use crate::digest::Digest;
use crate::event::StepNumber;
use crate::export::output::{Push, Scope};
use crate::export::{
    self, Annotation, Artifact, Built, BuiltImage, BuiltLayer, Claim, Destination, ExportError, Form, LayerOrigin, Output,
    OutputKind, Stale, Whereabouts,
};
use crate::image::{Descriptor, Dialect, DraftHistory, ImageDraft};
use crate::layer;
use crate::plan::Draft;
use crate::reference::ImageRef;
use crate::registry::Client;
use crate::store::Store;
use crate::task;
use crate::travel::Imports;
use crate::worker::{Stack, StackLayer};

/// Images whose layers are in the store.
pub struct Product {
    /// Config and history from the plan, and layers; in the order of the platforms.
    pub images: Vec<ProductImage>,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    /// Where layers may be that the store does not have.
    pub imports: Arc<Imports>,
    /// What is where the image goes, and not here.
    pub delivered: Delivered,
}

/// The image for one platform.
pub struct ProductImage {
    /// Config and history, from the plan.
    pub draft: Draft,
    /// Its layers.
    pub stack: Arc<Stack>,
    /// What is said of it.
    pub claims: Vec<Claim>,
    /// Its provenance as the metadata file has it.
    pub provenance: serde_json::Value,
}

/// What the client wants written.
pub struct Wanted {
    outputs: Vec<Output>,
}

impl Wanted {
    /// Whether any output needs the files or blobs of the image.
    pub fn any(&self) -> bool {
        self.outputs.iter().any(|output| output.kind != OutputKind::Nothing)
    }

    /// Every form in which an output will want the layers that the build makes, once. `epoch` is the build's.
    pub fn forms(&self, epoch: Option<i64>) -> Vec<layer::Form> {
        let mut forms = Vec::new();
        for form in self.outputs.iter().filter_map(|output| output.form(epoch)) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    }

    /// Where the image is pushed, by each name, if pushes are all that is wanted and take blobs as they come. `tags` are the
    /// build's names, `epoch` is its own.
    pub fn push_targets(&self, tags: &[ImageRef], epoch: Option<i64>) -> Option<Vec<PushTarget>> {
        let mut targets = Vec::new();
        for output in self.outputs.iter().filter(|output| output.kind != OutputKind::Nothing) {
            let push = output.push.filter(|_| output.layers.scope == Scope::Own)?;
            let form = output.form(epoch)?;
            let names = if tags.is_empty() { &output.names } else { tags };
            targets.extend(names.iter().map(|name| PushTarget { name: name.clone(), insecure: push.insecure, form }));
        }
        Some(targets)
    }

    /// Whether an output writes blobs as they are, rather than handing them to a registry.
    pub fn write_blobs_here(&self) -> bool {
        self.outputs.iter().any(|output| output.push.is_none() && output.form(None).is_some())
    }

    /// Whether an output writes the files themselves.
    pub fn want_files(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output.kind, OutputKind::Files(_) | OutputKind::FilesArchive(_)))
    }
}

/// A name that an image is pushed by.
pub struct PushTarget {
    /// The name.
    pub name: ImageRef,
    /// `registry.insecure=`.
    pub insecure: bool,
    /// How the push wants the layers that the build made.
    pub form: layer::Form,
}

impl PushTarget {
    /// Host and repository.
    pub fn repository(&self) -> (&str, &str) {
        (&self.name.host, &self.name.repository)
    }
}

/// Reads `-o` and `--annotation`, so that mistakes in them are told before anything runs.
pub fn parse(request: &BuildRequest) -> Result<Wanted, BuildError> {
    let usage = |message: String| BuildError {
        kind: ErrorKind::Usage,
        diagnostics: vec![Diagnostic::error_without_place("bad-output", message)],
    };
    let mut annotations: Vec<Annotation> = Vec::new();
    for text in &request.annotations {
        annotations.extend(Annotation::parse_flag(text).map_err(|error| usage(error.to_string()))?);
    }
    let mut outputs = Vec::new();
    for text in &request.outputs {
        outputs.push(Output::parse(text).map_err(|error| usage(error.to_string()))?);
    }
    if outputs.is_empty() {
        outputs.push(Output::store());
    }
    for output in &mut outputs {
        output.annotations.extend(annotations.iter().cloned());
    }
    if let Some(reason) = contradiction(&outputs, request) {
        return Err(usage(reason));
    }
    // in the metadata file, an image that is no archive goes by the names that people gave it
    for output in &mut outputs {
        if output.kind != OutputKind::Image || request.outputs.is_empty() {
            output.names_as_written.clear();
        } else if !request.tags.is_empty() {
            output.names_as_written.clone_from(&request.tags_as_written);
        }
    }
    let nameless = |output: &Output| output.push.is_some() && output.names.is_empty() && request.tags.is_empty();
    if outputs.iter().any(nameless) {
        return Err(usage("a push needs a name: `-t HOST/REPOSITORY:TAG`, or `name=` in the output".to_owned()));
    }
    refuse_deleting(&outputs, request)?;
    Ok(Wanted { outputs })
}

/// Why these outputs cannot all be written for what is built.
fn contradiction(outputs: &[Output], request: &BuildRequest) -> Option<String> {
    let form = request.form();
    let asked = &request.attestations;
    for (number, output) in outputs.iter().enumerate() {
        let is_taken = |provenance: &Provenance| provenance.reach == Reach::Everywhere || output.takes == Reach::Inline;
        let attested = asked.sbom.is_some() || asked.provenance.as_ref().is_some_and(is_taken);
        let destination = output.destination();
        if destination.is_some() && outputs[..number].iter().any(|other| other.destination() == destination) {
            return Some(match destination {
                Some(Destination::File(path)) => format!("two outputs go to `{}`; give each a place of its own", path.display()),
                _ => "two outputs go to standard output; give one of them `dest=FILE`".to_owned(),
            });
        }
        match form {
            Form::Manifest if attested && matches!(output.kind, OutputKind::DockerArchive(_) | OutputKind::Load) => {
                return Some("`type=docker` holds no attestations; write `type=oci`, or leave them out".to_owned());
            }
            Form::Index if matches!(output.kind, OutputKind::DockerArchive(_) | OutputKind::Load) => {
                return Some("`type=docker` holds one platform; write `type=oci`, or build for one platform".to_owned());
            }
            Form::Manifest if !attested && output.annotations.iter().any(|annotation| annotation.place.is_of_index()) => {
                let text = "annotations of an index need an image that has one: build for several platforms";
                return Some(text.to_owned());
            }
            _ => {}
        }
    }
    None
}

/// `mode=delete` into a directory that is not below the working directory is a slip that costs files: it takes a word more, as
/// with buildx.
fn refuse_deleting(outputs: &[Output], request: &BuildRequest) -> Result<(), BuildError> {
    if request.allow.contains(&Entitlement::LocalDelete) {
        return Ok(());
    }
    for output in outputs {
        if let (OutputKind::Files(path), Stale::Delete) = (&output.kind, output.files.stale)
            && !is_below_working_directory(path)
        {
            let message = format!("`mode=delete` would delete files in `{}`", path.display());
            let diagnostic = Diagnostic::error_without_place("entitlement", message)
                .note("the directory is not below the working directory")
                .help("pass `--allow buildx.local.delete` if that is meant");
            return Err(BuildError { kind: ErrorKind::Policy, diagnostics: vec![diagnostic] });
        }
    }
    Ok(())
}

/// Links are followed as far as the path exists.
fn is_below_working_directory(path: &Path) -> bool {
    let Ok(here) = std::env::current_dir().and_then(|here| here.canonicalize()) else { return false };
    let absolute = here.join(path);
    let existing = absolute.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let Some((ancestor, real)) = existing else { return false };
    let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
    let climbs = rest.components().any(|component| component == std::path::Component::ParentDir);
    let real = real.join(rest);
    !climbs && real != here && real.starts_with(&here)
}

/// Writes every output, one after the other.
pub async fn export(
    (store, client): (&Store, &Client),
    product: Product,
    wanted: Wanted,
    reporter: &Reporter,
    request: &mut BuildRequest,
) -> Result<BuildResult, BuildError> {
    let now_secs = request.now_secs();
    let provenance = product.images.iter().map(|image| (image.draft.config.platform(), image.provenance.clone())).collect();
    let whereabouts = Whereabouts {
        origins: product.images.iter().flat_map(|image| origins(&image.stack)).collect(),
        delivered: product.delivered.values().map(|blob| blob.digest).collect(),
    };
    let built = Arc::new(built(product, request));
    let mut stdout = std::mem::replace(&mut request.stdout, Box::new(std::io::sink()));
    // of several outputs the last one is told of
    let mut last: Option<(Artifact, ExportedImage)> = None;
    let mut written = Vec::new();
    let mut named: Vec<ImageRef> = built.names.clone();
    let wants_nothing = wanted.outputs.iter().all(|output| output.kind == OutputKind::Nothing);
    for output in wanted.outputs {
        let step = reporter.announce(output.describe().to_owned());
        let names = if built.names.is_empty() { output.names.clone() } else { built.names.clone() };
        let (push, mut told_names) = (output.push, output.names_as_written.clone());
        if named.is_empty() {
            named.clone_from(&names);
        }
        if told_names.is_empty() {
            told_names = names.iter().map(ImageRef::canonical).collect();
        }
        let (blocking_store, blocking_built) = (store.clone(), built.clone());
        let (result, back) = task::blocking(move || {
            let result = export::export(&blocking_store, &blocking_built, &output, now_secs, &mut *stdout);
            (result, stdout)
        })
        .await;
        stdout = back;
        match result {
            Ok(exported) => {
                for image in exported.artifact.iter().flat_map(|artifact| &artifact.images) {
                    reporter.note(step, format!("exporting manifest {}", image.descriptor.digest));
                    reporter.note(step, format!("exporting config {}", image.config_digest));
                }
                if let Some(Artifact { root, index: Some(_), .. }) = &exported.artifact {
                    reporter.note(step, format!("exporting manifest list {}", root.digest));
                }
                if let (Some(push), Some(artifact)) = (push, &exported.artifact) {
                    let place = Place { store, client, names: &names, whereabouts: &whereabouts };
                    if let Err(error) = place.send(push, &artifact.root, reporter, step).await {
                        reporter.failed(step, error.to_string());
                        return Err(report::export_error(&error));
                    }
                }
                reporter.done(step, None);
                if let (Some(artifact), Some(listed)) = (exported.artifact, exported.listed) {
                    let config_digest = artifact.config_digest();
                    last = Some((artifact, ExportedImage { listed, config_digest, names: told_names }));
                }
                written.extend(Some(exported.written).filter(|written| !written.is_empty()));
            }
            Err(error) => {
                reporter.failed(step, error.to_string());
                return Err(report::export_error(&error));
            }
        }
    }
    let (image_id, exported) = match last {
        Some((artifact, exported)) => (Some(artifact.image_id()), Some(exported)),
        None if wants_nothing => (None, None),
        None => {
            let described = export::describe(store, &built).map_err(|error| report::export_error(&error))?;
            (Some(described.image_id()), None)
        }
    };
    Ok(BuildResult { image_id, exported, provenance, names: named, written, ran_steps: 0, cached_steps: 0, warnings: Vec::new() })
}

/// Where a finished image is pushed.
struct Place<'a> {
    store: &'a Store,
    client: &'a Client,
    names: &'a [ImageRef],
    whereabouts: &'a Whereabouts,
}

impl Place<'_> {
    /// Pushes the image, telling so in BuildKit's words.
    async fn send(&self, push: Push, root: &Descriptor, reporter: &Reporter, step: StepNumber) -> Result<(), ExportError> {
        reporter.note(step, "pushing layers".to_owned());
        let client = match push.insecure {
            true => self.names.iter().fold(self.client.clone(), |client, name| client.insecure(&name.host)),
            false => self.client.clone(),
        };
        let pushed = export::push(self.store, &client, root, self.names, push.by, self.whereabouts.clone()).await?;
        for name in pushed.names {
            reporter.note(step, format!("pushing manifest for {name}"));
        }
        Ok(())
    }
}

/// The images that the layers of `stack` came with, by the digests of their blobs.
fn origins(stack: &Stack) -> impl Iterator<Item = (Digest, ImageRef)> {
    let origin = |layer: &StackLayer| {
        let (base, image) = layer.base.as_ref()?;
        // an image out of a layout has a path for a name
        Some((base.digest, image.name.parse().ok()?))
    };
    stack.layers().iter().filter_map(origin)
}

/// Puts plan and layers together. A history item whose step made no layer of this stack has none.
fn built(product: Product, request: &BuildRequest) -> Built {
    let Product { images, imports, delivered, .. } = &product;
    let images = images.iter().map(|image| built_image(image, imports, delivered)).collect();
    Built { images, form: request.form(), epoch: product.epoch, names: request.tags.clone() }
}

fn built_image(image: &ProductImage, imports: &Imports, delivered: &Delivered) -> BuiltImage {
    let ProductImage { draft, stack, claims, .. } = image;
    let draft = draft.clone();
    let history = draft.history.into_iter().map(|item| DraftHistory {
        created_by: item.created_by,
        comment: item.comment,
        layer: item.layer.is_some(),
    });
    let draft = ImageDraft {
        config: draft.config,
        base_history: draft.base_history,
        history: history.collect(),
        annotations: BTreeMap::new(),
        dialect: Dialect::Oci,
    };
    let layer = |layer: &StackLayer| BuiltLayer {
        diff_id: layer.diff_id,
        delivered: delivered.get(&layer.diff_id).cloned(),
        origin: match (&layer.base, layer.created_secs) {
            (Some((base, _)), _) => LayerOrigin::Base(Descriptor::new(&base.media_type, base.digest, base.size_bytes)),
            (None, created_secs) => {
                LayerOrigin::Own { created_secs: created_secs.unwrap_or_default(), tar_bytes: imports.tar_bytes(&layer.diff_id) }
            }
        },
    };
    BuiltImage { draft, layers: stack.layers().iter().map(layer).collect(), claims: claims.clone() }
}
