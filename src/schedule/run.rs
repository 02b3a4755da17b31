//! The loop: one closed set of messages wakes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use super::state::States;
use super::{Novelty, Prepared, Slot, Worker};
use crate::cache::history::StepName;
use crate::cache::{Cache, Lookup, MissReason, Reuse};
use crate::digest::CacheKey;
use crate::event::{Event, EventSink, StepNumber, Verdict};
use crate::graph::{Graph, StepIndex};
use crate::store::{StepLock, Store};
use crate::task;

/// How many steps may run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands.
    pub commands: usize,
    /// Copies, hashing.
    pub processors: usize,
}

/// Everything that a run of the schedule needs.
pub struct Schedule<W: Worker> {
    /// The steps.
    pub graph: Arc<Graph>,
    /// Runs them.
    pub worker: Arc<W>,
    /// Former results.
    pub cache: Cache,
    /// For step locks.
    pub store: Store,
    /// Told of everything.
    pub events: Arc<dyn EventSink>,
    /// What people call each step; steps without a number are silent.
    pub numbers: HashMap<StepIndex, StepNumber>,
    /// Whether a step's former results may be used.
    pub reuse: HashMap<StepIndex, Reuse>,
    /// How many at once.
    pub limits: Limits,
    /// Turned true by this schedule when a step failed or the client asks; the worker watches it.
    pub cancel: watch::Sender<bool>,
}

/// How a step ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its result was there.
    Cached,
    /// It ran.
    Ran,
    /// A source: neither.
    Free,
}

/// Why a run ended without the target.
#[derive(Debug)]
pub enum Failure<E> {
    /// A step failed: the first one.
    Step {
        /// Which.
        index: StepIndex,
        /// Why.
        error: E,
    },
    /// The client asked to stop.
    Interrupted,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps that ran.
    pub ran_steps: usize,
    /// Steps whose result was there.
    pub cached_steps: usize,
}

enum Message<W: Worker> {
    /// A step ended.
    Ended(StepIndex, Result<(W::Output, Outcome), Stop<W::Error>>),
    /// The client asked to stop.
    Interrupt,
}

impl<W: Worker> Schedule<W> {
    /// Runs everything that `targets` need and returns their outputs in order.
    ///
    /// After a failure or an interrupt nothing new begins, what runs is told to stop, and this returns when all of it has. A
    /// failure that the worker does not call final stops nothing that runs.
    pub async fn run(
        self,
        targets: &[StepIndex],
        mut interrupt: watch::Receiver<bool>,
    ) -> Result<(Vec<W::Output>, Summary), Failure<W::Error>> {
        let schedule = Arc::new(self);
        let slots = Arc::new(Slots {
            commands: Semaphore::new(schedule.limits.commands.max(1)),
            processors: Semaphore::new(schedule.limits.processors.max(1)),
        });
        let mut states: States<W::Output> = States::new(&schedule.graph, targets);
        let (sender, mut receiver) = mpsc::unbounded_channel::<Message<W>>();
        let interrupter = tokio::spawn({
            let sender = sender.clone();
            async move {
                if interrupt.wait_for(|stop| *stop).await.is_ok() {
                    // the loop may have ended already, then nobody needs to know
                    let _ = sender.send(Message::Interrupt);
                } else {
                    std::future::pending::<()>().await;
                }
            }
        });
        let mut running = 0;
        let mut failure = None;
        let mut summary = Summary::default();
        loop {
            if failure.is_none() {
                for index in states.take_ready() {
                    let inputs = schedule
                        .graph
                        .inputs(index)
                        .into_iter()
                        .map(|input| states.output(input).expect("ready steps have inputs").clone())
                        .collect();
                    running += 1;
                    tokio::spawn(Schedule::step(schedule.clone(), slots.clone(), index, inputs, sender.clone()));
                }
            }
            if running == 0 {
                break;
            }
            match receiver.recv().await.expect("the loop holds a sender itself") {
                Message::Ended(index, Ok((output, outcome))) => {
                    running -= 1;
                    match outcome {
                        Outcome::Cached => summary.cached_steps += 1,
                        Outcome::Ran => summary.ran_steps += 1,
                        Outcome::Free => {}
                    }
                    states.done(index, output);
                }
                Message::Ended(index, Err(stop)) => {
                    running -= 1;
                    let skipped = states.failed(index);
                    let Stop::Failed(error) = stop else { continue };
                    let is_final = schedule.worker.is_final(&error);
                    let outranks = match &failure {
                        None => true,
                        Some(Failure::Step { error: former, .. }) => is_final && !schedule.worker.is_final(former),
                        Some(Failure::Interrupted) => false,
                    };
                    if outranks {
                        failure = Some(Failure::Step { index, error });
                        // what runs beside a failure that is got over goes on to its end, and need not run again
                        if is_final {
                            schedule.stop(&skipped);
                        }
                    }
                }
                Message::Interrupt => {
                    let skipped = states.skip_rest();
                    let is_final = match &failure {
                        Some(Failure::Step { error, .. }) => schedule.worker.is_final(error),
                        other => other.is_some(),
                    };
                    if !is_final {
                        failure = Some(Failure::Interrupted);
                        schedule.stop(&skipped);
                    }
                }
            }
        }
        interrupter.abort();
        match failure {
            Some(failure) => Err(failure),
            None => {
                let outputs = targets.iter().map(|target| states.output(*target).expect("all steps are done").clone()).collect();
                Ok((outputs, summary))
            }
        }
    }

