//! The local host cluster: real etcd, control plane, kubelets, kube-proxies and containerds, each node in namespaces of its own.
//!
//! How data flows: [`versions`] says what is to run, [`binaries`] compiles it from pinned Go modules, [`image`] packs it under
//! upstream image names and [`seed`] unpacks those once for all nodes. [`topology`] is pure arithmetic from a node count to names,
//! addresses and zones; [`control_plane`] and [`node`] turn it into [`unit`]s (what runs in which namespaces), [`network`] joins
//! them. [`launch`] starts a unit, [`supervisor`] is its process 1. [`up`] and [`down`] are the two whole stories, [`fault`] the
//! small ones; [`handle`] is what tests hold.
//!
//! Everything the machine could be left with has an owner that can be found again without any state file: processes live in
//! cgroups named `nestling-*`, namespaces are pinned below the work directory, and one link is named `nestling0`.

pub mod addons;
pub mod binaries;
pub mod cgroup;
pub mod cli;
pub mod command;
pub mod containerd;
pub mod control_plane;
pub mod down;
pub mod fault;
pub mod files;
pub mod handle;
pub mod health;
pub mod image;
pub mod kubeconfig;
pub mod launch;
pub mod lock;
pub mod network;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod seed;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod topology;
pub mod unit;
pub mod up;
pub mod versions;
pub mod workdir;

pub use handle::HostCluster;
