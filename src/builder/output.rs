//! From a finished stack of layers to what the client asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reporter::Reporter;
use super::{BuildError, BuildRequest, BuildResult, ErrorKind, report};
use crate::diagnostic::Diagnostic;
use crate::export::{self, Annotation, Built, BuiltLayer, LayerOrigin, Output};
use crate::image::{Descriptor, DraftHistory, Image, ImageDraft};
use crate::plan::Draft;
use crate::store::Store;
use crate::task;
use crate::worker::{Stack, StackLayer};

/// An image whose layers are in the store.
pub struct BuiltImage {
    /// Config and history, from the plan.
    pub draft: Draft,
    /// Its layers.
    pub stack: Arc<Stack>,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
}

/// What the client wants written.
pub struct Wanted {
    outputs: Vec<Output>,
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
    Ok(Wanted { outputs })
}

/// Writes every output, one after the other.
pub async fn export(
    store: &Store,
    image: BuiltImage,
    wanted: Wanted,
    reporter: &Reporter,
    request: &mut BuildRequest,
) -> Result<BuildResult, BuildError> {
    let now_secs = request.now_secs();
    let built = Arc::new(built(image, request));
    let mut stdout = std::mem::replace(&mut request.stdout, Box::new(std::io::sink()));
    let mut first: Option<Image> = None;
    let mut written = Vec::new();
    for output in wanted.outputs {
        let step = reporter.announce(output.describe().to_owned());
        let (store, built) = (store.clone(), built.clone());
        let (result, back) = task::blocking(move || {
            let result = export::export(&store, &built, &output, now_secs, &mut *stdout);
            (result, stdout)
        })
        .await;
        stdout = back;
        match result {
            Ok(exported) => {
                if let Some(image) = &exported.image {
                    reporter.note(step, format!("exporting manifest {}", image.descriptor.digest));
                    reporter.note(step, format!("exporting config {}", image.config_digest));
                }
                reporter.done(step, None);
                first = first.or(exported.image);
                written.extend(Some(exported.written).filter(|written| !written.is_empty()));
            }
            Err(error) => {
                reporter.failed(step, error.to_string());
                return Err(report::export_error(&error));
            }
        }
    }
    let image = match first {
        Some(image) => image,
        None => export::describe(store, &built).map_err(|error| report::export_error(&error))?,
    };
    Ok(BuildResult {
        config_digest: image.config_digest,
        manifest_media_type: image.descriptor.media_type.clone(),
        manifest_digest: image.descriptor.digest,
        manifest_bytes: image.descriptor.size_bytes,
        names: built.names.clone(),
        written,
        ran_steps: 0,
        cached_steps: 0,
        warnings: Vec::new(),
    })
}

/// Puts plan and layers together. A history item whose step made no layer of this stack has none.
fn built(image: BuiltImage, request: &BuildRequest) -> Built {
    let history = image.draft.history.into_iter().map(|item| DraftHistory {
        created_by: item.created_by,
        comment: item.comment,
        layer: item.layer.is_some(),
    });
    let draft = ImageDraft {
        config: image.draft.config,
        base_history: image.draft.base_history,
        history: history.collect(),
        annotations: BTreeMap::new(),
    };
    let layer = |layer: &StackLayer| BuiltLayer {
        diff_id: layer.diff_id,
        origin: match (&layer.base, layer.created_secs) {
            (Some((base, _)), _) => LayerOrigin::Base(Descriptor::new(&base.media_type, base.digest, base.size_bytes)),
            (None, created_secs) => LayerOrigin::Own { created_secs: created_secs.unwrap_or_default() },
        },
    };
    Built { draft, layers: image.stack.layers.iter().map(layer).collect(), epoch: image.epoch, names: request.tags.clone() }
}
