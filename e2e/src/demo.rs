//! What `make demo` does on a host cluster: [`install`] installs the chart, [`tenant`] creates an example tenant with a workload and prints
//! the next commands, [`uninstall`] removes both.

use crate::suite::{Kubectl, Paths, eventually, run, tenant_kubectl};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Namespace of the installation.
const SYSTEM: &str = "nestling-system";
const HELM: Duration = Duration::from_mins(5);

/// The agents use the host network and the runtime's socket, so their namespace admits privileged pods.
const SYSTEM_NAMESPACE: &str =
    "{apiVersion: v1, kind: Namespace, metadata: {name: nestling-system, labels: {pod-security.kubernetes.io/enforce: privileged}}}";

/// Host namespace of the example.
const EXAMPLE: &str = "team-a";
const NAME: &str = "dev";
const READY: Duration = Duration::from_mins(3);

pub fn install() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    let chart = paths.root().join("charts").join("nestling");
    println!("==> chart {} into namespace {SYSTEM}", chart.display());
    host.apply(SYSTEM_NAMESPACE)?;
    // Helm installs CRDs once and never updates them; server-side apply does both.
    host.run(&["apply", "--server-side", "--force-conflicts", "-f", &chart.join("crds").to_string_lossy()])?;
    let mut helm = helm(&paths);
    helm.args(["upgrade", "--install", "nestling"]).arg(&chart).args(["--namespace", SYSTEM, "--skip-crds", "--wait", "--timeout", "4m"]);
    // Tags of images built here name their content, so that a rebuilt program is rolled out.
    let values = paths.state().join("images").join("values.yaml");
    if values.exists() {
        helm.arg("--values").arg(values);
    }
    run(&mut helm, None, HELM)?.ok("helm upgrade --install")?;
    print!("{}", host.run(&["get", "pods", "-n", SYSTEM, "-o", "wide"])?);
    Ok(())
}

pub fn uninstall() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    // Tenants first, while the operator that cleans up after them runs.
    host.run(&["delete", "virtualclusters", "--all", "--all-namespaces", "--ignore-not-found", "--timeout=110s"])?;
    run(helm(&paths).args(["uninstall", "nestling", "--namespace", SYSTEM, "--ignore-not-found", "--wait"]), None, HELM)?
        .ok("helm uninstall")?;
    host.run(&["delete", "namespace", SYSTEM, EXAMPLE, "--ignore-not-found", "--timeout=110s"])?;
    host.run(&["delete", "-f", &paths.root().join("charts/nestling/crds").to_string_lossy(), "--ignore-not-found", "--timeout=60s"])?;
    Ok(())
}

fn helm(paths: &Paths) -> Command {
    let mut command = Command::new(paths.program("helm"));
    command.arg("--kubeconfig").arg(paths.host_kubeconfig());
    command
}

pub fn tenant() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    let examples = paths.root().join("e2e").join("examples");
    let folder = paths.state().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    copy_kubeconfig(&paths.host_kubeconfig(), &folder.join("host.kubeconfig"))?;

    println!("==> tenant {NAME} in namespace {EXAMPLE}");
    print!("{}", host.run(&["apply", "-f", &examples.join("tenant.yaml").to_string_lossy()])?);
    wait_ready(&host.in_namespace(EXAMPLE))?;

    let inside = tenant_kubectl(EXAMPLE, NAME, &folder.join("tenant.kubeconfig"))?;

    println!("==> a Deployment of 3 replicas and a Service in the tenant");
    eventually("the default service account exists", Duration::from_secs(30), || inside.run(&["get", "serviceaccount", "default"]))?;
    print!("{}", inside.run(&["apply", "-f", &examples.join("workload.yaml").to_string_lossy()])?);
    inside.rolled_out("deployment/web")?;
    print!("{}", inside.run(&["get", "nodes"])?);
    print!("{}", inside.run(&["get", "deployments,pods,services", "-o", "wide"])?);
    println!("{}", next_steps());
    Ok(())
}

/// Also when `from` and `to` are one file: `KUBECONFIG` may name the copy of an earlier run.
fn copy_kubeconfig(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == text) {
        return Ok(());
    }
    // It has the key of an admin.
    let _ = fs::remove_file(to);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).and_then(|mut file| file.write_all(&text));
    written.with_context(|| format!("write {}", to.display()))
}

/// Prints each condition as it changes.
fn wait_ready(host: &Kubectl) -> Result<()> {
    let begun = Instant::now();
    let mut seen = String::new();
    let path = "{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}";
    while begun.elapsed() < READY {
        let now = host.run(&["get", "virtualcluster", NAME, "-o", &format!("jsonpath={path}")])?;
        // Ready, Progressing and Degraded repeat one of the others.
        let summary = |line: &str| ["Ready=False", "Progressing=", "Degraded="].iter().any(|start| line.starts_with(start));
        for line in now.lines().filter(|line| !summary(line) && !seen.lines().any(|old| old == *line)) {
            println!("    {:>5.1} s  {line}", begun.elapsed().as_secs_f64());
        }
        if now.lines().any(|line| line.starts_with("Ready=True")) {
            return Ok(());
        }
        seen = now;
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("tenant {NAME} is not Ready after {READY:?}:\n{seen}")
}

fn next_steps() -> String {
    format!(
        "
The tenant is a Kubernetes cluster of its own. Use it:

    export PATH=\"$PWD/.nestling/bin:$PATH\"
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig get nodes,pods -A
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig exec -it deploy/web -- /agnhost help
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig logs -f deploy/web

and look at it from the host:

    export KUBECONFIG=.nestling/demo/host.kubeconfig
    kubectl get virtualclusters -A
    kubectl nestling describe {NAME} -n {EXAMPLE}
    kubectl get pods -A

`make demo-down` removes everything."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copying_a_kubeconfig_onto_itself_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "kind: Config").unwrap();
        copy_kubeconfig(&from, &to).unwrap();
        copy_kubeconfig(&to, &to).unwrap();
        std::os::unix::fs::symlink(&to, folder.path().join("link")).unwrap();
        copy_kubeconfig(&folder.path().join("link"), &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "kind: Config");
        fs::write(&from, "kind: Other").unwrap();
        copy_kubeconfig(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "kind: Other");
    }
}
