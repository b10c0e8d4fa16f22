//! An example tenant and its workload.

use crate::suite::{Kubectl, Paths, eventually, tenant_kubectl};
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{Duration, Instant};

/// Host namespace of the example.
pub const NAMESPACE: &str = "team-a";
const NAME: &str = "dev";
const READY: Duration = Duration::from_mins(3);

pub fn tenant() -> Result<()> {
    let (paths, host) = (Paths::default(), Kubectl::host());
    let examples = paths.root().join("e2e").join("examples");
    let folder = paths.state().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    fs::copy(paths.host_kubeconfig(), folder.join("host.kubeconfig")).context("copy the host's kubeconfig")?;

    println!("==> tenant {NAME} in namespace {NAMESPACE}");
    print!("{}", host.run(&["apply", "-f", &examples.join("tenant.yaml").to_string_lossy()])?);
    wait_ready(&host.in_namespace(NAMESPACE))?;

    let inside = tenant_kubectl(NAMESPACE, NAME, &folder.join("tenant.kubeconfig"))?;

    println!("==> a Deployment of 3 replicas and a Service in the tenant");
    eventually("the default service account exists", Duration::from_secs(30), || inside.run(&["get", "serviceaccount", "default"]))?;
    print!("{}", inside.run(&["apply", "-f", &examples.join("workload.yaml").to_string_lossy()])?);
    inside.rolled_out("deployment/web")?;
    print!("{}", inside.run(&["get", "nodes"])?);
    print!("{}", inside.run(&["get", "deployments,pods,services", "-o", "wide"])?);
    println!("{}", next_steps());
    Ok(())
}

/// Prints each condition as it changes.
fn wait_ready(host: &Kubectl) -> Result<()> {
    let begun = Instant::now();
    let mut seen = String::new();
    let path = "{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}";
    while begun.elapsed() < READY {
        let now = host.run(&["get", "virtualcluster", NAME, "-o", &format!("jsonpath={path}")])?;
        // Ready, Progressing and Degraded repeat what one of the others says.
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
The tenant is a Kubernetes of its own. Go on with:

    export PATH=\"$PWD/.nestling/bin:$PATH\"
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig get nodes,pods -A
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig exec -it deploy/web -- /agnhost help
    kubectl --kubeconfig .nestling/demo/tenant.kubeconfig logs -f deploy/web

and look at it from the host's side:

    export KUBECONFIG=.nestling/demo/host.kubeconfig
    kubectl get virtualclusters -A
    kubectl nestling describe {NAME} -n {NAMESPACE}
    kubectl get pods -A

`make demo-down` removes everything again."
    )
}
