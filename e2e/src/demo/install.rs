//! The chart, by real helm.

use crate::suite::{Kubectl, Paths, run};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Namespace of the installation.
pub const SYSTEM: &str = "nestling-system";
const DEADLINE: Duration = Duration::from_mins(5);

/// The agents use the host network and the runtime's socket, so their namespace admits privileged pods.
const NAMESPACE: &str =
    "{apiVersion: v1, kind: Namespace, metadata: {name: nestling-system, labels: {pod-security.kubernetes.io/enforce: privileged}}}";

pub fn install() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    let chart = paths.root().join("charts").join("nestling");
    println!("==> chart {} into namespace {SYSTEM}", chart.display());
    host.apply(NAMESPACE)?;
    // Helm installs CRDs once and never updates them; server-side apply does both.
    host.run(&["apply", "--server-side", "--force-conflicts", "-f", &chart.join("crds").to_string_lossy()])?;
    let mut helm = helm(&paths);
    helm.args(["upgrade", "--install", "nestling"]).arg(&chart).args(["--namespace", SYSTEM, "--skip-crds", "--wait", "--timeout", "4m"]);
    // Where the images were built here, their tags name their content, so that a rebuilt program is rolled out.
    let values = paths.state().join("images").join("values.yaml");
    if values.exists() {
        helm.arg("--values").arg(values);
    }
    run(&mut helm, None, DEADLINE)?.ok("helm upgrade --install")?;
    print!("{}", host.run(&["get", "pods", "-n", SYSTEM, "-o", "wide"])?);
    Ok(())
}

pub fn uninstall() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    // Tenants first, while the operator that cleans up after them is there.
    host.run(&["delete", "virtualclusters", "--all", "--all-namespaces", "--ignore-not-found", "--timeout=110s"])?;
    run(helm(&paths).args(["uninstall", "nestling", "--namespace", SYSTEM, "--ignore-not-found", "--wait"]), None, DEADLINE)?
        .ok("helm uninstall")?;
    host.run(&["delete", "namespace", SYSTEM, super::tenant::NAMESPACE, "--ignore-not-found", "--timeout=110s"])?;
    host.run(&["delete", "-f", &paths.root().join("charts/nestling/crds").to_string_lossy(), "--ignore-not-found", "--timeout=60s"])?;
    Ok(())
}

fn helm(paths: &Paths) -> Command {
    let mut command = Command::new(paths.program("helm"));
    command.arg("--kubeconfig").arg(paths.host_kubeconfig());
    command
}
