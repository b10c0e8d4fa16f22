//! ConfigMaps, Secrets and tokens in pods, and their updates.

use anyhow::{Result, ensure};
use nestling_e2e::suite::images::BUSYBOX;
use nestling_e2e::suite::{eventually, shared};
use std::time::Duration;

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn configmaps_secrets_and_labels_follow_their_source() -> Result<()> {
    let ns = shared()?.namespace("volumes")?;
    ns.run(&["create", "configmap", "settings", "--from-literal=mode=slow"])?;
    ns.run(&["create", "secret", "generic", "keys", "--from-literal=token=one"])?;
    ns.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: reader, labels: {{stage: one}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: c, image: '{BUSYBOX}', command: [sleep, '3600'], volumeMounts: [{{name: all, mountPath: /all}}]}}
  volumes:
  - name: all
    projected:
      sources:
      - configMap: {{name: settings}}
      - secret: {{name: keys, items: [{{key: token, path: sub/token, mode: 256}}]}}
      - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
      - serviceAccountToken: {{path: own, audience: somebody, expirationSeconds: 600}}
"
    ))?;
    ns.wait_for("pod/reader", "condition=Ready", 60)?;
    let read = |path: &str| ns.run(&["exec", "reader", "--", "cat", path]);
    ensure!(read("/all/mode")? == "slow" && read("/all/sub/token")? == "one");
    // Kubernetes adds labels of its own, such as the node's zone.
    let labelled = |label: &str| anyhow::Ok(read("/all/labels")?.lines().any(|line| line == label));
    ensure!(labelled("stage=\"one\"")?, "{}", read("/all/labels")?);
    ensure!(read("/all/own")?.split('.').count() == 3, "the token is no JWT");
    ensure!(read("/var/run/secrets/kubernetes.io/serviceaccount/namespace")? == ns.name());

    ns.run(&["patch", "configmap", "settings", "--type=merge", "-p", "{\"data\":{\"mode\":\"fast\"}}"])?;
    ns.run(&["patch", "secret", "keys", "--type=merge", "-p", "{\"stringData\":{\"token\":\"two\"}}"])?;
    ns.run(&["label", "pod", "reader", "stage=two", "--overwrite"])?;
    // A kubelet looks again within its sync period of a minute, plus the time of its cache.
    eventually("the files follow", Duration::from_secs(150), || {
        let now = (read("/all/mode")?, read("/all/sub/token")?, labelled("stage=\"two\"")?);
        ensure!(now == ("fast".into(), "two".into(), true), "{now:?}");
        Ok(())
    })
}
