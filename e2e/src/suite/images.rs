//! Images that test workloads run; the local host cluster has them on every node.

/// The upstream test program: `netexec`, `pause`, `connect`, `inclusterclient` …
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";

/// A shell with the usual small programs.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35.0";
