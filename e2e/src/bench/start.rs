//! Starts: a tenant from `kubectl apply` to its Ready condition, phase by phase; as the lower limit etcd and kube-apiserver
//! alone, as two processes on loopback, from nothing to `/readyz`; and a host pod with and without a claim, which is what the
//! host itself takes for a volume.

use super::pods;
use crate::figures::Sample;
use crate::suite::bare::{free_port, lone_etcd, service_account_keys};
use crate::suite::{AGNHOST, Kubectl, Namespace, Running, eventually, manifest};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use nestling_crds::v1alpha1::VirtualCluster;
use nestling_hostcluster::programs::Programs;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

const NAME: &str = "start";
const DEADLINE: Duration = Duration::from_secs(120);

/// What a start goes through, in the usual order. Each is the time when a watch of the host's API shows it.
pub(crate) const PHASES: [&str; 10] = [
    "operator has seen the cluster",
    "control-plane pod created",
    "control-plane pod bound",
    "etcd container started",
    "kube-apiserver ready",
    "containers of the controllers started",
    "nodes ready",
    "CoreDNS host pod created",
    "CoreDNS host pod ready",
    READY,
];
const READY: &str = "Ready";

/// Times since `kubectl apply` was started, by phase.
#[derive(Debug, Default)]
pub(crate) struct Phases([Option<Duration>; PHASES.len()]);

impl Phases {
    /// Each phase at the time of its first sight.
    fn reached(&mut self, phase: &str, reached: bool, now: Duration) {
        if let (true, Some(place)) = (reached, PHASES.iter().position(|name| *name == phase)) {
            self.0[place].get_or_insert(now);
        }
    }

    /// The start as a whole.
    pub(crate) fn ready(&self) -> Duration {
        self.at(READY).unwrap_or_default()
    }

    fn at(&self, phase: &str) -> Option<Duration> {
        self.0[PHASES.iter().position(|name| *name == phase)?]
    }
}

/// One sample for each phase of several starts.
pub(crate) fn by_phase(starts: &[Phases]) -> Vec<(&'static str, Sample)> {
    PHASES.iter().map(|phase| (*phase, starts.iter().filter_map(|start| start.at(phase)).collect())).collect()
}

pub(crate) fn tenant(spec: &str) -> Result<Phases> {
    let ns = Namespace::create(&Kubectl::host(), "bench-start")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let phases = runtime.block_on(async { tokio::time::timeout(DEADLINE, start(&ns, spec)).await.context("the tenant is not Ready")? })?;
    ns.run(&["delete", "virtualcluster", NAME, "--timeout=90s"])?;
    eventually("the tenant's pods are gone", Duration::from_secs(60), || {
        ensure!(ns.names(&["pods"])?.is_empty());
        Ok(())
    })?;
    Ok(phases)
}

enum Seen {
    Cluster(Box<VirtualCluster>),
    Pod(Box<Pod>),
}

async fn start(ns: &Namespace, spec: &str) -> Result<Phases> {
    let client = pods::client(ns).await?;
    let clusters =
        watch(Api::<VirtualCluster>::namespaced(client.clone(), ns.name())).await?.map_ok(|cluster| Seen::Cluster(cluster.into()));
    let pods = watch(Api::<Pod>::all(client)).await?.map_ok(|pod| Seen::Pod(pod.into()));
    let mut events = futures::stream::select(clusters, pods);

    let begun = Instant::now();
    let applied = {
        let (kubectl, manifest) = (Kubectl::clone(ns), manifest(NAME, spec));
        tokio::task::spawn_blocking(move || kubectl.apply(&manifest))
    };
    let mut phases = Phases::default();
    while phases.at(READY).is_none() {
        let event = events.try_next().await?.context("a watch ended before the tenant was Ready")?;
        match event {
            Seen::Cluster(cluster) => of_cluster(&mut phases, &cluster, begun.elapsed()),
            Seen::Pod(pod) => of_pod(&mut phases, ns.name(), &pod, begun.elapsed()),
        }
    }
    applied.await??;
    Ok(phases)
}

