//! Where control planes and etcd run.

use anyhow::{Result, ensure};
use nestling_e2e::suite::images::AGNHOST;
use nestling_e2e::suite::{Kubectl, Tenant};

fn a_pod_runs(tenant: &Tenant) -> Result<()> {
    let ns = tenant.namespace("probe")?;
    ns.run(&["run", "probe", "--image", AGNHOST, "--command", "--", "/agnhost", "pause"])?;
    ns.wait_for("pod/probe", "condition=Ready", 60)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn stacked_with_a_volume() -> Result<()> {
    let tenant = Tenant::create("stacked", "{}")?;
    a_pod_runs(&tenant)?;
    ensure!(tenant.host().names(&["statefulsets"])? == ["stacked-control-plane"]);
    ensure!(tenant.host().names(&["deployments"])? == ["stacked-controllers"]);
    ensure!(tenant.host().names(&["persistentvolumeclaims"])?.len() == 1);
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn external_keeps_etcd_apart() -> Result<()> {
    let tenant = Tenant::create("external", "{topology: External}")?;
    a_pod_runs(&tenant)?;
    ensure!(tenant.host().names(&["statefulsets"])? == ["external-etcd"]);
    ensure!(tenant.host().names(&["deployments"])? == ["external-apiserver", "external-controllers"]);
    // The apiserver restarts without touching etcd, and finds everything again.
    tenant.kubectl().run(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    tenant.host().run(&["rollout", "restart", "deployment/external-apiserver"])?;
    tenant.host().rolled_out("deployment/external-apiserver")?;
    ensure!(tenant.kubectl().field("configmap/kept", ".data.a")? == "b");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn single_node_is_all_on_one_node() -> Result<()> {
    let tenant = Tenant::create("single", "{topology: SingleNode, etcd: {storage: {medium: Memory}}}")?;
    a_pod_runs(&tenant)?;
    let nodes = tenant.kubectl().names(&["nodes"])?;
    ensure!(nodes.len() == 1, "{nodes:?}");
    let used = |kubectl: &Kubectl| kubectl.run(&["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"]);
    let workload = Kubectl::host().in_namespace(&tenant.workload_namespace()?);
    for line in used(tenant.host())?.lines().chain(used(&workload)?.lines()) {
        ensure!(line == nodes[0], "a pod runs on {line}, not on {}", nodes[0]);
    }
    Ok(())
}
