//! What the last build of a project did, step by step: what the next one compares itself with, and what `croze explain` reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::explain::{Description, differences};
use super::{Cache, MissReason};
use crate::digest::{CacheKey, DiffId, Hasher};
use crate::event::Verdict;
use crate::store::{Gone, Store, StoreError};

/// A step as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepName {
    /// The stage's name or number.
    pub stage: String,
    /// Such as `[build 2/4] RUN make`.
    pub shown: String,
}

impl StepName {
    /// The instruction without the counter before it.
    pub fn instruction(&self) -> &str {
        split(&self.shown).1
    }
}

/// One step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepHistory {
    /// The stage's name or number.
    pub stage: String,
    /// Such as `[build 2/4] RUN make`.
    pub name: String,
    /// Names its result.
    pub key: CacheKey,
    /// Its result.
    pub diff_id: DiffId,
    /// Whether it ran.
    pub verdict: Verdict,
    /// Why it ran, one sentence each.
    pub why: Vec<String>,
}

/// A whole build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildHistory {
    /// What was built: the context, and the target.
    pub project: String,
    /// When, seconds since 1970.
    pub at_secs: i64,
    /// In the order in which they ended.
    pub steps: Vec<StepHistory>,
}

/// The former build of a project and what this one did so far.
#[derive(Default)]
pub(super) struct History {
    /// Read when the first step misses.
    former: Option<BuildHistory>,
    steps: Vec<StepHistory>,
}

impl Cache {
    /// The project whose builds are compared; empty if none was named.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The same cache, which compares steps with the last build of `project`.
    pub fn of_project(mut self, project: &str) -> Cache {
        project.clone_into(&mut self.project);
        self
    }

    /// Why a step with this description has to run; at least one sentence.
    pub fn why(&self, (name, key): (&StepName, &CacheKey), miss: MissReason, now: &Description) -> Vec<String> {
        let mut history = self.history.lock().expect("no holder of this lock panics");
        let History { former, steps } = &mut *history;
        // a history that cannot be read is none
        let former = former.get_or_insert_with(|| load(&self.store, &self.project).ok().flatten().unwrap_or_default());
        match miss {
            MissReason::Refused => vec!["`--no-cache` asks for it".to_owned()],
            MissReason::LayerGone(diff_id) => vec![match self.store.why_gone(&diff_id) {
                Ok(Some(Gone::Pruned { at_secs })) => format!("its layer was pruned on {}", day(at_secs)),
                Ok(Some(Gone::Damaged)) => "its layer was damaged in the store".to_owned(),
                Ok(None) | Err(_) => "its layer is no longer in the store".to_owned(),
            }],
            MissReason::Damaged => vec!["its layer was damaged in the store".to_owned()],
            MissReason::NeverBuilt => {
                let Some(counterpart) = counterpart(&former.steps, name) else {
                    let elsewhere = self.elsewhere.as_ref().map(|elsewhere| format!(", and {}", elsewhere.absence(key)));
                    return vec![format!("never built here{}", elsewhere.unwrap_or_default())];
                };
                let description = load_description(&self.store, &counterpart.key).ok().flatten();
                let Some(mut description) = description else {
                    return vec!["never built here; nothing is known of the step it replaces".to_owned()];
                };
                description.files.load_what_differs(&now.files, |digest| self.store.memo(digest).ok().flatten());
                let maker = |diff_id: &DiffId| {
                    let step = steps.iter().find(|step| step.diff_id == *diff_id)?;
                    Some(split(&step.name).1.to_owned())
                };
                let told = differences(&description, now, maker);
                if told.is_empty() { vec!["its record is gone".to_owned()] } else { told }
            }
        }
    }

    /// Keeps what a step that ran is made of.
    pub fn describe(&self, key: &CacheKey, description: &Description) -> Result<(), StoreError> {
        let text = serde_json::to_vec(description).expect("a description is plain data");
        let absent = self.store.absent_memos(description.files.directories().map(|directory| &directory.digest))?;
        let directories = description.files.directories().filter(|directory| absent.contains(&directory.digest));
        let mut memos: Vec<_> = directories.map(|directory| (directory.digest, directory.to_bytes())).collect();
        memos.push((memo(b"description", key.0.as_bytes()), text));
        self.store.set_memos(&memos)
    }

    /// Notes what became of a step.
    pub fn ended(&self, name: &StepName, key: CacheKey, diff_id: DiffId, verdict: Verdict, why: Vec<String>) {
        let StepName { stage, shown } = name.clone();
        let step = StepHistory { stage, name: shown, key, diff_id, verdict, why };
        self.history.lock().expect("no holder of this lock panics").steps.push(step);
    }

    /// Keys and layers of the steps that have ended so far, each key once.
    pub fn ended_steps(&self) -> BTreeMap<CacheKey, DiffId> {
        let history = self.history.lock().expect("no holder of this lock panics");
        history.steps.iter().map(|step| (step.key, step.diff_id)).collect()
    }

    /// Forgets what this build did so far: it begins anew.
    pub fn begin_anew(&self) {
        self.history.lock().expect("no holder of this lock panics").steps.clear();
    }

