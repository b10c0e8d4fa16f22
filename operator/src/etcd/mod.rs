//! A tenant's etcd: its members, and the space in their databases. [`plan`] and [`space`] decide, [`keep`] and [`alarms`] find the
//! clusters that need it and act.
//!
//! Order: `client` ← `space`; `plan` ← `places` ← `reach` ← `keep`, `alarms`.

pub(crate) mod alarms;
pub(crate) mod client;
pub(crate) mod keep;
pub(crate) mod places;
pub(crate) mod plan;
pub(crate) mod reach;
pub(crate) mod space;

use async_trait::async_trait;
use std::time::Duration;

/// A member as it reports itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) is_leader: bool,
    /// Size of the database file, in bytes.
    pub(crate) size: u64,
    /// What of it holds data.
    pub(crate) in_use: u64,
    /// `--quota-backend-bytes`
    pub(crate) quota: u64,
    /// The newest revision it has.
    pub(crate) revision: i64,
    /// Alarm `NOSPACE` is raised.
    pub(crate) no_space: bool,
}

/// The calls of etcd's maintenance API that this operator makes. Each may be repeated.
#[async_trait]
pub(crate) trait Maintenance: Send + Sync {
    /// All members; fails if one does not answer.
    async fn members(&self) -> Result<Vec<Member>, EtcdError>;

    /// Drops what was overwritten or deleted before this revision.
    async fn compact(&self, revision: i64) -> Result<(), EtcdError>;

    /// Gives the free pages of a member's database back. The member answers nothing meanwhile.
    async fn defragment(&self, member: u64) -> Result<(), EtcdError>;

    /// Ends a member's alarm `NOSPACE`.
    async fn disarm(&self, member: u64) -> Result<(), EtcdError>;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error("cannot set up a connection to etcd: its authority or the client's certificate cannot be read")]
    Authority,
    #[error("etcd call {call} failed")]
    Call { call: &'static str, source: Box<tonic::Status> },
    #[error("etcd call {call} has not ended within {limit:?}")]
    TooSlow { call: &'static str, limit: Duration },
    #[error("etcd has no member {0:x} any more")]
    NoMember(u64),
}
