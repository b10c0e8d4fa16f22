//! The `node` controller: tells the tenant about the host nodes behind its Nodes.
//!
//! `plan` (pure) compares one Node with what the cloud says: provider ID, zone, region and instance type, addresses, and
//! the taint that keeps pods away until that is known; a Node whose host node is gone or serves the tenant no longer is
//! deleted. `controller` is the loop: it looks whenever a Node or the cloud changes, and writes while it leads.

mod controller;
mod plan;

pub use controller::NodeController;

#[cfg(test)]
mod controller_tests;
