//! What the spec's control-plane fields do.

use anyhow::{Result, ensure};
use nestling_e2e::suite::images::BUSYBOX;
use nestling_e2e::suite::{Tenant, eventually, hold, shared};
use std::time::Duration;

const EVERY_MINUTE: &str = "{apiVersion: batch/v1, kind: CronJob, metadata: {name: tick}, spec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'BUSYBOX', command: ['true']}]}}}}}}";

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_controller_left_out_does_not_run() -> Result<()> {
    let tenant = Tenant::create(
        "no-cronjob",
        "{etcd: {storage: {medium: Memory}}, controlPlane: {controllerManager: {controllers: ['*', '-cronjob']}}}",
    )?;
    let (without, with) = (tenant.namespace("cron")?, shared()?.namespace("cron")?);
    let manifest = EVERY_MINUTE.replace("BUSYBOX", BUSYBOX);
    without.apply(&manifest)?;
    with.apply(&manifest)?;
    eventually("the schedule fires where the controller runs", Duration::from_secs(100), || {
        ensure!(!with.names(&["jobs"])?.is_empty());
        Ok(())
    })?;
    hold("no job without the controller", Duration::from_secs(5), || {
        ensure!(without.names(&["jobs"])?.is_empty());
        Ok(())
    })?;
    // Other controllers do run there.
    without.run(&["create", "job", "by-hand", "--image", BUSYBOX, "--", "true"])?;
    without.wait_for("job/by-hand", "condition=Complete", 60)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn service_cidr_and_cluster_domain_are_the_tenants_own() -> Result<()> {
    let tenant = Tenant::create(
        "domain",
        "{etcd: {storage: {medium: Memory}}, network: {serviceCIDR: 10.77.0.0/20, clusterDomain: tenant.example}}",
    )?;
    ensure!(tenant.kubectl().field("service/kubernetes", ".spec.clusterIP")? == "10.77.0.1");
    ensure!(tenant.kubectl().in_namespace("kube-system").field("service/kube-dns", ".spec.clusterIP")? == "10.77.0.10");
    let ns = tenant.namespace("names")?;
    ns.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: ask}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, 'cat /etc/resolv.conf; nslookup kubernetes.default.svc.tenant.example']}}]}}}}"))?;
    ns.wait_for("pod/ask", "jsonpath={.status.phase}=Succeeded", 60)?;
    let text = ns.run(&["logs", "ask"])?;
    ensure!(text.contains("names.svc.tenant.example") && text.contains("10.77.0.1"), "{text}");
    Ok(())
}
