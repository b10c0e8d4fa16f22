//! A pod's environment, containers, probes and volumes, and its status.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{BUSYBOX, eventually, shared};
use std::time::Duration;

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn environment_expansion_downward_api_and_service_variables() -> Result<()> {
    let ns = shared()?.namespace("environment")?;
    ns.run(&["create", "service", "clusterip", "store", "--tcp=80:8080"])?;
    ns.run(&["create", "configmap", "settings", "--from-literal=MODE=fast"])?;
    ns.run(&["create", "secret", "generic", "keys", "--from-literal=TOKEN=s3cret"])?;
    // Service variables are fixed when the pod starts, so the Service must have reached the node's agent before.
    let address = ns.field("service/store", ".spec.clusterIP")?;
    ns.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: show, labels: {{tier: front}}, annotations: {{note: here}}}}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: {BUSYBOX}
    command: [sh, -c, 'env; cat /info/labels; echo; hostname']
    resources: {{requests: {{cpu: 20m}}, limits: {{memory: 64Mi}}}}
    envFrom: [{{configMapRef: {{name: settings}}}}]
    env:
    - {{name: BASE, value: abc}}
    - {{name: EXPANDED, value: '$(BASE)-$(STORE_SERVICE_HOST)-$$(BASE)'}}
    - {{name: SECRET, valueFrom: {{secretKeyRef: {{name: keys, key: TOKEN}}}}}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
    - {{name: POD_UID, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}
    - {{name: TIER, valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['tier']"}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: ADDRESS, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}
    volumeMounts: [{{name: info, mountPath: /info}}]
  volumes:
  - name: info
    downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
"#
    ))?;
    ns.wait_for("pod/show", "jsonpath={.status.phase}=Succeeded", 60)?;
    let text = ns.run(&["logs", "show"])?;
    let field = |path: &str| ns.field("pod/show", path);
    for line in [
        "MODE=fast".to_owned(),
        format!("EXPANDED=abc-{address}-$(BASE)"),
        "SECRET=s3cret".into(),
        "POD=show".into(),
        "NAMESPACE=environment".into(),
        format!("POD_UID={}", field(".metadata.uid")?),
        "TIER=front".into(),
        format!("NODE={}", field(".spec.nodeName")?),
        format!("ADDRESS={}", field(".status.podIP")?),
        format!("MEMORY={}", 64 * 1024 * 1024),
        format!("STORE_SERVICE_HOST={address}"),
        "KUBERNETES_SERVICE_PORT=443".into(),
        "tier=\"front\"".into(),
        "show".into(),
    ] {
        ensure!(text.lines().any(|l| l == line), "no {line} in:\n{text}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn init_containers_and_sidecars_run_in_order() -> Result<()> {
    let ns = shared()?.namespace("init")?;
    ns.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: steps}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{{name: v, emptyDir: {{}}}}]
  initContainers:
  - {{name: first, image: '{BUSYBOX}', command: [sh, -c, 'echo first >> /v/log'], volumeMounts: [{{name: v, mountPath: /v}}]}}
  - {{name: side, image: '{BUSYBOX}', restartPolicy: Always, command: [sh, -c, 'echo side >> /v/log; touch /v/up; sleep 3600'], startupProbe: {{exec: {{command: [test, -e, /v/up]}}, periodSeconds: 1}}, volumeMounts: [{{name: v, mountPath: /v}}]}}
  - {{name: second, image: '{BUSYBOX}', command: [sh, -c, 'echo second >> /v/log'], volumeMounts: [{{name: v, mountPath: /v}}]}}
  containers:
  - {{name: c, image: '{BUSYBOX}', command: [cat, /v/log], volumeMounts: [{{name: v, mountPath: /v}}]}}
"
    ))?;
    ns.wait_for("pod/steps", "jsonpath={.status.phase}=Succeeded", 90)?;
    ensure!(ns.run(&["logs", "steps", "-c", "c"])? == "first\nside\nsecond\n");
    ensure!(ns.field("pod/steps", ".status.initContainerStatuses[*].name")? == "first side second");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn probes_hooks_and_grace_are_kept() -> Result<()> {
    let ns = shared()?.namespace("probes")?;
    ns.apply(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: probed}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: '{BUSYBOX}'
    command: [sh, -c, 'trap ''sleep 2; exit 0'' TERM; while true; do sleep 0.1; done']
    lifecycle: {{postStart: {{exec: {{command: [touch, /tmp/started]}}}}}}
    readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}
"
    ))?;
    ns.wait_for("pod/probed", "jsonpath={.status.phase}=Running", 60)?;
    ns.run(&["exec", "probed", "--", "test", "-e", "/tmp/started"])?;
    ensure!(ns.field("pod/probed", ".status.conditions[?(@.type==\"Ready\")].status")? == "False");
    ns.run(&["exec", "probed", "--", "touch", "/tmp/ready"])?;
    ns.wait_for("pod/probed", "condition=Ready", 20)?;
    ns.run(&["exec", "probed", "--", "rm", "/tmp/ready"])?;
    ns.wait_for("pod/probed", "condition=Ready=False", 20)?;
    eventually("the failed probe is an event", Duration::from_secs(20), || {
        let events = ns.run(&["get", "events", "--field-selector=involvedObject.name=probed"])?;
        ensure!(events.contains("Unhealthy") && events.contains("Scheduled") && events.contains("Started"), "{events}");
        Ok(())
    })?;
    let begun = std::time::Instant::now();
    ns.run(&["delete", "pod", "probed", "--timeout=30s"])?;
    ensure!(begun.elapsed() >= Duration::from_secs(2), "the container was not given its grace: gone after {:?}", begun.elapsed());
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_missing_image_and_a_missing_configmap_have_the_reasons_of_a_kubelet() -> Result<()> {
    let ns = shared()?.namespace("waiting")?;
    ns.run(&["run", "noimage", "--image=registry.invalid/none:1"])?;
    ns.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: noconfig}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: ['true'], envFrom: [{{configMapRef: {{name: late}}}}]}}]}}}}"
    ))?;
    let reason = |pod: &str| ns.field(&format!("pod/{pod}"), ".status.containerStatuses[0].state.waiting.reason");
    eventually("the image cannot be pulled", Duration::from_secs(60), || {
        let reason = reason("noimage")?;
        ensure!(reason == "ErrImagePull" || reason == "ImagePullBackOff", "{reason}");
        Ok(())
    })?;
    eventually("the container waits for the ConfigMap", Duration::from_secs(30), || {
        ensure!(reason("noconfig")? == "CreateContainerConfigError");
        Ok(())
    })?;
    ns.run(&["create", "configmap", "late", "--from-literal=A=b"])?;
    ns.wait_for("pod/noconfig", "jsonpath={.status.phase}=Succeeded", 90)
}

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
      - serviceAccountToken: {{path: own, audience: vault, expirationSeconds: 600}}
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
    // A kubelet updates within its sync period of a minute plus the delay of its cache.
    eventually("the files follow", Duration::from_secs(150), || {
        let now = (read("/all/mode")?, read("/all/sub/token")?, labelled("stage=\"two\"")?);
        ensure!(now == ("fast".into(), "two".into(), true), "{now:?}");
        Ok(())
    })
}
