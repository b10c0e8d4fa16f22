//! Connections that the kernel still translates by rules that are gone.
//!
//! New rules reach new connections only. That is right for TCP, whose ends notice when the other is gone; but a UDP client
//! that keeps its socket (a resolver) would talk to a dead endpoint as long as it talks, and a pod that gets the address
//! of a former one would inherit its connections, another tenant's perhaps. `sweep` says which entries are such,
//! `netlink` removes them.

mod netlink;
mod sweep;

pub use netlink::Netlink;
pub use sweep::{Flow, Sweep, Transport};

use super::rules::Family;

/// Blocking: callers give it a thread.
pub trait Conntrack: Send + Sync {
    /// Deletes the stale ones among the family's entries, and says how many that were.
    fn sweep(&self, family: Family, sweep: &Sweep) -> Result<u64, ConntrackError>;
}

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("opening a netlink socket")]
    Open {
        #[source]
        source: std::io::Error,
    },
    #[error("asking the kernel for its connections")]
    Ask {
        #[source]
        source: std::io::Error,
    },
    #[error("reading the kernel's answer")]
    Receive {
        #[source]
        source: std::io::Error,
    },
    #[error("decoding the kernel's answer")]
    Decode {
        #[source]
        source: netlink_packet_core::DecodeError,
    },
    #[error("the kernel refused")]
    Refused {
        #[source]
        source: std::io::Error,
    },
}

/// Leaves everything as it is: for tests of other things.
#[derive(Default)]
pub struct Untouched;

impl Conntrack for Untouched {
    fn sweep(&self, _family: Family, _sweep: &Sweep) -> Result<u64, ConntrackError> {
        Ok(0)
    }
}
