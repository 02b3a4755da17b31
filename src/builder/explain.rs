//! What the last build did and why, for `croze explain`.

use super::{BuildError, ErrorKind, report};
use crate::cache::history::{self, StepHistory};
use crate::diagnostic::Diagnostic;
use crate::store::Store;

/// A step, and what its layer was made of.
#[derive(Debug, Clone)]
pub struct LayerStory {
    /// What became of it.
    pub step: StepHistory,
    /// The parts of its key, in order.
    pub parts: Vec<(String, String)>,
}

/// The steps of the last build in this store whose name holds `wanted`, or whose layer's digest begins so; all if it is empty.
///
/// # Errors
/// `Usage` if there are none.
pub fn find(store: &Store, wanted: &str) -> Result<Vec<LayerStory>, BuildError> {
    let usage = |diagnostic| BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] };
    let build = history::load(store, "").map_err(|error| report::store_error(&error))?;
    let Some(build) = build else {
        let diagnostic = Diagnostic::error_without_place("no-history", "nothing was built in this store yet");
        return Err(usage(diagnostic.help("`croze build --explain` tells while it builds")));
    };
    let digest = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let is_digest = digest.len() >= 6 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = |step: &&StepHistory| step.name.contains(wanted) || (is_digest && step.diff_id.0.hex().starts_with(digest));
    let mut found = Vec::new();
    for step in build.steps.iter().filter(fits) {
        let description = history::load_description(store, &step.key).map_err(|error| report::store_error(&error))?;
        let parts = description.map(|description| description.parts).unwrap_or_default();
        found.push(LayerStory { step: step.clone(), parts });
    }
    if found.is_empty() {
        let message = format!("no step or layer of the last build is called `{wanted}`");
        let diagnostic = Diagnostic::error_without_place("no-step", message);
        return Err(usage(diagnostic.help("`croze explain` without a name shows all of them")));
    }
    Ok(found)
}
