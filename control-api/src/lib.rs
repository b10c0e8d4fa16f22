//! The gRPC contract between the operator (server) and the programs that run beside pods: node agents and cloud
//! controller managers (clients). `proto/control.proto` is the text of it; this crate compiles it and names what both
//! sides must agree on.

/// Audience of the projected service-account tokens that callers present.
pub const TOKEN_AUDIENCE: &str = "nestling-control";

/// Where a caller's pod finds its token.
pub const TOKEN_PATH: &str = "/var/run/secrets/nestling/token";

/// Port of the control API on the operator's Service and pods.
pub const PORT: u16 = 8443;

/// Generated types, client and server.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // generated code
pub mod v1alpha1 {
    tonic::include_proto!("nestling.control.v1alpha1");
}
