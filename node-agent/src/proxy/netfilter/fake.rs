//! A packet filter in memory, for tests of what drives it: it keeps the transactions and fails when told to.

use super::{Listing, Netfilter, NetfilterError};
use crate::proxy::rules::{Family, Remembered, TenantKey};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Fake(Mutex<State>);

#[derive(Default)]
struct State {
    applied: Vec<String>,
    failures: u32,
    listings: BTreeMap<Family, Listing>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next so many transactions fail.
    pub fn fail(&self, times: u32) {
        self.state().failures = times;
    }

    /// What a former process left.
    pub fn inherit(&self, family: Family, listing: Listing) {
        self.state().listings.insert(family, listing);
    }

    /// Transactions applied so far, in order.
    pub fn applied(&self) -> Vec<String> {
        self.state().applied.clone()
    }
}

#[async_trait::async_trait]
impl Netfilter for Fake {
    async fn apply(&self, transaction: &str) -> Result<(), NetfilterError> {
        let mut state = self.state();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(NetfilterError::Injected);
        }
        state.applied.push(transaction.to_owned());
        Ok(())
    }

    async fn list(&self, family: Family) -> Result<Listing, NetfilterError> {
        Ok(self.state().listings.get(&family).cloned().unwrap_or(Listing::Absent))
    }

    async fn is_present(&self, family: Family) -> Result<bool, NetfilterError> {
        let state = self.state();
        Ok(!state.applied.is_empty() || state.listings.contains_key(&family))
    }

    async fn remembered(&self, _family: Family, _tenant: &TenantKey) -> Result<Vec<Remembered>, NetfilterError> {
        Ok(Vec::new())
    }
}
