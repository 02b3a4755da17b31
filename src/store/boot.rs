//! The time between two starts of the machine: what was written in an earlier one may have lost bytes to a power cut.

use std::fs;
use std::sync::{Arc, OnceLock};

/// Names the present one, when first asked.
#[derive(Clone, Default)]
pub(super) struct Boot(Arc<OnceLock<String>>);

impl Boot {
    /// The kernel's name of it; empty where it is not told.
    pub(super) fn id(&self) -> &str {
        self.0.get_or_init(|| {
            let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            text.trim_end().to_owned()
        })
    }

    /// Whether that was written in the present one.
    pub(super) fn is(&self, written_in: &str) -> bool {
        !written_in.is_empty() && written_in == self.id()
    }
}