    fn stop(&self, skipped: &[StepIndex]) {
        self.cancel.send_replace(true);
        for index in skipped {
            self.tell(*index, |step| Event::Canceled { step });
        }
    }

    fn tell(&self, index: StepIndex, event: impl FnOnce(StepNumber) -> Event) {
        if let Some(number) = self.numbers.get(&index) {
            self.events.event(event(*number));
        }
    }

    async fn step(
        self: Arc<Self>,
        slots: Arc<Slots>,
        index: StepIndex,
        inputs: Vec<W::Output>,
        sender: mpsc::UnboundedSender<Message<W>>,
    ) {
        let result = self.look_up_or_run(&slots, index, inputs).await.map_err(|stop| match stop {
            // what fails while everything is being stopped failed because of that
            Stop::Failed(_) if *self.cancel.borrow() => Stop::Canceled,
            stop => stop,
        });
        match &result {
            Ok(_) => {}
            Err(Stop::Failed(error)) if !self.worker.is_final(error) => {}
            Err(Stop::Failed(error)) => self.tell(index, |step| Event::Failed { step, message: error.to_string() }),
            Err(Stop::Canceled) => self.tell(index, |step| Event::Canceled { step }),
        }
        // the loop is waiting for this message as long as a step runs
        let _ = sender.send(Message::Ended(index, result));
    }

    async fn look_up_or_run(
        &self,
        slots: &Slots,
        index: StepIndex,
        inputs: Vec<W::Output>,
    ) -> Result<(W::Output, Outcome), Stop<W::Error>> {
        let started = Instant::now();
        let (key, slot, task) = match self.unless_canceled(self.worker.prepare(index, inputs)).await? {
            Prepared::Output(output) => {
                self.tell(index, |step| Event::Done { step, elapsed: started.elapsed() });
                return Ok((output, Outcome::Free));
            }
            Prepared::Task { key, slot, task } => (key, slot, task),
        };
        let reuse = self.reuse.get(&index).copied().unwrap_or(Reuse::Allowed);
        if let Ok(output) = self.recall(index, &key, reuse, &task).await? {
            return Ok((output, Outcome::Cached));
        }
        // in a box, since most steps have a result: what runs a step makes its future many times larger
        Box::pin(self.run_step(slots, index, (key, slot, task), reuse)).await
    }

