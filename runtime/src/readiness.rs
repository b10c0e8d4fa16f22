//! Readiness as handles: a component that needs time to become ready takes a named handle, and the process is ready when
//! no handle is left. So no component can be forgotten, and `/readyz` lists what is pending.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the process still waits for. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    names: BTreeMap<u64, String>,
}

/// Something that is not ready yet, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping the handle at once means ready at once"]
pub struct Pending {
    id: u64,
    readiness: Readiness,
}

impl Readiness {
    /// Not ready until the handle is dropped.
    pub fn pending(&self, name: impl Into<String>) -> Pending {
        let mut waiting = self.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.names.insert(id, name.into());
        drop(waiting);
        Pending { id, readiness: self.clone() }
    }

    pub fn is_ready(&self) -> bool {
        self.lock().names.is_empty()
    }

    /// Names of what is being waited for, each once, in the order they were taken.
    pub fn waiting_for(&self) -> Vec<String> {
        let waiting = self.lock();
        let mut names: Vec<String> = Vec::new();
        for name in waiting.names.values() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.readiness.lock().names.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_handle_is_dropped() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let watch = readiness.pending("watch");
        let cache = readiness.pending("cache");
        assert_eq!(readiness.waiting_for(), ["watch", "cache"]);
        drop(watch);
        assert_eq!(readiness.waiting_for(), ["cache"]);
        drop(cache);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_name_is_reported_once() {
        let readiness = Readiness::default();
        let _a = readiness.pending("tenant");
        let _b = readiness.pending("tenant");
        assert_eq!(readiness.waiting_for(), ["tenant"]);
    }
}
