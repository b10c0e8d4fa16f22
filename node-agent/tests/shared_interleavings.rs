//! The proxy's shared state under every order of its critical sections that shuttle's schedulers come to: no change is
//! missed by the task that acts on it, and whoever waits for a change to be acted on is woken. A lost wake-up shows as a
//! deadlock.

#![allow(clippy::unwrap_used)] // the whole file is a test

#[allow(dead_code, unreachable_pub)] // the module as it is, of which this test uses a part
#[path = "../src/proxy/shared.rs"]
mod shared;

/// Takes the place of `proxy::locks`.
mod locks {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
}

use shared::Shared;
use shuttle::{future, thread};
use std::sync::Arc;

const WRITERS: u32 = 3;
const CHANGES: u32 = 2;

/// Writers change the state and wait for it to be acted on; one task acts on it, and every other round of it fails.
fn scenario() {
    let shared = Arc::new(Shared::<u32>::default());
    let acted_on = Arc::new(shuttle::sync::Mutex::new(0));
    let writers = (0..WRITERS).map(|_| {
        let (shared, acted_on) = (Arc::clone(&shared), Arc::clone(&acted_on));
        thread::spawn(move || {
            for _ in 0..CHANGES {
                let mut mine = 0;
                shared.update(false, |state| {
                    *state += 1;
                    mine = *state;
                    true
                });
                future::block_on(shared.settled());
                assert!(*acted_on.lock().unwrap() >= mine, "settled before change {mine} was acted on");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    future::block_on(async {
        let mut fails = true;
        while *acted_on.lock().unwrap() < WRITERS * CHANGES {
            shared.changed().await;
            loop {
                let (round, newest) = shared.begin(|state| *state);
                fails = !fails;
                if fails {
                    shared.failed(round);
                    continue;
                }
                *acted_on.lock().unwrap() = newest;
                shared.applied(round);
                break;
            }
        }
    });
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn no_change_is_missed() {
    shuttle::check_random(scenario, 2_000);
}

#[test]
fn no_change_is_missed_with_few_preemptions() {
    shuttle::check_pct(scenario, 2_000, 3);
}
