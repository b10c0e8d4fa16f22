//! A tenant goes from one minor version of Kubernetes to the next: kube-apiserver before the controllers, and no pod of the tenant
//! notices.

use anyhow::{Context, Result, ensure};
use nestling_e2e::suite::{AGNHOST, Kubectl, Tenant, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FROM: &str = "v1.36.3";
const TO: &str = "v1.37.2";

/// Versions that the pods of a part were made for.
fn versions(tenant: &Tenant, component: &str) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*]}{.metadata.labels.nestling\\.dev/version}{\"\\n\"}{end}";
    let text = tenant.host().run(&["get", "pods", "-l", &format!("nestling.dev/component={component}"), "-o", path])?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_minor_upgrade_changes_kube_apiserver_first_and_no_pod_of_the_tenant() -> Result<()> {
    let tenant = Tenant::create("upgrade", &format!("{{version: {FROM}}}"))?;
    let status = |path: &str| tenant.host().field("virtualcluster/upgrade", &format!(".status.{path}"));
    ensure!(status("version")? == FROM && status("release.kubernetes")? == FROM);
    // A kubelet is never newer than its kube-apiserver.
    let kubelets = || tenant.kubectl().run(&["get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"]);
    ensure!(kubelets()?.split_whitespace().all(|version| version == FROM), "{}", kubelets()?);
    let ns = tenant.namespace("kept")?;
    ns.run(&["run", "kept", "--image", AGNHOST, "--command", "--", "/agnhost", "pause"])?;
    ns.wait_for("pod/kept", "condition=Ready", 60)?;
    let uid = ns.field("pod/kept", ".metadata.uid")?;

    let patch = format!("{{\"spec\":{{\"version\":\"{TO}\"}}}}");
    tenant.host().run(&["patch", "virtualcluster", "upgrade", "--type=merge", "-p", &patch])?;
    let mut controllers_first = None;
    eventually("all of the control plane runs the new version", Duration::from_secs(240), || {
        let (controllers, api_servers) = (versions(&tenant, "controllers")?, versions(&tenant, "control-plane")?);
        if controllers.iter().any(|version| version == TO) && api_servers.iter().any(|version| version != TO) {
            controllers_first = Some(format!("controllers {controllers:?} beside kube-apiserver {api_servers:?}"));
        }
        ensure!(
            !controllers.is_empty() && controllers.iter().chain(&api_servers).all(|version| version == TO),
            "{controllers:?} {api_servers:?}"
        );
        ensure!(status("version")? == TO);
        Ok(())
    })?;
    ensure!(controllers_first.is_none(), "{controllers_first:?}");
    tenant.host().wait_for("virtualcluster/upgrade", "condition=Ready", 120)?;
    eventually("nodes report the new version", Duration::from_secs(60), || {
        ensure!(kubelets()?.split_whitespace().all(|version| version == TO), "{}", kubelets()?);
        Ok(())
    })?;
    ensure!(ns.field("pod/kept", ".metadata.uid")? == uid && ns.field("pod/kept", ".status.containerStatuses[0].restartCount")? == "0");

    let back =
        tenant.host().output(&["patch", "virtualcluster", "upgrade", "--type=merge", "-p", "{\"spec\":{\"version\":\"v1.36.3\"}}"])?;
    ensure!(!back.status.success() && back.stderr.contains("downgrade"), "{back:?}");
    Ok(())
}

/// The tag of the image that a Deployment asks for.
fn asks(tenant: &Tenant, deployment: &str, container: &str) -> Result<String> {
    let path = format!(".spec.template.spec.containers[?(@.name==\"{container}\")].image");
    let image = tenant.host().field(&format!("deployment/{deployment}"), &path)?;
    image.rsplit(':').next().map(ToOwned::to_owned).context("no tag")
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_minor_upgrade_fails_no_request_where_another_kube_apiserver_takes_over() -> Result<()> {
    let tenant = Tenant::create("live", &format!("{{version: {FROM}, topology: External, etcd: {{storage: {{medium: Memory}}}}}}"))?;
    let cluster = "virtualcluster/live";
    ensure!(tenant.host().field(cluster, ".status.version")? == FROM);
    let ns = tenant.namespace("app")?;
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let requests = threads.spawn(|| reads_and_writes(&ns, &done));
        let upgraded = upgrade(&tenant, cluster);
        done.store(true, Ordering::Relaxed);
        let made = requests.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        upgraded?;
        ensure!(made? > 10, "the client made too few requests to show anything");
        anyhow::Ok(())
    })?;
    Ok(())
}

fn upgrade(tenant: &Tenant, cluster: &str) -> Result<()> {
    tenant.host().run(&["patch", cluster, "--type=merge", "-p", &format!("{{\"spec\":{{\"version\":\"{TO}\"}}}}")])?;
    let mut apiserver_first = false;
    eventually("all of the control plane is to run the new version", Duration::from_secs(150), || {
        let apiserver = asks(tenant, "live-apiserver", "kube-apiserver")?;
        let controllers = asks(tenant, "live-controllers", "kube-scheduler")?;
        apiserver_first |= apiserver == TO && controllers == FROM;
        ensure!(apiserver == TO && controllers == TO, "{apiserver}, {controllers}");
        Ok(())
    })?;
    ensure!(apiserver_first, "the controllers did not wait for kube-apiserver");
    tenant.host().rolled_out("deployment/live-controllers")?;
    tenant.host().wait_for(cluster, &format!("jsonpath={{.status.version}}={TO}"), 60)?;
    tenant.host().wait_for(cluster, "condition=Ready", 60)
}

/// One read and one write after the other until `done`, each tried again for as long as an ordinary client does. The number made.
fn reads_and_writes(kubectl: &Kubectl, done: &AtomicBool) -> Result<usize> {
    kubectl.run(&["create", "configmap", "counter"])?;
    let mut made = 0;
    while !done.load(Ordering::Relaxed) {
        eventually("a request succeeds", Duration::from_secs(5), || {
            kubectl.run(&["patch", "configmap", "counter", "--type=merge", "-p", &format!("{{\"data\":{{\"n\":\"{made}\"}}}}")])?;
            ensure!(kubectl.field("configmap/counter", ".data.n")? == made.to_string());
            Ok(())
        })?;
        made += 1;
    }
    Ok(made)
}
