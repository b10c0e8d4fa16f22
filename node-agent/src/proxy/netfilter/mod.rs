//! The kernel's packet filter as the proxy needs it: transactions in, a listing out.

mod fake;
mod listing;
mod nft;

pub use fake::Fake;
pub use listing::Listing;
pub use nft::Nft;

use super::rules::{Family, Remembered, TenantKey};
use std::time::Duration;

#[async_trait::async_trait]
pub trait Netfilter: Send + Sync {
    /// Applies commands as `nft -f` takes them: all of them or none.
    async fn apply(&self, transaction: &str) -> Result<(), NetfilterError>;

    /// What the kernel has of the proxy's table.
    async fn list(&self, family: Family) -> Result<Listing, NetfilterError>;

    /// The proxy's table is there.
    async fn is_present(&self, family: Family) -> Result<bool, NetfilterError>;

    /// The clients that session affinity remembers now, for one tenant.
    async fn remembered(&self, family: Family, tenant: &TenantKey) -> Result<Vec<Remembered>, NetfilterError>;
}

#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    #[error("starting {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("talking to {program}")]
    Talk {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} did not end within {limit:?}")]
    Timeout { program: String, limit: Duration },
    /// The first lines of what nft wrote.
    #[error("nft refused ({status}): {stderr}")]
    Refused { status: std::process::ExitStatus, stderr: String },
    #[error("reading nft's JSON listing")]
    Listing {
        #[source]
        source: serde_json::Error,
    },
    /// Only fakes fail so.
    #[error("made to fail")]
    Injected,
}

impl NetfilterError {
    /// For the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Talk { .. } => "talk",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Listing { .. } => "listing",
            Self::Injected => "injected",
        }
    }
}
