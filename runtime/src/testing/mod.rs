//! An in-memory Kubernetes API for tests, which [`contract`] holds to what a real kube-apiserver does.
//!
//! Data flow: a [`kube::Client`] sends a request, [`request`] parses it (which verb on which resource), [`server`] applies
//! the rules that the test has set for it and otherwise serves it from [`store`]: objects, their versions and owners, and
//! the history that watches read. [`selectors`] filters, [`patch`] and [`ownership`] (server-side apply) compute what a
//! write makes of an object, with the facts about lists from [`schema`].
//!
//! It knows no types: any resource can be stored, and nothing is validated or defaulted but the lifecycle of objects
//! (names, UIDs, versions, generations, finalizers, graceful deletion of pods). Namespaces need not exist.
//!
//! Order: schema ← selectors ← patch ← ownership ← request ← store ← server ← contract

#![allow(clippy::expect_used)] // code of tests: a mistake in a test ends it

pub mod contract;
mod ownership;
mod patch;
mod request;
mod schema;
mod selectors;
mod server;
mod store;

pub use request::Request;
pub use server::{ApiServer, Fault};

#[cfg(test)]
mod tests;
