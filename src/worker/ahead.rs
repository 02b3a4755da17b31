//! Which layers are compressed, and sent to caches, before an output asks for them.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Shared, Task, WorkError};
use crate::digest::DiffId;
use crate::graph::StepIndex;
use crate::layer::Form;
use crate::travel::{Mode, Uploads};

/// What the outputs of a build will ask for.
#[derive(Clone, Default)]
pub struct Ahead {
    /// The steps whose layers the build's images have.
    pub steps: HashSet<StepIndex>,
    /// How the outputs want these layers.
    pub forms: Vec<Form>,
    /// How caches want the layers of all steps.
    pub all_forms: Vec<Form>,
    /// Caches that layers are sent to as soon as their steps have ended.
    pub uploads: Vec<(Mode, Arc<Uploads>)>,
}

impl Ahead {
    /// Sends the layer of a step that has ended to those who want it.
    pub(super) fn send(&self, index: StepIndex, diff_id: DiffId) {
        for (mode, uploads) in &self.uploads {
            if *mode == Mode::Max || self.steps.contains(&index) {
                uploads.begin(diff_id);
            }
        }
    }
}

impl Shared {
    /// The forms in which outputs will want the layer that `task` is about to make. None that the layer of its last run has:
    /// a step that runs again, uncached, most often makes the same.
    pub(super) fn forms_ahead(&self, task: &Task) -> Result<Vec<Form>, WorkError> {
        let Ahead { steps, forms, all_forms, .. } = &self.ahead;
        let mut wanted = all_forms.clone();
        if steps.contains(&task.index) {
            wanted.extend(forms.iter().filter(|form| !all_forms.contains(form)));
        }
        if wanted.is_empty() {
            return Ok(wanted);
        }
        if let Some(former) = self.store.record(&task.key)? {
            for form in wanted.clone() {
                if form.is_there(&self.store, &former.diff_id)? {
                    wanted.retain(|other| *other != form);
                }
            }
        }
        Ok(wanted)
    }
}
