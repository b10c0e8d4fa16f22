//! Input that is not valid or not supported is refused with the name of the field, and does not affect other tenants.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{BUSYBOX, Kubectl, Namespace, Tenant, eventually, shared};
use std::time::Duration;

fn spec(text: &str) -> String {
    format!("{{apiVersion: nestling.dev/v1alpha1, kind: VirtualCluster, metadata: {{name: bad}}, spec: {text}}}")
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn apply_refuses_specs_that_cannot_be_valid() -> Result<()> {
    let ns = Namespace::create(&Kubectl::host(), "e2e-refused")?;
    for (bad, part) in [
        ("{topology: Ring}", "topology"),
        ("{topology: SingleNode, controlPlane: {replicas: 3}}", "replicas"),
        ("{topology: Stacked, controlPlane: {replicas: 2}}", "odd"),
        ("{network: {serviceCIDRs: [nonsense]}}", "serviceCIDRs"),
        ("{controlPlane: {apiServer: {extraArgs: [{name: etcd_servers, value: 'https://elsewhere:2379'}]}}}", "etcd_servers"),
        ("{hibernate: true, etcd: {storage: {medium: Memory}}}", "volume"),
        ("{version: banana}", "version"),
    ] {
        let refused = ns.try_apply(&spec(bad))?;
        ensure!(!refused.status.success() && refused.stderr.contains(part), "{bad}: {refused:?}");
    }
    ensure!(ns.names(&["virtualclusters"])?.is_empty());
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn immutable_fields_cannot_be_changed() -> Result<()> {
    let ns = Tenant::apply("immutable", "{etcd: {storage: {medium: Memory}}}")?;
    for (patch, part) in [
        ("{\"spec\":{\"topology\":\"External\"}}", "topology"),
        ("{\"spec\":{\"network\":{\"clusterDomain\":\"other.local\"}}}", "clusterDomain"),
        ("{\"spec\":{\"etcd\":{\"storage\":{\"medium\":null}}}}", "storage"),
    ] {
        let refused = ns.output(&["patch", "virtualcluster", "immutable", "--type=merge", "-p", patch])?;
        ensure!(!refused.status.success() && refused.stderr.contains(part), "{patch}: {refused:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn what_only_the_operator_can_check_becomes_a_condition_and_an_event() -> Result<()> {
    // The range is well-formed, but it is the host's own service range.
    let range = Kubectl::host().run(&["get", "servicecidrs", "kubernetes", "-o", "jsonpath={.spec.cidrs[0]}"])?;
    let ns = Tenant::apply("overlap", &format!("{{network: {{serviceCIDRs: [{range}]}}}}"))?;
    eventually("Valid is False and names the field", Duration::from_secs(20), || {
        let condition = ns.field("virtualcluster/overlap", ".status.conditions[?(@.type==\"Valid\")]")?;
        ensure!(condition.contains("\"False\"") && condition.contains("serviceCIDRs"), "{condition}");
        let events = ns.run(&["get", "events", "--field-selector=type=Warning,involvedObject.name=overlap"])?;
        ensure!(events.contains("serviceCIDRs"), "{events}");
        Ok(())
    })?;
    ensure!(ns.names(&["statefulsets"])?.is_empty(), "nothing is built from an invalid spec");
    // Other tenants start meanwhile.
    Tenant::create("beside-bad", "{etcd: {storage: {medium: Memory}}}").map(drop)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn an_unhandled_volume_type_is_refused_with_an_event_that_names_it() -> Result<()> {
    let ns = shared()?.namespace("unsupported")?;
    ns.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: nfs}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: ['true']}}], volumes: [{{name: far, nfs: {{server: example.invalid, path: /}}}}]}}}}"
    ))?;
    eventually("the refusal is an event", Duration::from_secs(30), || {
        let events =
            ns.run(&["get", "events", "--field-selector=involvedObject.name=nfs,type=Warning", "-o", "jsonpath={.items[*].message}"])?;
        ensure!(events.contains("nfs") && events.contains("volumes"), "{events}");
        Ok(())
    })?;
    ensure!(ns.field("pod/nfs", ".status.phase")? == "Pending");
    Ok(())
}
