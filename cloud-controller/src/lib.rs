//! The cloud-controller-manager of a tenant: the host cluster is the cloud.
//!
//! Data flow: [`cloud`] follows what the operator says of the host nodes that serve the tenant; the controllers of
//! [`selection`] that are on compare that with the tenant and write, while this replica holds the lease. Today that is
//! [`node`]. [`app`] wires it; [`wait`] is the other thing the program can do: wait for an apiserver.

pub mod app;
pub mod cloud;
pub mod kubeconfig;
pub mod node;
pub mod selection;
pub mod wait;
