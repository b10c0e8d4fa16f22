//! The proxy's table in the kernel's packet filter. [`mod@plan`] turns the difference between what the kernel has and what is
//! to be into one typed transaction; [`Netfilter`] is the seam to the kernel, and [`Nft`] crosses it as text.
//!
//! The table, per address family:
//!
//! ```text
//! nat prerouting −110: ip saddr ─ sources ─▶ tenant-T
//!   tenant-T: daddr.proto.dport ─ services-T ─▶ lb-N-T | affinity-N-T | reject-connection | drop
//!             daddr in cluster-ips-T ─▶ reject-connection   (a Service, but not a port of it)
//!             daddr in the tenant's ranges ─▶ drop          (no Service; and never a host Service of the same address)
//!   lb-N-T:       dnat to daddr.proto.dport.(random mod N) ─ endpoints-N-T
//!   affinity-N-T: dnat to saddr.daddr.proto.dport ─ affinity-T, if there; else lb-N-T
//! filter prerouting −90 (record): new and dnat: ip saddr ─ recorders ─▶ recorder-T
//!   recorder-T: original daddr.proto.dport ─ sticky-T ─▶ record-SECONDS-T: puts the endpoint into affinity-T
//! nat postrouting 90: dnat and saddr in pods; and saddr.daddr in hairpin, or in and out by one of bridges ─▶ masquerading
//! ```
//! `T` is a tenant, `N` a number of endpoints. Why it is built like this: `docs/architecture.md`, "Services".

mod exec;
mod listing;
mod objects;
mod plan;
mod text;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub(super) use exec::Nft;
#[cfg(test)]
pub(crate) use fake::FakeNetfilter;
#[cfg(test)]
pub(super) use fake::Kernel;
pub(super) use listing::Listing;
pub(super) use objects::{AffinityEntry, Command, Key, TenantMap, Transaction};
pub(super) use plan::{Approach, Installed, plan};

use super::table::{Family, TenantKey};
use std::time::Duration;

/// The kernel's packet filter. The fake and `nft` keep the same contract (`contract.rs`).
#[async_trait::async_trait]
pub(crate) trait Netfilter: Send + Sync {
    /// Applies all commands or none.
    async fn apply(&self, transaction: &Transaction) -> Result<(), NetfilterError>;

    /// What the kernel has of the proxy's table.
    async fn list(&self, family: Family) -> Result<Listing, NetfilterError>;

    /// The proxy's table exists.
    async fn is_present(&self, family: Family) -> Result<bool, NetfilterError>;

    /// The recorded endpoints of one tenant's clients.
    async fn affinity(&self, family: Family, tenant: &TenantKey) -> Result<Vec<AffinityEntry>, NetfilterError>;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetfilterError {
    #[error("starting {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("writing to or reading from {program}")]
    Io {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} did not end within {limit:?}")]
    Timeout { program: String, limit: Duration },
    /// With the first lines of nft's own message.
    #[error("nft refused ({status}): {stderr}")]
    Refused { status: std::process::ExitStatus, stderr: String },
    #[error("reading nft's JSON listing")]
    Listing {
        #[from]
        source: serde_json::Error,
    },
}

impl NetfilterError {
    /// For the metric label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Io { .. } => "io",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Listing { .. } => "listing",
        }
    }
}
