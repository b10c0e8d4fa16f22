//! The tenant's own scheduler decides.

use anyhow::{Context, Result, ensure};
use nestling_e2e::suite::images::AGNHOST;
use nestling_e2e::suite::{Namespace, Tenant, eventually, shared};
use std::collections::BTreeSet;
use std::time::Duration;

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
fn a_pod_too_large_stays_pending_and_says_why() -> Result<()> {
    let ns = shared()?.namespace("too-large")?;
    ns.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: huge}}, spec: {{containers: [{{name: c, image: '{AGNHOST}', resources: {{requests: {{cpu: '1000'}}}}}}]}}}}"))?;
    eventually("the scheduler says why", Duration::from_secs(30), || {
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
