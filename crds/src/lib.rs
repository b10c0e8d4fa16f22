//! The API of Nestling (`nestling.dev/v1alpha1`) as Rust types, and the names, labels and versions that every program
//! shares. Pure: nothing here talks to a network.
//!
//! Order: labels ← names ← quantity ← versions ← `managed_flags` ← v1alpha1 ← manifest

pub mod labels;
pub mod managed_flags;
pub mod manifest;
pub mod names;
pub mod quantity;
pub mod v1alpha1;
pub mod versions;
