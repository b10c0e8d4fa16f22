//! OCI images written by hand: no registry, no container tool.
//!
//! [`spec`] says what an image holds, [`layer`] writes its one layer, [`archive`] the OCI tar around it (same input, same bytes),
//! [`libraries`] finds the shared libraries a program needs, [`catalog`] lists the upstream images the host cluster runs.

pub mod archive;
pub mod catalog;
pub mod layer;
pub mod libraries;
pub mod spec;
