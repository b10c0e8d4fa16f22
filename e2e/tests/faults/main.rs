//! Deleting the operator, the agents or a control-plane pod, and upgrading the operator, loses nothing, and running pods keep running and
//! serving. These tests disturb the whole installation, so they run alone, one after another.
//!
//! Run by `make test`; by hand: `cargo test -p nestling-e2e --test faults -- --ignored --test-threads=1`.

use anyhow::{Context as _, Result, ensure};
use nestling_e2e::suite::{AGNHOST, BUSYBOX, Kubectl, Namespace, Running, Tenant, eventually, hold};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A service with a pod on every node.
fn serving(tenant: &Tenant) -> Result<Namespace> {
    let ns = tenant.namespace("serving")?;
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: web}}, spec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: '{AGNHOST}', args: [netexec]}}]}}}}}}}}"
    ))?;
    ns.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}",
    )?;
    ns.rolled_out("daemonset/web")?;
    Ok(ns)
}

/// Container starts of all pods: (pod, UID, restart count), by pod.
fn lives(ns: &Namespace) -> Result<BTreeMap<String, String>> {
    let pods = ns.json(&["get", "pods"])?;
    Ok(pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| {
            let text = |pointer: &str| pod.pointer(pointer).map(Value::to_string).unwrap_or_default();
            let life = format!(
                "{} {} {}",
                text("/metadata/uid"),
                text("/status/containerStatuses/0/restartCount"),
                text("/status/containerStatuses/0/containerID")
            );
            (text("/metadata/name"), life)
        })
        .collect())
}

/// A pod that calls the service by its address up to ten times a second and prints each result. Its log is read through the host, so
/// that it can be read while the tenant's control plane is down.
fn client(tenant: &Tenant, ns: &Namespace) -> Result<Running> {
    let address = ns.field("service/web", ".spec.clusterIP")?;
    let script = format!("while true; do timeout 2 wget -q -O - http://{address}/hostname || echo FAILED; echo called; sleep 0.1; done");
    ns.run(&["run", "client", "--image", BUSYBOX, "--command", "--", "sh", "-c", &script])?;
    ns.wait_for("pod/client", "condition=Ready", 60)?;
    let workload = Kubectl::host().in_namespace(&tenant.workload_namespace()?);
    let uid = ns.field("pod/client", ".metadata.uid")?;
    let pod = workload.names(&["pods", "-l", &format!("nestling.dev/pod-uid={uid}")])?.remove(0);
    workload.start(&["logs", "-f", &pod])
}

/// Calls since the start, and how many of them failed.
fn calls(client: &Running) -> (usize, usize) {
    let text = client.stdout();
    (text.matches("called").count(), text.matches("FAILED").count())
}

/// At least one call per second of `outage` was made since there were `before`, and none has failed since the start: traffic was neither
/// refused nor held back.
fn traffic_continued(client: &Running, before: usize, outage: Duration) -> Result<()> {
    let (made, failed) = calls(client);
    let during = made - before;
    ensure!(failed == 0, "{failed} of {made} calls failed\n{}", client.stderr());
    ensure!(during as u64 >= outage.as_secs().max(5), "{during} calls in {outage:?}\n{}", client.stderr());
    Ok(())
}

fn system() -> Kubectl {
    Kubectl::host().in_namespace("nestling-system")
}

fn delete_pods(kubectl: &Kubectl, selector: &str) -> Result<()> {
    kubectl.run(&["delete", "pods", "-l", selector, "--timeout=100s"]).map(drop)
}

type Disturb = fn(&Tenant) -> Result<()>;

/// An operator with other defaults replaces this one: with another cloud-controller-manager, of which there is no image.
fn upgrade_operator(tenant: &Tenant) -> Result<()> {
    let replace = |image: &str| {
        system().run(&["set", "env", "deployment/nestling-operator", &format!("{CLOUD_CONTROLLER_IMAGE}={image}")])?;
        system().rolled_out("deployment/nestling-operator")
    };
    let path = format!(".spec.template.spec.containers[0].env[?(@.name==\"{CLOUD_CONTROLLER_IMAGE}\")].value");
    let image = system().field("deployment/nestling-operator", &path)?;
    let before = lives(tenant.host())?;
    let unchanged = replace("nestling.invalid/cloud-controller:next").and_then(|()| {
        hold("the control plane's pods stay", Duration::from_secs(20), || {
            let now = lives(tenant.host())?;
            ensure!(now == before, "{before:?}\n{now:?}");
            Ok(())
        })
    });
    replace(&image)?;
    unchanged
}

const CLOUD_CONTROLLER_IMAGE: &str = "NESTLING_CLOUD_CONTROLLER_IMAGE";

