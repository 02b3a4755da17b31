//! Numbers for steps and the times of those that the builder runs itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::event::{Event, EventSink, StepNumber};

/// Numbers steps and times those that the builder runs itself.
pub struct Reporter {
    /// Told of everything.
    pub events: Arc<dyn EventSink>,
    next: AtomicUsize,
    started: Mutex<HashMap<StepNumber, Instant>>,
}

impl Reporter {
    /// One that has given no number yet.
    pub fn new(events: Arc<dyn EventSink>) -> Reporter {
        Reporter { events, next: AtomicUsize::new(1), started: Mutex::default() }
    }

    /// Gives a step its number.
    pub fn announce(&self, name: String) -> StepNumber {
        let step = self.next.fetch_add(1, Ordering::Relaxed);
        self.started.lock().expect("no holder of this lock panics").insert(step, Instant::now());
        self.events.event(Event::Announced { step, name });
        step
    }

    /// A line about a step.
    pub fn note(&self, step: StepNumber, text: String) {
        self.events.event(Event::Note { step, text });
    }

    /// A step that the builder ran itself has ended.
    pub fn done(&self, step: StepNumber, note: Option<String>) {
        if let Some(text) = note {
            self.note(step, text);
        }
        let started = self.started.lock().expect("no holder of this lock panics").remove(&step);
        self.events.event(Event::Done { step, elapsed: started.map(|started| started.elapsed()).unwrap_or_default() });
    }

    /// A step that the builder ran itself has failed.
    pub fn failed(&self, step: StepNumber, message: String) {
        self.events.event(Event::Failed { step, message });
    }
}