async fn watch<K>(api: Api<K>) -> Result<impl futures::Stream<Item = Result<K>> + Unpin>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + 'static,
{
    let events = api.watch(&WatchParams::default(), "0").await?;
    let objects = events.map_err(anyhow::Error::from).try_filter_map(async |event| match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(Some(object)),
        WatchEvent::Error(error) => Err(anyhow::anyhow!("watch: {}", error.message)),
        WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => Ok(None),
    });
    Ok(objects.boxed_local())
}

fn of_cluster(phases: &mut Phases, cluster: &VirtualCluster, now: Duration) {
    let status = cluster.status.clone().unwrap_or_default();
    let is_true = |type_: &str| status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
    phases.reached("operator has seen the cluster", !cluster.finalizers().is_empty(), now);
    phases.reached("nodes ready", is_true("NodesReady"), now);
    phases.reached(READY, is_true("Ready"), now);
}

fn of_pod(phases: &mut Phases, namespace: &str, pod: &Pod, now: Duration) {
    let (place, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let status = pod.status.clone().unwrap_or_default();
    let containers: Vec<ContainerStatus> =
        status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten()).collect();
    let any = |name: &str, is: fn(&ContainerStatus) -> bool| containers.iter().any(|container| container.name == name && is(container));
    let started = |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    if place == namespace && name == format!("{NAME}-control-plane-0") {
        phases.reached("control-plane pod created", true, now);
        phases.reached("control-plane pod bound", pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()), now);
        phases.reached("etcd container started", any("etcd", started), now);
        phases.reached("kube-apiserver ready", any("kube-apiserver", |container| container.ready), now);
    } else if place == namespace && name.starts_with(&format!("{NAME}-controllers")) {
        let all = ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"];
        phases.reached("containers of the controllers started", all.iter().all(|name| any(name, started)), now);
    } else if place.starts_with(&format!("{namespace}-{NAME}-")) && name.starts_with("coredns") {
        phases.reached("CoreDNS host pod created", true, now);
        phases.reached("CoreDNS host pod ready", any("coredns", |container| container.ready), now);
    }
}

/// A host pod until it is Ready, with a claim of the host's default class or without.
pub(crate) fn host_pod(claim: bool) -> Result<Duration> {
    let ns = Namespace::create(&Kubectl::host(), "bench-claim")?;
    let volume = "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]";
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: pod}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{AGNHOST}', args: [pause]}}]{}}}}}",
        if claim { format!(", {volume}") } else { String::new() }
    );
    let claims = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}}\n---\n";
    let begun = Instant::now();
    ns.apply(&format!("{}{pod}", if claim { claims } else { "" }))?;
    ns.wait_for("pod/pod", "condition=Ready", 60)?;
    Ok(begun.elapsed())
}

/// etcd and kube-apiserver alone, until `/readyz` answers.
pub(crate) fn bare(programs: &Programs) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let keys = service_account_keys(folder.path())?;
    let (etcd, url) = lone_etcd(folder.path())?;
    let api = free_port()?;

    let begun = Instant::now();
    let _etcd = Running::start(Command::new(programs.path("etcd")?).args(etcd))?;
    let _apiserver = Running::start(
        Command::new(programs.path("kube-apiserver")?)
            .args([
                format!("--etcd-servers={url}"),
                format!("--secure-port={api}"),
                "--bind-address=127.0.0.1".into(),
                format!("--cert-dir={}", folder.path().join("certs").display()),
                "--service-cluster-ip-range=10.0.0.0/24".into(),
                "--authorization-mode=Node,RBAC".into(),
            ])
            .args(keys),
    )?;
    let certificate = folder.path().join("certs").join("apiserver.crt");
    eventually("kube-apiserver is ready", Duration::from_secs(60), || {
        ensure!(certificate.exists(), "no certificate yet");
        let probe = Command::new("curl")
            .args(["-sk", "--max-time", "2", "-o", "/dev/null", "-w", "%{http_code}", &format!("https://127.0.0.1:{api}/readyz")])
            .output()
            .context("run curl")?;
        ensure!(probe.stdout == b"200", "/readyz answers {}", String::from_utf8_lossy(&probe.stdout));
        Ok(())
    })?;
    Ok(begun.elapsed())
}
