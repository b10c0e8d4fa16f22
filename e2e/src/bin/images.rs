//! `make images`: writes the images of Nestling's own programs as OCI archives, from what cargo has built.

use anyhow::{Context, Result};
use clap::Parser;
use nestling_e2e::images;
use nestling_e2e::suite::Paths;
use std::path::PathBuf;

/// Writes .nestling/images/{operator,node-agent,cloud-controller}.tar and the chart's values.yaml for them.
#[derive(Parser)]
struct Args {
    /// Folder with the built programs; default: target/release.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Folder to write to.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (args, paths) = (Args::parse(), Paths::default());
    let programs = args.programs.unwrap_or_else(|| paths.root().join("target/release"));
    let output = args.output.unwrap_or_else(|| paths.state().join("images"));
    for written in images::write(&programs, &output).await.context("write the images of Nestling's programs")? {
        println!("{}  {}", written.path.display(), written.image);
    }
    Ok(())
}
