//! One family's table in the kernel: what is known of it, and how it is made what is wanted.

use super::aftermath::{Aftermath, is_misremembered};
use super::metrics::{Outcome, ProxyMetrics};
use super::netfilter::{Listing, Netfilter, NetfilterError};
use super::report;
use super::rules::{Approach, Family, Installed, Want, forget, plan};
use std::sync::Arc;
use tokio::time::Instant;

/// Session affinity times out while it is read; a few attempts find a quiet moment.
const FORGET_ATTEMPTS: u32 = 3;

pub struct Table {
    pub family: Family,
    netfilter: Arc<dyn Netfilter>,
    metrics: ProxyMetrics,
    kernel: Kernel,
    /// Since the last transaction that was taken.
    failures: u32,
}

/// What the kernel has, as far as is known.
enum Kernel {
    Known(Option<Installed>),
    /// Another version's table.
    Foreign,
    /// Not read yet, or not to be read, or a transaction failed.
    Unknown,
}

impl Table {
    pub fn new(family: Family, netfilter: Arc<dyn Netfilter>, metrics: ProxyMetrics) -> Self {
        Self { family, netfilter, metrics, kernel: Kernel::Unknown, failures: 0 }
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.kernel, Kernel::Unknown)
    }

    pub fn is_foreign(&self) -> bool {
        matches!(self.kernel, Kernel::Foreign)
    }

    pub fn installed(&self) -> Option<&Installed> {
        match &self.kernel {
            Kernel::Known(installed) => installed.as_ref(),
            Kernel::Foreign | Kernel::Unknown => None,
        }
    }

    pub async fn read(&mut self) {
        let family = self.family;
        self.kernel = match self.netfilter.list(family).await {
            Ok(Listing::Absent) => Kernel::Known(None),
            Ok(Listing::Inherited(installed)) => {
                let (tenants, sources) = (installed.tenants.len(), installed.sources.len());
                tracing::info!(?family, tenants, sources, "taking over rules that are there");
                Kernel::Known(Some(installed))
            }
            Ok(Listing::Foreign) => {
                tracing::info!(?family, "rules of another version are to be replaced once the tenants are known");
                Kernel::Foreign
            }
            Err(error) => {
                tracing::warn!(?family, error = %report(&error), "cannot read the rules that are there");
                self.failures += 1;
                Kernel::Unknown
            }
        }
    }

    /// After the first failure, while there may be rules of tenants that this process does not know itself: they would be
    /// lost in a replacement, which is what comes after the second.
    pub async fn look_again(&mut self) {
        if self.is_unknown() && self.failures == 1 {
            self.read().await;
        }
    }

    pub async fn check_presence(&mut self) {
        if self.installed().is_none() {
            return;
        }
        match self.netfilter.is_present(self.family).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(family = ?self.family, "somebody removed the rules; restoring them");
                // There is nothing to look at again.
                self.failures = 2;
                self.kernel = Kernel::Unknown;
            }
            Err(error) => tracing::warn!(family = ?self.family, error = %report(&error), "cannot see whether the rules are still there"),
        }
    }

    /// None: it failed, and is to be tried again.
    pub async fn bring_about(&mut self, want: &Want) -> Option<Aftermath> {
        let (approach, before) = match std::mem::replace(&mut self.kernel, Kernel::Unknown) {
            Kernel::Known(before) => (Approach::Change, before),
            Kernel::Foreign | Kernel::Unknown => (Approach::Replace, None),
        };
        let (text, after) = plan(self.family, approach, before.as_ref(), want);
        if text.is_empty() {
            self.kernel = Kernel::Known(after);
            return Some(Aftermath::default());
        }
        let begun = Instant::now();
        let result = self.netfilter.apply(&text).await;
        self.metrics.apply.observe(begun.elapsed().as_secs_f64());
        let outcome = result.as_ref().err().map_or("ok", NetfilterError::reason);
        self.metrics.transactions.get_or_create(&Outcome { outcome }).inc();
        if let Err(error) = result {
            tracing::warn!(family = ?self.family, ?approach, error = %report(&error), "rules were not applied");
            self.failures += 1;
            return None;
        }
        self.failures = 0;
        let mut aftermath = Aftermath::of(before.as_ref(), after.as_ref());
        if approach == Approach::Replace {
            // Who was served by which rules before is not known: nothing is new.
            aftermath.fresh.clear();
            aftermath.is_udp_touched = true;
        }
        self.forget(&aftermath, after.as_ref()).await;
        self.kernel = Kernel::Known(after);
        Some(aftermath)
    }

    /// Takes from session affinity the endpoints that are gone. A client of such an endpoint would fail until its entry
    /// times out, so failing here is worth a warning, not a rebuild.
    async fn forget(&self, aftermath: &Aftermath, after: Option<&Installed>) {
        for tenant in &aftermath.forgetful {
            let Some(table) = after.and_then(|after| after.tenants.get(tenant)?.table.clone()) else { continue };
            for attempt in 1..=FORGET_ATTEMPTS {
                let result = match self.netfilter.remembered(self.family, tenant).await {
                    Ok(mut entries) => {
                        entries.retain(|entry| is_misremembered(&table, entry));
                        if entries.is_empty() { Ok(()) } else { self.netfilter.apply(&forget(self.family, tenant, &entries)).await }
                    }
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => break,
                    Err(error) if attempt == FORGET_ATTEMPTS => {
                        tracing::warn!(%tenant, error = %report(&error), "session affinity may keep clients at endpoints that are gone");
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