    async fn run_step(
        &self,
        slots: &Slots,
        index: StepIndex,
        (key, slot, task): (CacheKey, Slot, W::Task),
        reuse: Reuse,
    ) -> Result<(W::Output, Outcome), Stop<W::Error>> {
        let (lock, permit) = self.turn(key, slots.of(slot)).await?;
        // whoever held the lock, or finished just before we took it, may have left what we need
        let miss = match self.recall(index, &key, reuse, &task).await? {
            Ok(output) => return Ok((output, Outcome::Cached)),
            Err(miss) => miss,
        };
        self.tell(index, |step| Event::Started { step });
        let started = Instant::now();
        let name = self.name(index);
        let description = self.worker.describe(&task);
        let why = self.cache.why((&name, &key), miss, &description);
        let (record, novelty) = self.worker.run(&task).await?;
        self.cache.insert(&key, &record).map_err(W::Error::from)?;
        self.cache.describe(&key, &description).map_err(W::Error::from)?;
        drop(permit);
        drop(lock);
        let verdict = match novelty {
            Novelty::New => Verdict::Ran,
            Novelty::Adopted => Verdict::Adopted,
        };
        self.cache.ended(&name, key, record.diff_id, verdict, why.clone());
        self.tell(index, |step| Event::Explained { step, verdict, why });
        self.tell(index, |step| Event::Done { step, elapsed: started.elapsed() });
        Ok((self.worker.recall(&task, &record), Outcome::Ran))
    }

    fn name(&self, index: StepIndex) -> StepName {
        let origin = &self.graph.step(index).origin;
        StepName { stage: origin.stage.clone(), shown: origin.name.clone() }
    }

    async fn recall(
        &self,
        index: StepIndex,
        key: &CacheKey,
        reuse: Reuse,
        task: &W::Task,
    ) -> Result<Result<W::Output, MissReason>, Stop<W::Error>> {
        let (record, why) = match self.cache.lookup(key, reuse).map_err(W::Error::from)? {
            Lookup::Hit(record) => (record, Vec::new()),
            Lookup::Unproven(record) if Box::pin(self.unless_canceled(self.worker.prove(&record))).await? => (record, Vec::new()),
            Lookup::Elsewhere(record, place) => (record, vec![format!("it is in the cache `{place}`")]),
            Lookup::Unproven(_) => return Ok(Err(MissReason::Damaged)),
            Lookup::Miss(miss) => return Ok(Err(miss)),
        };
        self.cache.ended(&self.name(index), *key, record.diff_id, Verdict::Hit, why.clone());
        self.tell(index, |step| Event::Explained { step, verdict: Verdict::Hit, why });
        self.tell(index, |step| Event::Cached { step });
        Ok(Ok(self.worker.recall(task, &record)))
    }

    /// Takes a slot and the lock of `key`. The slot comes first: a lock is an open file, and steps that wait for their turn may
    /// be thousands. Another process may run the very step now: it is waited for without holding a slot.
    async fn turn<'a>(&self, key: CacheKey, slots: &'a Semaphore) -> Result<(StepLock, SemaphorePermit<'a>), Stop<W::Error>> {
        let permit = self.slot(slots).await?;
        if let Some(lock) = self.store.try_lock_step(&key).map_err(W::Error::from)? {
            return Ok((lock, permit));
        }
        drop(permit);
        let store = self.store.clone();
        let lock = tokio::select! {
            lock = task::blocking(move || store.lock_step(&key)) => lock.map_err(W::Error::from)?,
            () = self.canceled() => return Err(Stop::Canceled),
        };
        Ok((lock, self.slot(slots).await?))
    }

    async fn slot<'a>(&self, slots: &'a Semaphore) -> Result<SemaphorePermit<'a>, Stop<W::Error>> {
        tokio::select! {
            permit = slots.acquire() => Ok(permit.expect("slots are never closed")),
            () = self.canceled() => Err(Stop::Canceled),
        }
    }

    /// Waits for what leaves nothing behind when it is given up halfway.
    async fn unless_canceled<T>(&self, work: impl Future<Output = Result<T, W::Error>>) -> Result<T, Stop<W::Error>> {
        tokio::select! {
            biased;
            () = self.canceled() => Err(Stop::Canceled),
            result = work => Ok(result?),
        }
    }

    async fn canceled(&self) {
        // the sender is `self.cancel`, so waiting cannot fail
        let _ = self.cancel.subscribe().wait_for(|canceled| *canceled).await;
    }
}

