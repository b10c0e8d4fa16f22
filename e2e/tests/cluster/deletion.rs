//! Deleting a `VirtualCluster` leaves nothing on the host.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, Kubectl, Paths, Tenant, eventually, manifest, tenant_kubectl};
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

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn retained_data_is_taken_over_when_asked_for_and_never_by_name() -> Result<()> {
    let tenant = Tenant::create("kept", "{}")?;
    tenant.kubectl().run(&["create", "configmap", "marker", "--from-literal=a=b"])?;
    let host = tenant.host();
    let uid = host.field("virtualcluster/kept", ".metadata.uid")?;
    // Decided while nothing is reconciled, and all the same carried out.
    host.run(&["patch", "virtualcluster", "kept", "--type=merge", "-p", "{\"spec\":{\"paused\":true,\"deletionPolicy\":\"Retain\"}}"])?;
    host.run(&["delete", "virtualcluster", "kept", "--timeout=90s"])?;
    let claim = "persistentvolumeclaim/data-kept-control-plane-0";
    ensure!(host.field(claim, ".metadata.ownerReferences")?.is_empty(), "the claim has an owner that will take it along");
    ensure!(host.field(claim, ".metadata.labels.nestling\\.dev/tenant")? == uid);

    host.apply(&manifest("kept", "{}"))?;
    eventually("a cluster of the same name is refused", Duration::from_secs(30), || {
        let message = host.field("virtualcluster/kept", ".status.conditions[?(@.type==\"Ready\")].message")?;
        ensure!(message.contains("spec.etcd.adopt") && message.contains(&uid), "{message}");
        Ok(())
    })?;
    ensure!(host.names(&["statefulsets"])?.is_empty(), "a control plane was made");

    host.apply(&manifest("kept", &format!("{{etcd: {{adopt: {uid}}}}}")))?;
    host.wait_for("virtualcluster/kept", "condition=Ready", 110)?;
    let again = tenant_kubectl(host.name(), "kept", &Paths::default().tenant_kubeconfig(host.name(), "kept"))?;
    ensure!(again.field("configmap/marker", ".data.a")? == "b", "the data is not that of the earlier cluster");
    ensure!(host.field(claim, ".metadata.labels.nestling\\.dev/tenant")? == host.field("virtualcluster/kept", ".metadata.uid")?);
    Ok(())
}
