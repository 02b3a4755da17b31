//! Work in parallel, results in order, memory bounded.
//!
//! Own threads rather than rayon's: the consumer waits for results, and a waiting rayon thread can starve the pool that
//! should make them.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// How many results of one item may wait before its worker does.
const RESULTS_AHEAD: usize = 4;

/// Where a worker puts its results; `Break` means that nobody wants more.
pub struct Sink<U>(SyncSender<U>);

impl<U> Sink<U> {
    /// Hands over one result, waiting while too many are not consumed.
    pub fn put(&self, result: U) -> ControlFlow<()> {
        match self.0.send(result) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Runs `work` on every item on as many threads as there are cores, and `consume` here on all results, in the order of the
/// items and, for one item, in the order in which they were put. Stops early when `consume` fails.
///
/// At most two items per core are taken from `items` before their results are consumed.
pub fn ordered<T: Send, U: Send, E>(
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T, &Sink<U>) + Sync,
    mut consume: impl FnMut(U) -> Result<(), E>,
) -> Result<(), E> {
    let workers = thread::available_parallelism().map_or(2, NonZeroUsize::get);
    let (todo_sender, todo) = sync_channel::<(T, Sink<U>)>(workers);
    let (order_sender, order) = sync_channel::<Receiver<U>>(workers);
    // Shared by the workers alone: when all of them are gone, the producer notices.
    let todo = Arc::new(Mutex::new(todo));
    thread::scope(|scope| {
        scope.spawn(move || {
            for item in items {
                let (sender, results) = sync_channel(RESULTS_AHEAD);
                // In this order, so that the consumer never waits for an item that no worker can take.
                if todo_sender.send((item, Sink(sender))).is_err() || order_sender.send(results).is_err() {
                    return;
                }
            }
        });
        for _ in 0..workers {
            let (todo, work) = (todo.clone(), &work);
            scope.spawn(move || {
                while let Some((item, sink)) = take(&todo) {
                    work(item, &sink);
                }
            });
        }
        drop(todo);
        // Moved in, so that an early return closes the queue and lets the producer end.
        let order = order;
        for results in &order {
            for result in results {
                consume(result)?;
            }
        }
        Ok(())
    })
}

/// `work` on every item, on as many threads as there are cores; results in order, or the first error in order.
pub fn each<T: Sync, R: Send, E: Send>(items: &[T], work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = work(item);
                    if result.is_err() {
                        // nobody needs the rest
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    results.lock().expect("no thread panics while it holds the lock").push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("a panic of a thread went on at the end of the scope");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The next item; `None` when there are no more.
fn take<T>(todo: &Mutex<Receiver<T>>) -> Option<T> {
    todo.lock().ok()?.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let mut seen = Vec::new();
        let work = |item: u32, sink: &Sink<u32>| {
            for part in 0..item % 7 {
                if sink.put(item * 10 + part).is_break() {
                    return;
                }
            }
        };
        let done: Result<(), ()> = ordered(0..500, work, |result| {
            seen.push(result);
            Ok(())
        });
        let expected: Vec<u32> = (0..500).flat_map(|item| (0..item % 7).map(move |part| item * 10 + part)).collect();
        assert_eq!((done, seen), (Ok(()), expected));
    }

    #[test]
    fn parallel_results_keep_their_order() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(each(&items, |item| Ok::<_, ()>(item * 2)), Ok((0..100).map(|item| item * 2).collect()));
        assert_eq!(each(&items, |item| if *item == 7 { Err(*item) } else { Ok(()) }), Err(7));
        assert_eq!(each(&[] as &[usize], |item| Ok::<_, ()>(*item)), Ok(vec![]));
    }

    #[test]
    fn a_failing_consumer_ends_everything() {
        let work = |item: u64, sink: &Sink<u64>| {
            let _unwanted = sink.put(item);
        };
        let done = ordered(0.., work, |result| if result == 20 { Err("enough") } else { Ok(()) });
        assert_eq!(done, Err("enough"));
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_in_every_worker_ends_in_a_panic() {
        let work = |_: u64, _: &Sink<u64>| panic!("a bug");
        let done: Result<(), ()> = ordered(0.., work, |_| Ok(()));
        done.expect("unreachable");
    }
}
