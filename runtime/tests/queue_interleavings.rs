//! The work queue under every order of its critical sections that shuttle's random scheduler comes to: a key is never
//! handed out twice at once, and none is lost. A lost key shows as a deadlock.

#[allow(dead_code, unreachable_pub)] // the module as it is, of which this test uses a part
#[path = "../src/queue.rs"]
mod queue;

/// Takes the place of `crate::sync`.
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
}

use queue::Queue;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::{future, thread};
use std::sync::Arc;
use std::time::Duration;

const KEYS: usize = 3;
const ROUNDS: u32 = 3;

#[derive(Default)]
struct Work {
    /// How often each key has been changed, and up to which change it has been worked on.
    changes: [AtomicU32; KEYS],
    seen: [AtomicU32; KEYS],
    running: [AtomicBool; KEYS],
}

impl Work {
    fn change(&self, key: usize) {
        self.changes[key].fetch_add(1, Ordering::SeqCst);
    }

    async fn run(&self, key: usize) {
        assert!(!self.running[key].swap(true, Ordering::SeqCst), "{key} is handed out twice");
        let change = self.changes[key].load(Ordering::SeqCst);
        future::yield_now().await;
        self.seen[key].store(change, Ordering::SeqCst);
        assert!(self.running[key].swap(false, Ordering::SeqCst));
    }

    fn is_complete(&self) -> bool {
        self.seen.iter().all(|seen| seen.load(Ordering::SeqCst) == ROUNDS)
    }
}

/// One task takes keys and starts a task for each, as the programs do, while threads add keys.
#[allow(clippy::unwrap_used)] // a panic of a task or thread fails the test
fn scenario() {
    let (queue, work) = (Arc::new(Queue::new()), Arc::new(Work::default()));
    let producers = (0..KEYS).map(|key| {
        let (queue, work) = (queue.clone(), work.clone());
        thread::spawn(move || {
            for round in 0..ROUNDS {
                work.change(key);
                if round % 2 == 0 { queue.add(key) } else { queue.add_after(key, Duration::ZERO) }
            }
        })
    });
    let producers: Vec<_> = producers.collect();
    future::block_on(async {
        let mut tasks = Vec::new();
        while !work.is_complete() {
            let key = queue.next().await;
            let (queue, worked) = (queue.clone(), work.clone());
            let task = future::spawn(async move {
                worked.run(key).await;
                queue.done(&key);
            });
            tasks.push(task);
            // The last changes may be under way: `next` must not be called when nothing more comes.
            if work.changes.iter().all(|changes| changes.load(Ordering::SeqCst) == ROUNDS) {
                for task in tasks.drain(..) {
                    task.await.unwrap();
                }
            }
        }
    });
    for producer in producers {
        producer.join().unwrap();
    }
}

#[test]
fn no_key_is_lost_or_handed_out_twice() {
    shuttle::check_random(scenario, 500);
}

#[test]
fn nor_under_few_preemptions() {
    shuttle::check_pct(scenario, 500, 3);
}
