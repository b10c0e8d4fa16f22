//! What the spec's topology and control-plane fields do.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, BUSYBOX, Kubectl, Paths, Tenant, eventually, hold, shared, tenant_kubectl};
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
fn service_cidr_and_cluster_domain_are_those_of_the_tenant() -> Result<()> {
    let tenant = Tenant::create(
        "domain",
        "{etcd: {storage: {medium: Memory}}, network: {serviceCIDRs: [10.77.0.0/20], clusterDomain: tenant.example}}",
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

fn a_pod_runs(tenant: &Tenant) -> Result<()> {
    let ns = tenant.namespace("probe")?;
    ns.run(&["run", "probe", "--image", AGNHOST, "--command", "--", "/agnhost", "pause"])?;
    ns.wait_for("pod/probe", "condition=Ready", 60)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn stacked_with_a_volume() -> Result<()> {
    let tenant = Tenant::create("stacked", "{}")?;
    a_pod_runs(&tenant)?;
    ensure!(tenant.host().names(&["statefulsets"])? == ["stacked-control-plane"]);
    ensure!(tenant.host().names(&["deployments"])? == ["stacked-controllers"]);
    ensure!(tenant.host().names(&["persistentvolumeclaims"])?.len() == 1);
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn external_runs_etcd_in_pods_of_its_own() -> Result<()> {
    let tenant = Tenant::create("external", "{topology: External}")?;
    a_pod_runs(&tenant)?;
    ensure!(tenant.host().names(&["statefulsets"])? == ["external-etcd"]);
    ensure!(tenant.host().names(&["deployments"])? == ["external-apiserver", "external-controllers"]);
    // The apiserver restarts without touching etcd, and finds everything again.
    tenant.kubectl().run(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    tenant.host().run(&["rollout", "restart", "deployment/external-apiserver"])?;
    tenant.host().rolled_out("deployment/external-apiserver")?;
    ensure!(tenant.kubectl().field("configmap/kept", ".data.a")? == "b");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn single_node_is_all_on_one_node() -> Result<()> {
    let tenant = Tenant::create("single", "{topology: SingleNode, etcd: {storage: {medium: Memory}}}")?;
    a_pod_runs(&tenant)?;
    let nodes = tenant.kubectl().names(&["nodes"])?;
    ensure!(nodes.len() == 1, "{nodes:?}");
    let used = |kubectl: &Kubectl| kubectl.run(&["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"]);
    let workload = Kubectl::host().in_namespace(&tenant.workload_namespace()?);
    for line in used(tenant.host())?.lines().chain(used(&workload)?.lines()) {
        ensure!(line == nodes[0], "a pod runs on {line}, not on {}", nodes[0]);
    }
    Ok(())
}

const SETTINGS: &str = "{
  etcd: {storage: {medium: Memory}, extraArgs: [{name: log-level, value: warn}]},
  controlPlane: {
    apiServer: {encryption: {secretRef: {name: keys}}, extraArgs: [{name: event_ttl, value: 2h}]},
    featureGates: {AllAlpha: false},
    podTemplate: {labels: {team: a}},
  },
  nodes: {selector: {matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}, labels: {tier: gold}},
  addons: {coreDNS: {replicas: 2}},
  kubeconfig: {lifetime: 24h},
}";

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn what_the_spec_sets_shows_in_pods_nodes_and_add_ons() -> Result<()> {
    let pending = Tenant::apply("settings", SETTINGS)?;
    eventually("the missing Secret is named", Duration::from_secs(30), || {
        let valid = pending.field("virtualcluster/settings", ".status.conditions[?(@.type==\"Valid\")].message")?;
        ensure!(valid.contains("Secret keys does not exist"), "{valid}");
        Ok(())
    })?;
    let file = "resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}]}}, {identity: {}}]}]";
    pending.run(&["create", "secret", "generic", "keys", &format!("--from-literal=encryption.yaml={file}")])?;
    // The Secret is not the operator's, and so not watched: a change of the spec makes it look again.
    pending.run(&["patch", "virtualcluster", "settings", "--type=merge", "-p", "{\"spec\":{\"isolation\":{\"networkPolicy\":false}}}"])?;
    pending.wait_for("virtualcluster/settings", "condition=Ready", 110)?;

    let args = pending.field("pod/settings-control-plane-0", ".spec.containers[0].args")?;
    ensure!(args.contains("--event-ttl=2h") && args.contains("--feature-gates=AllAlpha=false"), "{args}");
    ensure!(pending.field("pod/settings-control-plane-0", ".metadata.labels.team")? == "a");
    ensure!(
        pending.field("virtualcluster/settings", ".status.release.kubernetes")?
            == pending.field("virtualcluster/settings", ".status.version")?
    );
    let tenant = tenant_kubectl(pending.name(), "settings", &Paths::default().tenant_kubeconfig(pending.name(), "settings"))?;
    let tiers = tenant.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.labels.tier}"])?;
    ensure!(tiers.contains("gold"), "{tiers}");

    let system = tenant.in_namespace("kube-system");
    ensure!(system.field("deployment/coredns", ".spec.replicas")? == "2");
    // The operator repairs its Deployment, and leaves an edited Corefile alone.
    system.run(&["patch", "configmap", "coredns", "--type=merge", "-p", "{\"data\":{\"Corefile\":\".:53 { whoami }\"}}"])?;
    system.run(&["scale", "deployment", "coredns", "--replicas=1"])?;
    eventually("the Deployment is repaired", Duration::from_secs(60), || {
        ensure!(system.field("deployment/coredns", ".spec.replicas")? == "2");
        Ok(())
    })?;
    ensure!(system.field("configmap/coredns", ".data.Corefile")?.contains("whoami"));
    Ok(())
}
