//! What the agent hears from the operator: which tenants the node serves, and certificates to serve them with.
//!
//! `installation` reads the public certificate authorities from the host API, [`Operator`] is the connection built on
//! them, [`tenants`] follows the stream of tenants (`known` is its pure part) and hands [`Change`]s to the `tenant` folder,
//! and [`identity`] gets certificates signed and renewed. While the operator is away, everything goes on as it last was.

pub mod identity;
mod installation;
mod known;
mod operator;
mod parse;
pub mod tenants;

pub use installation::InstallationCas;
pub use known::Change;
pub use operator::{Operator, OperatorError};

#[cfg(test)]
mod tests;
