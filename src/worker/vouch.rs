//! Whether the layers that steps read are what they were when they were put into the store.
//!
//! What a step makes of files that somebody has written to would be kept as the result of the files that were meant. So the
//! seals of all layers that a step may have read are looked at while it runs, each once per build, and its result counts when
//! none is broken. A build that finds everything cached reads no layer, and looks at none.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{LocalWorker, Output, Stack, Task, WorkError};
use crate::digest::DiffId;
use crate::layer;
use crate::task;

impl LocalWorker {
    /// Fails if a layer that `task` reads is damaged.
    pub(super) async fn vouch_for_inputs(&self, task: &Task) -> Result<(), WorkError> {
        for input in &task.inputs {
            if let Output::Stack(stack) = input {
                self.vouch(stack).await?;
            }
        }
        Ok(())
    }

    /// Fails if a layer of `stack` is damaged; it is dropped then. Those that are not here yet come as they should be.
    pub async fn vouch(&self, stack: &Stack) -> Result<(), WorkError> {
        for layer in stack.layers() {
            let diff_id = layer.diff_id;
            let cell = self.vouched_for(&diff_id);
            let look = async || {
                let store = self.shared.store.clone();
                match task::blocking(move || layer::is_untouched(&store, &diff_id)).await? {
                    true => Ok(()),
                    false => Err(WorkError::LayerDamaged(diff_id)),
                }
            };
            cell.get_or_try_init(look).await?;
        }
        Ok(())
    }

    fn vouched_for(&self, diff_id: &DiffId) -> Arc<OnceCell<()>> {
        self.vouched.lock().expect("no holder of this lock panics").entry(*diff_id).or_default().clone()
    }
}
