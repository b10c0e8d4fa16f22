//! The tenant's nodes are the host's nodes, and the tenant's own scheduler places pods on them.

use anyhow::{Context, Result, ensure};
use nestling_e2e::suite::{AGNHOST, Kubectl, Namespace, Tenant, eventually, shared};
use serde_json::Value;
use std::collections::BTreeSet;
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

fn deployment(ns: &Namespace, name: &str, replicas: u32, pod_spec: &str) -> Result<()> {
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{AGNHOST}', args: [pause], resources: {{requests: {{cpu: 10m}}}}}}], {pod_spec}}}}}}}}}"
    ))
    .map(drop)
}

fn nodes_of(ns: &Namespace, app: &str) -> Result<Vec<String>> {
    Ok(ns
        .run(&["get", "pods", "-l", &format!("app={app}"), "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"])?
        .lines()
        .map(str::to_owned)
        .collect())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn affinity_anti_affinity_and_taints_decide() -> Result<()> {
    // A tenant of its own: a taint would disturb the tests that share one.
    let tenant = Tenant::create("placement", "{etcd: {storage: {medium: Memory}}}")?;
    let nodes = tenant.kubectl().names(&["nodes"])?;
    let ns = tenant.namespace("placement")?;

    let anti = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]}}";
    deployment(&ns, "apart", u32::try_from(nodes.len())?, anti)?;
    ns.rolled_out("deployment/apart")?;
    ensure!(nodes_of(&ns, "apart")?.into_iter().collect::<BTreeSet<_>>().len() == nodes.len());

    let zone = tenant.kubectl().field(&format!("node/{}", nodes[1]), ".metadata.labels.topology\\.kubernetes\\.io/zone")?;
    deployment(&ns, "zoned", 3, &format!("nodeSelector: {{topology.kubernetes.io/zone: {zone}}}"))?;
    ns.rolled_out("deployment/zoned")?;
    ensure!(nodes_of(&ns, "zoned")?.iter().all(|node| *node == nodes[1]));

    let together = "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: zoned}}}]}}";
    deployment(&ns, "beside", 2, together)?;
    ns.rolled_out("deployment/beside")?;
    ensure!(nodes_of(&ns, "beside")?.iter().all(|node| *node == nodes[1]));

    tenant.kubectl().run(&["taint", "node", &nodes[0], "reserved=yes:NoSchedule"])?;
    deployment(&ns, "shy", 4, "nodeSelector: {}")?;
    ns.rolled_out("deployment/shy")?;
    ensure!(!nodes_of(&ns, "shy")?.contains(&nodes[0]), "a pod without toleration went to the tainted node");
    deployment(
        &ns,
        "bold",
        1,
        &format!(
            "nodeName: '', nodeSelector: {{kubernetes.io/hostname: {}}}, tolerations: [{{key: reserved, operator: Exists}}]",
            nodes[0]
        ),
    )?;
    ns.rolled_out("deployment/bold")?;

    tenant.kubectl().run(&["taint", "node", &nodes[1], "away=now:NoExecute"])?;
    eventually("pods leave the node", Duration::from_secs(60), || {
        ensure!(!nodes_of(&ns, "apart")?.contains(&nodes[1]));
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_pod_that_fits_no_node_stays_pending_with_the_reason() -> Result<()> {
    let ns = shared()?.namespace("too-large")?;
    ns.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: huge}}, spec: {{containers: [{{name: c, image: '{AGNHOST}', resources: {{requests: {{cpu: '1000'}}}}}}]}}}}"))?;
    eventually("the condition has the reason", Duration::from_secs(30), || {
        let message = ns.field("pod/huge", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(message.contains("Insufficient cpu"), "{message}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_scheduler_profile_changes_placement() -> Result<()> {
    let packing = "{etcd: {storage: {medium: Memory}}, controlPlane: {scheduler: {profiles: [{schedulerName: default-scheduler, plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 1}]}}, pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}]}]}}}";
    let tenant = Tenant::create("profile", packing)?;
    let ns = tenant.namespace("packed")?;
    deployment(&ns, "packed", 6, "nodeSelector: {}")?;
    ns.rolled_out("deployment/packed")?;
    let nodes = nodes_of(&ns, "packed")?;
    let first = nodes.first().context("six pods run")?;
    ensure!(nodes.iter().all(|node| node == first), "MostAllocated spread the pods: {nodes:?}");
    // The same Deployment under default profiles spreads, so the above is the profile's doing.
    let ns = shared()?.namespace("spread")?;
    deployment(&ns, "spread", 6, "nodeSelector: {}")?;
    ns.rolled_out("deployment/spread")?;
    ensure!(nodes_of(&ns, "spread")?.into_iter().collect::<BTreeSet<_>>().len() > 1);
    Ok(())
}
