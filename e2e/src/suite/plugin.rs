//! `kubectl nestling`, as a person calls it.

use super::kubectl::Kubectl;
use super::paths::Paths;
use super::process::{Finished, run};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One call with this kubeconfig of the host; its failure is a result too.
pub fn plugin(args: &[&str], kubeconfig: &Path) -> Result<Finished> {
    let mut command = Command::new(Paths::default().program("kubectl-nestling"));
    command.env("KUBECONFIG", kubeconfig).args(args);
    run(&mut command, None, Duration::from_secs(30))
}

/// The tenant as its admin sees it, through a kubeconfig that is written to `file`.
pub fn tenant_kubectl(namespace: &str, name: &str, file: &Path) -> Result<Kubectl> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let args = ["kubeconfig", name, "-n", namespace, "--output", &file.to_string_lossy()];
    plugin(&args, &Paths::default().host_kubeconfig())?.ok("kubectl nestling kubeconfig")?;
    Ok(Kubectl::new(file))
}
