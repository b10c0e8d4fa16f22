//! A tenant goes from one minor version of Kubernetes to the next: kube-apiserver before the controllers, and no pod of the tenant
//! notices.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, Tenant, eventually};
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
