//! A cluster that hibernates runs nothing, keeps its data, and wakes with the pods that it had.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, Kubectl, Tenant, eventually};
use std::time::Duration;

fn pod(name: &str, restart_policy: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: {restart_policy}\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: main, image: {AGNHOST}, args: [netexec]}}]\n"
    )
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_cluster_hibernates_and_wakes_with_its_pods() -> Result<()> {
    let tenant = Tenant::create("asleep", "{}")?;
    let ns = tenant.namespace("work")?;
    ns.apply(&pod("server", "Always"))?;
    ns.apply(&pod("task", "Never"))?;
    ns.run(&["expose", "pod", "server", "--name=front", "--port=80", "--target-port=8080"])?;
    for name in ["pod/server", "pod/task"] {
        ns.wait_for(name, "condition=Ready", 60)?;
    }
    let uid = ns.field("pod/server", ".metadata.uid")?;
    let (host, workload) = (tenant.host(), Kubectl::host().in_namespace(&tenant.workload_namespace()?));
    let set = |value: bool| {
        host.run(&["patch", "virtualcluster", "asleep", "--type=merge", "-p", &format!("{{\"spec\":{{\"hibernate\":{value}}}}}")])
    };

    set(true)?;
    host.wait_for("virtualcluster/asleep", "condition=Hibernated", 110)?;
    ensure!(host.names(&["pods"])?.is_empty(), "the control plane runs");
    eventually("the tenant's pods are stopped", Duration::from_secs(60), || {
        let left = workload.names(&["pods"])?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(host.field("virtualcluster/asleep", ".status.phase")? == "Hibernated");

    set(false)?;
    host.wait_for("virtualcluster/asleep", "condition=Ready", 110)?;
    eventually("the same pod runs again, and is reached", Duration::from_secs(90), || {
        ensure!(ns.field("pod/server", ".metadata.uid")? == uid);
        // A status that says so and a host pod that is: the first alone may be from before.
        let running = workload.run(&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"])?;
        ensure!(running.contains("server"), "{running}");
        ns.run(&["exec", "server", "--", "/agnhost", "connect", "--timeout=2s", "front:80"])
    })?;
    eventually("a pod that is never restarted has failed", Duration::from_secs(60), || {
        let (phase, reason) = (ns.field("pod/task", ".status.phase")?, ns.field("pod/task", ".status.reason")?);
        ensure!((phase.as_str(), reason.as_str()) == ("Failed", "PodRemovedByHost"), "{phase} {reason}");
        Ok(())
    })
}
