//! Bridges on which replies bypass the IP layer.
//!
//! A pod that talks to a Service sees the answer come from the Service only if the node translates it back. Between two
//! pods on one bridge the answer is a plain frame from port to port, and IP hooks see it only where `br_netfilter` is
//! loaded and on. Most hosts have it so, since kube-proxy needs the same. Where it is off, connections from one port of
//! such a bridge to another are masqueraded, so that the answer goes through the node: they work, and the server sees
//! the node's address instead of the client's.

use super::table::Family;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel lists its bridges.
#[derive(Clone, Debug)]
pub(crate) struct BridgeProbe {
    /// `/proc` of a process in the node's network namespace.
    pub(super) proc: PathBuf,
    /// `/sys`, mounted in the node's network namespace.
    pub(super) sys: PathBuf,
}

impl Default for BridgeProbe {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }
}

impl BridgeProbe {
    /// Names of the bridges whose replies bypass the IP layer.
    pub(super) fn bypassing(&self, family: Family) -> BTreeSet<String> {
        let (file, per_bridge) = match family {
            Family::V4 => ("bridge-nf-call-iptables", "nf_call_iptables"),
            Family::V6 => ("bridge-nf-call-ip6tables", "nf_call_ip6tables"),
        };
        if is_on(&self.proc.join("sys/net/bridge").join(file)) {
            return BTreeSet::new();
        }
        // No directory: no bridges to be seen.
        let Ok(links) = fs::read_dir(self.sys.join("class/net")) else { return BTreeSet::new() };
        links
            .filter_map(Result::ok)
            .filter(|link| link.path().join("bridge").is_dir() && !is_on(&link.path().join("bridge").join(per_bridge)))
            .filter_map(|link| link.file_name().into_string().ok())
            .filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
            .collect()
    }
}

fn is_on(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_bypass_only_bridges_without_netfilter() {
        let root = tempfile::tempdir().unwrap();
        let probe = BridgeProbe { proc: root.path().join("proc"), sys: root.path().join("sys") };
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(probe.bypassing(Family::V4).is_empty(), "nothing to read");
        write("sys/class/net/eth0/mtu", "1500");
        write("sys/class/net/cni0/bridge/nf_call_iptables", "0\n");
        write("sys/class/net/br1/bridge/nf_call_iptables", "1\n");
        assert_eq!(probe.bypassing(Family::V4), ["cni0".to_owned()].into(), "the module is not loaded");
        write("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n");
        assert_eq!(probe.bypassing(Family::V4), ["cni0".to_owned()].into());
        write("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n");
        assert!(probe.bypassing(Family::V4).is_empty());
        assert_eq!(probe.bypassing(Family::V6), ["br1".to_owned(), "cni0".to_owned()].into());
    }
}
