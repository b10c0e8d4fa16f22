//! The gRPC contract between the operator (server) and the programs that run beside pods: node agents and cloud
//! controller managers (clients). `proto/control.proto` is the text of it; this crate compiles it, and [`consts`] names
//! what both sides must agree on.

pub mod consts;

/// Generated types, client and server.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // generated code
#[allow(rustdoc::invalid_html_tags, rustdoc::bare_urls, rustdoc::broken_intra_doc_links)] // comments of the protocol file
pub mod v1alpha1 {
    tonic::include_proto!("nestling.control.v1alpha1");
}
