//! `make lint-chart`: writes the JSON schemas and the documentation's examples that kubeconform checks.

use anyhow::{Context, Result};
use clap::Parser;
use nestling_e2e::schemas;
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    /// Kubernetes' `api/openapi-spec/swagger.json`.
    #[arg(long)]
    swagger: PathBuf,
    /// Files with a `CustomResourceDefinition`.
    #[arg(long = "crd")]
    crds: Vec<PathBuf>,
    /// Folder for the schemas.
    #[arg(long)]
    output: PathBuf,
    /// Folder for the examples.
    #[arg(long)]
    examples: PathBuf,
    /// Files whose YAML blocks are examples.
    documents: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let crds: Vec<_> = args.crds.iter().map(PathBuf::as_path).collect();
    let kinds = schemas::write(&args.swagger, &crds, &args.output)?;
    let mut examples = 0;
    for document in &args.documents {
        let text = std::fs::read_to_string(document).with_context(|| format!("read {}", document.display()))?;
        let name = document.file_stem().context("a document has a name")?.to_string_lossy();
        examples += schemas::write_examples(&name, &text, &args.examples)?;
    }
    println!("    schemas of {kinds} kinds, {examples} examples in the documentation");
    Ok(())
}
