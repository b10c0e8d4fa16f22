//! Compiles the container runtime interface with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/runtime/v1/api.proto");
    let descriptors = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // The agent only calls the runtime; the server is for the fake, which has few of its calls.
        .server_mod_attribute("runtime.v1", "#[cfg(test)]")
        .generate_default_stubs(true)
        // Upstream's comments are not written for rustdoc.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