/// What is disturbed, and how; each ends once it is back.
const DISTURBANCES: [(&str, Disturb); 5] = [
    ("operator-upgrade", upgrade_operator),
    ("operator", |_| {
        delete_pods(&system(), "app.kubernetes.io/component=operator")?;
        system().rolled_out("deployment/nestling-operator")
    }),
    ("control-api", |_| {
        delete_pods(&system(), "app.kubernetes.io/component=control-api")?;
        system().rolled_out("deployment/nestling-control-api")
    }),
    ("agents", |_| {
        delete_pods(&system(), "app.kubernetes.io/component=node-agent")?;
        system().rolled_out("daemonset/nestling-agent")
    }),
    ("control-plane", |tenant| {
        tenant.host().run(&["delete", "pod", "survivor-control-plane-0", "--timeout=100s"])?;
        delete_pods(tenant.host(), "nestling.dev/component=controllers")?;
        eventually("the control plane is back", Duration::from_secs(100), || {
            tenant.host().wait_for("pod/survivor-control-plane-0", "condition=Ready", 10)
        })
    }),
];

#[test]
#[ignore = "needs a host cluster with Nestling installed, to itself"]
fn deleting_programs_loses_nothing_and_does_not_disturb_pods() -> Result<()> {
    let tenant = Tenant::create("survivor", "{}")?;
    let ns = serving(&tenant)?;
    ns.run(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    let client = client(&tenant, &ns)?;
    eventually("the client calls", Duration::from_secs(20), || {
        ensure!(calls(&client).0 > 3, "{}{}", client.stdout(), client.stderr());
        Ok(())
    })?;
    for (what, disturb) in DISTURBANCES {
        undisturbed(what, &tenant, &ns, &client, disturb).with_context(|| format!("while disturbed: {what}"))?;
    }
    Ok(())
}

fn undisturbed(what: &str, tenant: &Tenant, ns: &Namespace, client: &Running, disturb: Disturb) -> Result<()> {
    let before = lives(ns)?;
    let (calls_before, outage) = (calls(client).0, Instant::now());
    disturb(tenant)?;
    eventually("the tenant's API answers again", Duration::from_secs(90), || ns.run(&["get", "--raw", "/readyz"]))?;
    traffic_continued(client, calls_before, outage.elapsed())?;
    ensure!(ns.field("configmap/kept", ".data.a")? == "b", "data was lost");
    // New pods start as well.
    let new = format!("after-{what}");
    ns.run(&["run", &new, "--image", AGNHOST, "--command", "--", "/agnhost", "pause"])?;
    eventually("a new pod runs", Duration::from_secs(90), || ns.wait_for(&format!("pod/{new}"), "condition=Ready", 5))?;
    let after = lives(ns)?;
    for (pod, life) in &before {
        ensure!(after.get(pod) == Some(life), "pod {pod} was {life}, is {:?}", after.get(pod));
    }
    tenant.host().wait_for("virtualcluster/survivor", "condition=Ready", 60)
}

/// The operator is not there; on drop it is again.
struct Away;

impl Away {
    fn begin() -> Result<Self> {
        system().run(&["scale", "deployment/nestling-operator", "--replicas=0"])?;
        let away = Self;
        system().run(&["wait", "pods", "-l", "app.kubernetes.io/component=operator", "--for=delete", "--timeout=100s"])?;
        Ok(away)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let back = system()
            .run(&["scale", "deployment/nestling-operator", "--replicas=2"])
            .and_then(|_| system().rolled_out("deployment/nestling-operator"));
        if let Err(error) = back {
            eprintln!("the operator is not back: {error:#}");
        }
    }
}

/// The control API alone serves agents: one that starts without an operator gets its tenants and their certificates.
#[test]
#[ignore = "needs a host cluster with Nestling installed, to itself"]
fn agents_start_without_an_operator() -> Result<()> {
    let tenant = Tenant::create("orphan", "{etcd: {storage: {medium: Memory}}}")?;
    let ns = tenant.namespace("pods")?;
    let _away = Away::begin()?;
    delete_pods(&system(), "app.kubernetes.io/component=node-agent")?;
    system().rolled_out("daemonset/nestling-agent")?;
    ns.run(&["run", "new", "--image", AGNHOST, "--command", "--", "/agnhost", "pause"])?;
    eventually("a new pod runs", Duration::from_secs(90), || ns.wait_for("pod/new", "condition=Ready", 5))?;
    // Through a kubelet API whose certificate is new.
    ns.run(&["exec", "new", "--", "/agnhost", "help"]).map(drop)
}
