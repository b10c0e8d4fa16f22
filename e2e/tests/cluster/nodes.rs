//! The tenant's nodes are the host's nodes.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, eventually, shared};
use serde_json::Value;
use std::time::Duration;

fn node(of: &Kubectl, name: &str) -> Result<Value> {
    of.json(&["get", "node", name])
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn every_host_node_is_a_ready_node_with_its_version_zone_and_capacity() -> Result<()> {
    let (host, tenant) = (Kubectl::host(), shared()?.kubectl());
    let names = host.names(&["nodes"])?;
    ensure!(names.len() > 1, "a host of several nodes is needed: {names:?}");
    eventually("all host nodes are Ready in the tenant", Duration::from_secs(60), || {
        ensure!(tenant.names(&["nodes"])? == names);
        for name in &names {
            tenant.wait_for(&format!("node/{name}"), "condition=Ready", 1)?;
        }
        Ok(())
    })?;
    for name in &names {
        let (ours, theirs) = (node(tenant, name)?, node(&host, name)?);
        for label in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region", "kubernetes.io/hostname", "kubernetes.io/arch"] {
            ensure!(ours["metadata"]["labels"][label] == theirs["metadata"]["labels"][label], "{name}: label {label} differs");
        }
        for path in [
            "/status/nodeInfo/kubeletVersion",
            "/status/nodeInfo/containerRuntimeVersion",
            "/status/capacity/cpu",
            "/status/capacity/memory",
        ] {
            ensure!(ours.pointer(path).is_some() && ours.pointer(path) == theirs.pointer(path), "{name}: {path} differs");
        }
        ensure!(ours["spec"]["providerID"].as_str().is_some_and(|id| !id.is_empty()), "{name} has a provider ID");
        ensure!(ours["spec"]["taints"].is_null(), "{name} has taints left: {}", ours["spec"]["taints"]);
        ensure!(ours["status"]["addresses"] == theirs["status"]["addresses"], "{name}: addresses differ");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn node_leases_are_renewed() -> Result<()> {
    let tenant = shared()?.kubectl().in_namespace("kube-node-lease");
    let name = tenant.names(&["leases"])?.into_iter().next().unwrap_or_default();
    let renewed = || tenant.field(&format!("lease/{name}"), ".spec.renewTime");
    let first = renewed()?;
    eventually("the lease is renewed", Duration::from_secs(25), || {
        ensure!(renewed()? != first);
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn describe_node_shows_its_pods_and_conditions() -> Result<()> {
    let tenant = shared()?.kubectl();
    let name = tenant.names(&["nodes"])?.into_iter().next().unwrap_or_default();
    let text = tenant.run(&["describe", "node", &name])?;
    for part in ["KubeletReady", "Allocatable:", "Non-terminated Pods:", "Allocated resources:"] {
        ensure!(text.contains(part), "no {part} in:\n{text}");
    }
    Ok(())
}