/// Why a step gave nothing.
enum Stop<E> {
    Failed(E),
    Canceled,
}

impl<E> From<E> for Stop<E> {
    fn from(error: E) -> Stop<E> {
        Stop::Failed(error)
    }
}

struct Slots {
    commands: Semaphore,
    processors: Semaphore,
}

impl Slots {
    fn of(&self, slot: Slot) -> &Semaphore {
        match slot {
            Slot::Command => &self.commands,
            Slot::Processor => &self.processors,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::cache::explain::Description;
    use crate::digest::{ContentDigest, DiffId, Digest};
    use crate::event::Silent;
    use crate::graph::{ContextOp, Op, Origin};
    use crate::store::{Kept, LayerRecord, Record, StoreError};

    /// Runs nothing, and remembers what it was asked to run.
    struct Fake {
        store: Store,
        graph: Arc<Graph>,
        ran: Mutex<Vec<StepIndex>>,
        fails: Option<StepIndex>,
        /// Steps wait here for each other: only as many at once as there are running can pass.
        meeting: Option<tokio::sync::Barrier>,
        running: AtomicUsize,
        most_running: AtomicUsize,
        cancel: watch::Receiver<bool>,
    }

    #[derive(Debug)]
    struct Failed;

    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("failed")
        }
    }

    impl From<StoreError> for Failed {
        fn from(error: StoreError) -> Failed {
            panic!("{error}")
        }
    }

    impl Worker for Fake {
        type Output = DiffId;
        type Task = StepIndex;
        type Error = Failed;

        async fn prepare(&self, index: StepIndex, inputs: Vec<DiffId>) -> Result<Prepared<DiffId, StepIndex>, Failed> {
            if matches!(self.graph.step(index).op, Op::Scratch) {
                return Ok(Prepared::Output(DiffId(Digest::of(b"scratch"))));
            }
            let text = format!("{:?} {inputs:?}", self.graph.step(index).id);
            Ok(Prepared::Task { key: CacheKey(Digest::of(text.as_bytes())), slot: Slot::Command, task: index })
        }

        fn recall(&self, _task: &StepIndex, record: &Record) -> DiffId {
            record.diff_id
        }

        async fn prove(&self, _record: &Record) -> Result<bool, Failed> {
            Ok(true)
        }

        fn is_final(&self, _error: &Failed) -> bool {
            true
        }

        fn describe(&self, _task: &StepIndex) -> Description {
            Description::default()
        }

        async fn run(&self, task: &StepIndex) -> Result<(Record, Novelty), Failed> {
            self.ran.lock().expect("no panic").push(*task);
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_running.fetch_max(running, Ordering::SeqCst);
            if self.fails == Some(*task) {
                return Err(Failed);
            }
            if let Some(meeting) = &self.meeting {
                let mut cancel = self.cancel.clone();
                tokio::select! {
                    _ = meeting.wait() => {}
                    _ = cancel.wait_for(|stop| *stop) => return Err(Failed),
                }
            }
            tokio::task::yield_now().await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            let diff_id = DiffId(Digest::of(format!("{task:?}").as_bytes()));
            let temp = self.store.temp_dir().expect("a directory");
            let tree = temp.path.join("tree");
            std::fs::create_dir(&tree).expect("a tree");
            let content = ContentDigest(diff_id.0);
            self.store.publish_layer(Kept::Tree(tree), LayerRecord { diff_id, tar_bytes: 1024, content }).expect("a layer");
            Ok((Record { diff_id, created_secs: 0 }, Novelty::New))
        }
    }

