//! Controllers of the tenant's own kube-controller-manager, with pods on real nodes.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, BUSYBOX, eventually, shared};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_deployment_is_created_scaled_rolled_out_and_healed() -> Result<()> {
    let ns = shared()?.namespace("deployment")?;
    ns.run(&["create", "deployment", "web", "--image", AGNHOST, "--replicas=2", "--", "/agnhost", "netexec"])?;
    ns.rolled_out("deployment/web")?;

    ns.run(&["scale", "deployment/web", "--replicas=4"])?;
    ns.rolled_out("deployment/web")?;
    ensure!(ns.names(&["pods", "-l", "app=web"])?.len() == 4);

    ns.run(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    ns.rolled_out("deployment/web")?;
    ensure!(ns.run(&["rollout", "history", "deployment/web"])?.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2);
    ns.run(&["rollout", "undo", "deployment/web"])?;
    ns.rolled_out("deployment/web")?;

    let victim = eventually("what the rollout took down is gone", Duration::from_secs(60), || {
        let mut pods = ns.names(&["pods", "-l", "app=web"])?;
        ensure!(pods.len() == 4, "{pods:?}");
        Ok(pods.remove(0))
    })?;
    ns.run(&["delete", "pod", &victim, "--timeout=60s"])?;
    eventually("four pods again, without the deleted one", Duration::from_secs(60), || {
        let pods = ns.names(&["pods", "-l", "app=web", "--field-selector=status.phase=Running"])?;
        ensure!(pods.len() == 4 && !pods.contains(&victim), "{pods:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_daemonset_lands_on_every_node() -> Result<()> {
    let tenant = shared()?;
    let ns = tenant.namespace("daemonset")?;
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: each}}, spec: {{selector: {{matchLabels: {{app: each}}}}, template: {{metadata: {{labels: {{app: each}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{AGNHOST}', args: [pause]}}]}}}}}}}}"
    ))?;
    ns.rolled_out("daemonset/each")?;
    let nodes: BTreeSet<String> = ns
        .run(&["get", "pods", "-l", "app=each", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"])?
        .lines()
        .map(str::to_owned)
        .collect();
    ensure!(nodes == tenant.kubectl().names(&["nodes"])?.into_iter().collect(), "{nodes:?}");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_statefulset_comes_and_goes_in_order() -> Result<()> {
    let ns = shared()?.namespace("statefulset")?;
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: db}}, spec: {{serviceName: db, replicas: 3, selector: {{matchLabels: {{app: db}}}}, template: {{metadata: {{labels: {{app: db}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{AGNHOST}', args: [netexec], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}}}}}}}"
    ))?;
    ns.rolled_out("statefulset/db")?;
    let ready_at = |i: usize| ns.field(&format!("pod/db-{i}"), ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime");
    let started_at = |i: usize| ns.field(&format!("pod/db-{i}"), ".metadata.creationTimestamp");
    for i in 1..3 {
        // Both are RFC 3339 in UTC with seconds, so they compare as text.
        ensure!(started_at(i)? >= ready_at(i - 1)?, "db-{i} was made before db-{} was ready", i - 1);
    }
    ns.run(&["scale", "statefulset/db", "--replicas=1"])?;
    eventually("only db-0 is left", Duration::from_secs(60), || {
        let pods = ns.names(&["pods"])?;
        ensure!(!pods.contains(&"db-2".to_owned()) || pods.contains(&"db-1".to_owned()), "db-1 went before db-2");
        ensure!(pods == ["db-0"], "{pods:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn jobs_and_cronjobs_finish() -> Result<()> {
    let ns = shared()?.namespace("jobs")?;
    ns.apply(&format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: sum}}, spec: {{completions: 3, parallelism: 2, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, 'echo $((6*7))']}}]}}}}}}}}"
    ))?;
    ns.apply(&format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: tick}}, spec: {{schedule: '* * * * *', jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: ['true']}}]}}}}}}}}}}}}"
    ))?;
    ns.wait_for("job/sum", "condition=Complete", 90)?;
    ensure!(ns.run(&["logs", "job/sum"])?.trim() == "42");
    ns.run(&["create", "job", "now", "--from=cronjob/tick"])?;
    ns.wait_for("job/now", "condition=Complete", 60)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_failing_job_fails_with_its_exit_code() -> Result<()> {
    let ns = shared()?.namespace("failing-job")?;
    ns.apply(&format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: bad}}, spec: {{backoffLimit: 0, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, 'exit 7']}}]}}}}}}}}"
    ))?;
    ns.wait_for("job/bad", "condition=Failed", 60)?;
    let code =
        ns.run(&["get", "pods", "-l", "job-name=bad", "-o", "jsonpath={.items[0].status.containerStatuses[0].state.terminated.exitCode}"])?;
    ensure!(code == "7", "{code}");
    Ok(())
}
