//! Compiles the container runtime interface with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/runtime/v1/api.proto");
    let descriptors = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    // The agent only calls the runtime; upstream's comments are not written for rustdoc.
    tonic_prost_build::configure().build_server(false).disable_comments(["."]).compile_fds(descriptors)?;
    Ok(())
}