    struct Bench {
        _directory: tempfile::TempDir,
        store: Store,
        graph: Arc<Graph>,
        left: StepIndex,
        right: StepIndex,
        bottom: StepIndex,
    }

    /// Two steps on the empty tree, and one on both.
    fn bench() -> Bench {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let mut graph = Graph::new();
        let step = |name: &str| Op::Context(ContextOp { name: name.into() });
        let top = graph.add(Op::Scratch, &[], Origin::default());
        let left = graph.add(step("left"), &[top], Origin::default());
        let right = graph.add(step("right"), &[top], Origin::default());
        let bottom = graph.add(Op::Merge, &[left, right], Origin::default());
        Bench { _directory: directory, store, graph: Arc::new(graph), left, right, bottom }
    }

    struct Run {
        result: Result<(Vec<DiffId>, Summary), Failure<Failed>>,
        worker: Arc<Fake>,
    }

    fn run(bench: &Bench, change: impl FnOnce(&mut Fake, &mut Schedule<Fake>)) -> Run {
        run_for(bench, &[bench.bottom], change)
    }

    fn run_for(bench: &Bench, targets: &[StepIndex], change: impl FnOnce(&mut Fake, &mut Schedule<Fake>)) -> Run {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (cancel, canceled) = watch::channel(false);
        let (_interrupt, interrupted) = watch::channel(false);
        let fake = || Fake {
            store: bench.store.clone(),
            graph: bench.graph.clone(),
            ran: Mutex::default(),
            fails: None,
            meeting: None,
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            cancel: canceled.clone(),
        };
        let mut worker = fake();
        let mut schedule = Schedule {
            graph: bench.graph.clone(),
            worker: Arc::new(fake()),
            cache: Cache::new(bench.store.clone()),
            store: bench.store.clone(),
            events: Arc::new(Silent),
            numbers: HashMap::new(),
            reuse: HashMap::new(),
            limits: Limits { commands: 32, processors: 2 },
            cancel,
        };
        change(&mut worker, &mut schedule);
        let worker = Arc::new(worker);
        schedule.worker = worker.clone();
        let result = runtime.block_on(schedule.run(targets, interrupted));
        Run { result, worker }
    }

    #[test]
    fn the_second_build_runs_nothing() {
        let bench = bench();
        let first = run(&bench, |_, _| {});
        assert_eq!(first.result.expect("built").1, Summary { ran_steps: 3, cached_steps: 0 });
        let second = run(&bench, |_, _| {});
        assert_eq!(second.result.expect("built").1, Summary { ran_steps: 0, cached_steps: 3 });
        assert!(second.worker.ran.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_refused_record_is_not_used() {
        let bench = bench();
        assert!(run(&bench, |_, _| {}).result.is_ok());
        let again = run(&bench, |_, schedule| {
            schedule.reuse.insert(bench.left, Reuse::Refused);
        });
        assert_eq!(*again.worker.ran.lock().expect("no panic"), [bench.left]);
    }

    #[test]
    fn independent_steps_run_at_the_same_time() {
        let bench = bench();
        // both must be running for either to go on
        let run = run_for(&bench, &[bench.left, bench.right], |worker, _| worker.meeting = Some(tokio::sync::Barrier::new(2)));
        assert!(run.result.is_ok());
        assert_eq!(run.worker.most_running.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_limit_of_one_runs_one_at_a_time() {
        let bench = bench();
        let run = run(&bench, |_, schedule| schedule.limits.commands = 1);
        assert!(run.result.is_ok());
        assert_eq!(run.worker.most_running.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_first_failure_stops_the_rest() {
        let bench = bench();
        let run = run(&bench, |worker, _| {
            worker.fails = Some(bench.left);
            // the other step waits for a meeting that never comes, until it is told to stop
            worker.meeting = Some(tokio::sync::Barrier::new(9));
        });
        assert!(matches!(run.result, Err(Failure::Step { index, .. }) if index == bench.left));
        assert!(!run.worker.ran.lock().expect("no panic").contains(&bench.bottom));
    }
}
