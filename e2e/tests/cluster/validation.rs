//! Bad input is refused where it is first seen, by name, and never stops others.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, Namespace, Tenant, eventually};
use std::time::Duration;

fn spec(text: &str) -> String {
    format!("{{apiVersion: nestling.dev/v1alpha1, kind: VirtualCluster, metadata: {{name: bad}}, spec: {text}}}")
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn apply_refuses_what_can_never_be_right() -> Result<()> {
    let ns = Namespace::create(&Kubectl::host(), "e2e-refused")?;
    for (bad, says) in [
        ("{topology: Ring}", "topology"),
        ("{topology: SingleNode, controlPlane: {replicas: 3}}", "replicas"),
        ("{topology: Stacked, controlPlane: {replicas: 2}}", "odd"),
        ("{network: {serviceCIDR: nonsense}}", "serviceCIDR"),
        ("{controlPlane: {apiServer: {extraArgs: {etcd-servers: 'https://elsewhere:2379'}}}}", "etcd-servers"),
        ("{hibernate: true}", "not supported yet"),
        ("{version: banana}", "version"),
    ] {
        let refused = ns.try_apply(&spec(bad))?;
        ensure!(!refused.status.success() && refused.stderr.contains(says), "{bad} was answered: {refused:?}");
    }
    ensure!(ns.names(&["virtualclusters"])?.is_empty());
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn immutable_fields_stay() -> Result<()> {
    let ns = Tenant::apply("immutable", "{etcd: {storage: {medium: Memory}}}")?;
    for (patch, says) in [
        ("{\"spec\":{\"topology\":\"External\"}}", "topology"),
        ("{\"spec\":{\"network\":{\"clusterDomain\":\"other.local\"}}}", "clusterDomain"),
        ("{\"spec\":{\"etcd\":{\"storage\":{\"medium\":null}}}}", "storage"),
    ] {
        let refused = ns.output(&["patch", "virtualcluster", "immutable", "--type=merge", "-p", patch])?;
        ensure!(!refused.status.success() && refused.stderr.contains(says), "{patch} was answered: {refused:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn what_only_the_operator_can_judge_becomes_a_condition_and_an_event() -> Result<()> {
    // The range is well-formed, but it is the host's own service range.
    let range = Kubectl::host().run(&["get", "servicecidrs", "kubernetes", "-o", "jsonpath={.spec.cidrs[0]}"])?;
    let ns = Tenant::apply("overlap", &format!("{{network: {{serviceCIDR: {range}}}}}"))?;
    eventually("Valid is False and names the field", Duration::from_secs(20), || {
        let condition = ns.field("virtualcluster/overlap", ".status.conditions[?(@.type==\"Valid\")]")?;
        ensure!(condition.contains("\"False\"") && condition.contains("serviceCIDR"), "{condition}");
        let events = ns.run(&["get", "events", "--field-selector=type=Warning,involvedObject.name=overlap"])?;
        ensure!(events.contains("serviceCIDR"), "{events}");
        Ok(())
    })?;
    ensure!(ns.names(&["statefulsets"])?.is_empty(), "nothing is built from an invalid spec");
    // Others come up meanwhile.
    Tenant::create("beside-bad", "{etcd: {storage: {medium: Memory}}}").map(drop)
}
