//! The process's metrics, in the Prometheus text format.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Registry that components add their families to. Clones share one registry.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("nestling"))))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Adds families under `nestling_<subsystem>_`; returns what `add` returns, usually the families.
    pub fn register<T>(&self, subsystem: &str, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(self.lock().sub_registry_with_prefix(subsystem))
    }

    /// The whole registry as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.lock())?;
        Ok(text)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn families_carry_the_subsystem() {
        let metrics = Metrics::default();
        let writes = metrics.register("lease", |registry| {
            let writes = Counter::<u64>::default();
            registry.register("writes", "Lease writes", writes.clone());
            writes
        });
        writes.inc();
        assert!(metrics.encode().unwrap().contains("nestling_lease_writes_total 1"));
    }
}
