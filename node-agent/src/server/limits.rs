//! Bounds on the connections of callers, so that one tenant cannot exhaust the kubelet API for the others.

use nestling_crds::names::TenantUid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How much, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections in all, those in their handshake and those that became streams included.
    pub connections: usize,
    /// Connections of one tenant; a stream is one, and so is a followed log.
    pub connections_per_tenant: usize,
    /// From accepted to the end of the TLS handshake.
    pub handshake: Duration,
    /// A connection without a request, and a request whose header does not end. A kubelet's is 90 s too.
    pub idle: Duration,
    /// A stream on which nothing moves (`streamingConnectionIdleTimeout`).
    pub stream_idle: Duration,
    /// What is under way when the agent stops may take so long to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_tenant: 512,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            stream_idle: Duration::from_hours(4),
            drain: Duration::from_secs(5),
        }
    }
}

/// Counts each tenant's connections.
pub(super) struct PerTenant {
    most: usize,
    held: Mutex<HashMap<TenantUid, usize>>,
}

/// One connection's place, among all and among its tenant's; given back when dropped.
pub(super) struct Slot {
    tenant: TenantUid,
    of: Arc<PerTenant>,
    _among_all: OwnedSemaphorePermit,
}

impl PerTenant {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// None when the tenant holds all it may; the place among all is given back then.
    pub(super) fn take(self: &Arc<Self>, tenant: &TenantUid, among_all: OwnedSemaphorePermit) -> Option<Slot> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(tenant.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Slot { tenant: tenant.clone(), of: Arc::clone(self), _among_all: among_all })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[test]
    fn each_tenant_has_its_own_limit() {
        let per_tenant = PerTenant::new(2);
        let all = Arc::new(Semaphore::new(9));
        let take = |tenant: &str| per_tenant.take(&TenantUid::new(tenant), all.clone().try_acquire_owned().unwrap());
        let first = take("a").unwrap();
        let second = take("a").unwrap();
        assert!(take("a").is_none());
        let other = take("b").unwrap();
        assert_eq!(all.available_permits(), 6);
        drop(first);
        let third = take("a").unwrap();
        drop((second, third, other));
        assert_eq!(all.available_permits(), 9);
        assert!(per_tenant.held.lock().unwrap().is_empty());
    }
}
