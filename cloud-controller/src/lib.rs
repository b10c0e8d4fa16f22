//! The cloud-controller-manager of a tenant: the host cluster is the cloud.
//!
//! Data flow: `cloud` watches, through the operator, the host nodes that serve the tenant; the controllers of
//! `selection` that are on compare that with the tenant's objects and write, while this replica holds the lease. Today
//! that is `node`, whose decisions are in `plan`. [`app`] wires it; the other command waits for an apiserver (`apiserver`).
//!
//! Order: selection ← apiserver ← cloud ← plan ← node ← app

mod apiserver;
pub mod app;
mod cloud;
mod node;
mod plan;
mod selection;