    /// Keeps what this build did, unless its steps are those of the build before: a build that finds everything cached
    /// writes nothing.
    pub fn save_history(&self, at_secs: i64) -> Result<(), StoreError> {
        let steps = std::mem::take(&mut self.history.lock().expect("no holder of this lock panics").steps);
        let mut hasher = Hasher::new();
        let mut keys: Vec<(&str, &CacheKey)> = steps.iter().map(|step| (step.name.as_str(), &step.key)).collect();
        keys.sort_unstable();
        for (name, key) in keys {
            hasher.field(name.as_bytes());
            hasher.update(key.0.as_bytes());
        }
        let digest = hasher.finish();
        let ran = steps.iter().any(|step| step.verdict != Verdict::Hit);
        let digest_key = memo(b"build steps", self.project.as_bytes());
        if steps.is_empty() || (!ran && self.store.memo(&digest_key)?.as_deref() == Some(digest.as_bytes())) {
            return Ok(());
        }
        let build = BuildHistory { project: self.project.clone(), at_secs, steps };
        let text = serde_json::to_vec(&build).expect("a history is plain data");
        self.store.set_memo(&memo(b"build", self.project.as_bytes()), &text)?;
        self.store.set_memo(&memo(b"build", b""), &text)?;
        self.store.set_memo(&digest_key, digest.as_bytes())
    }
}

/// What the last build of `project` did; of any project if it is empty.
pub fn load(store: &Store, project: &str) -> Result<Option<BuildHistory>, StoreError> {
    let text = store.memo(&memo(b"build", project.as_bytes()))?;
    // one that cannot be read is of another version
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Looks the layers of a project's last build up, most of which the next one asks for: for a thread beside the one that plans it.
pub fn look_ahead(store: &Store, project: &str) {
    #[derive(Deserialize)]
    struct Steps {
        steps: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        diff_id: DiffId,
    }
    let Ok(Some(text)) = store.memo(&memo(b"build", project.as_bytes())) else { return };
    // one that cannot be read is of another version
    let Ok(Steps { steps }) = serde_json::from_slice(&text) else { return };
    for Step { diff_id } in steps {
        // what fails here is met again, and told, by the step that needs the layer
        if store.layer(&diff_id).is_err() {
            return;
        }
    }
}

/// What the step with this key was made of when it ran.
pub fn load_description(store: &Store, key: &CacheKey) -> Result<Option<Description>, StoreError> {
    let text = store.memo(&memo(b"description", key.0.as_bytes()))?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// The step of a former build that became this one: the same words in the same stage, else the same kind of instruction at
/// the same place.
fn counterpart<'a>(former: &'a [StepHistory], name: &StepName) -> Option<&'a StepHistory> {
    let (place, instruction) = split(&name.shown);
    let in_stage = || former.iter().filter(|step| step.stage == name.stage);
    let kind = instruction.split_whitespace().next();
    in_stage().find(|step| split(&step.name).1 == instruction).or_else(|| {
        in_stage().find(|step| {
            let (old_place, old) = split(&step.name);
            ordinal(old_place) == ordinal(place) && old.split_whitespace().next() == kind
        })
    })
}

/// `[build 2/4] RUN make` → `build 2/4`, `RUN make`.
fn split(shown: &str) -> (&str, &str) {
    let parts = shown.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    parts.unwrap_or(("", shown))
}

/// `build 2/4` → `2`.
fn ordinal(place: &str) -> &str {
    let counter = place.rsplit(' ').next().unwrap_or(place);
    counter.split('/').next().unwrap_or(counter)
}

fn memo(what: &[u8], argument: &[u8]) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"history 1");
    hasher.field(what);
    hasher.field(argument);
    CacheKey(hasher.finish())
}

/// `2026-11-21`, by UTC.
fn day(at_secs: i64) -> String {
    jiff::Timestamp::from_second(at_secs).unwrap_or_default().strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn steps_are_found_again_by_words_and_then_by_place() {
        let step = |stage: &str, name: &str| StepHistory {
            stage: stage.to_owned(),
            name: name.to_owned(),
            key: CacheKey(Digest::of(name.as_bytes())),
            diff_id: DiffId(Digest::of(b"")),
            verdict: Verdict::Ran,
            why: Vec::new(),
        };
        let former = [step("a", "[a 2/3] RUN make"), step("a", "[a 3/3] COPY x y"), step("b", "[b 2/2] RUN make")];
        let find = |stage: &str, shown: &str| {
            let name = StepName { stage: stage.to_owned(), shown: shown.to_owned() };
            counterpart(&former, &name).map(|step| step.name.as_str())
        };
        assert_eq!(find("b", "[b 5/5] RUN make"), Some("[b 2/2] RUN make"));
        assert_eq!(find("a", "[a 2/9] RUN make all"), Some("[a 2/3] RUN make"));
        assert_eq!(find("a", "[a 2/9] COPY z y"), None);
        assert_eq!(find("c", "RUN make"), None);
    }
}
