//! Deleting a `VirtualCluster` leaves nothing on the host.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, Kubectl, Tenant, eventually};
use std::time::Duration;

/// Every namespaced object that carries the label, of every kind that can be listed.
fn labelled(selector: &str) -> Result<Vec<String>> {
    let host = Kubectl::host();
    let kinds = host.run(&["api-resources", "--verbs=list", "-o", "name"])?;
    // Events expire by themselves, as on any cluster; the rest of the list is every kind there is.
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("componentstatuses")).collect();
    let text = host.run(&["get", &kinds.join(","), "-A", "-l", selector, "--ignore-not-found", "-o", "name"])?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn nothing_is_left_after_deletion() -> Result<()> {
    let tenant = Tenant::create("gone", "{}")?;
    let host = Kubectl::host();
    let ns = tenant.namespace("work")?;
    ns.run(&["create", "deployment", "web", "--image", AGNHOST, "--replicas=3", "--", "/agnhost", "pause"])?;
    ns.run(&["create", "configmap", "settings", "--from-literal=a=b"])?;
    ns.rolled_out("deployment/web")?;
    let uid = tenant.host().field("virtualcluster/gone", ".metadata.uid")?;
    let workload = tenant.workload_namespace()?;
    let selector = format!("nestling.dev/tenant={uid}");
    ensure!(labelled(&selector)?.len() > 10, "the label finds what there is");
    let volume = tenant.host().field("persistentvolumeclaim", ".items[0].spec.volumeName")?;
    ensure!(!volume.is_empty(), "etcd has a volume");

    tenant.host().run(&["delete", "virtualcluster", "gone", "--timeout=90s"])?;
    eventually("nothing is left", Duration::from_secs(60), || {
        let left = labelled(&selector)?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(!host.names(&["namespaces"])?.contains(&workload), "{workload}");
        ensure!(!host.names(&["persistentvolumes"])?.contains(&volume), "{volume}");
        let rest = tenant.host().run(&[
            "get",
            "all,secrets,configmaps,serviceaccounts,persistentvolumeclaims,poddisruptionbudgets,networkpolicies,roles,rolebindings",
            "-o",
            "name",
        ])?;
        let rest: Vec<&str> =
            rest.lines().filter(|name| !["configmap/kube-root-ca.crt", "serviceaccount/default"].contains(name)).collect();
        ensure!(rest.is_empty(), "{rest:?}");
        Ok(())
    })
}
