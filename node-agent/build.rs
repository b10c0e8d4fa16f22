//! Compiles the container runtime interface with protox, so that no `protoc` is needed.

fn main() {}
