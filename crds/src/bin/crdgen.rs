//! Writes the CRD into the chart: `cargo run -p nestling-crds --bin crdgen`.

use nestling_crds::manifest;
use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::write(root.join(manifest::PATH), manifest::virtual_clusters()?)?;
    Ok(())
}
