//! Bringing the cluster up: from nothing, from half a cluster, or from one that only lacks a node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::binaries::{self, Binaries, BuildError};
use super::control_plane::{self, ControlPlaneError};
use super::down::{self, DownError};
use super::files::{self, FileError};
use super::health::{self, HealthError};
use super::image::catalog::{self, CatalogError, Stored};
use super::kubeconfig;
use super::launch::{self, LaunchError};
use super::lock::{Lock, LockError};
use super::network::{self, NetworkError};
use super::node::{self, Machine, NodeError};
use super::pki::{self, Pair, PkiError};
use super::preflight::{self, PreflightError};
use super::progress;
use super::seed::{self, SeedError};
use super::state::{Phase, State};
use super::topology::{CONTROL, Node, TopologyError};
use super::unit;
use super::versions::{Versions, VersionsError};
use super::workdir::{Cache, WorkDir};
use super::{addons, addons::AddonError};

#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("versions")]
    Versions(#[from] VersionsError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("cannot build the cluster's programs")]
    Build(#[from] BuildError),
    #[error("cannot write the cluster's images")]
    Images(#[from] CatalogError),
    #[error("cannot unpack the cluster's images")]
    Seed(#[from] SeedError),
    #[error("cannot make the cluster's certificates")]
    Pki(#[from] PkiError),
    #[error("cannot configure the control plane")]
    ControlPlane(#[from] ControlPlaneError),
    #[error("cannot configure a node")]
    Node(#[from] NodeError),
    #[error("cannot start a unit")]
    Launch(#[from] LaunchError),
    #[error("network")]
    Network(#[from] NetworkError),
    #[error("cannot set up what runs in the cluster")]
    Addons(#[from] AddonError),
    #[error("the cluster does not become healthy (logs: {logs})")]
    Health { logs: String, source: HealthError },
    #[error("cannot clean up an earlier run")]
    Clean(#[from] DownError),
    #[error("files")]
    File(#[from] FileError),
    #[error("lock")]
    Lock(#[from] LockError),
    #[error("the cluster has {have} nodes and cannot shrink to {want}: run `hostcluster down` first")]
    Shrink { have: u8, want: u8 },
    #[error("another host cluster runs on this machine, in {0}: take it down first")]
    Elsewhere(PathBuf),
}

/// The parts a cluster is made of, all in the cache.
pub struct Parts {
    pub versions: Versions,
    pub machine: Machine,
    pub binaries: Binaries,
    pub images: Vec<Stored>,
    /// Key over all of it.
    pub content: String,
}

/// Builds programs and images that the cache lacks.
pub async fn parts(cache: &Cache) -> Result<Parts, UpError> {
    let versions = Versions::load()?;
    let machine = preflight::check().await?;
    let binaries = binaries::ensure(&versions, cache).await?;
    let images = catalog::ensure(&versions, &binaries, cache).await?;
    let mut keys: Vec<String> = images.iter().map(|image| image.key.clone()).collect();
    for family in &versions.families {
        for program in family.binaries.keys() {
            keys.push(binaries.key(program)?);
        }
    }
    let content = files::key(keys.iter().map(String::as_bytes));
    Ok(Parts { versions, machine, binaries, images, content })
}

/// Returns the kubeconfig of a healthy cluster with `nodes` nodes, or more if it has more and `at_least` allows that.
pub async fn up(work: &WorkDir, cache: &Cache, nodes: u8, at_least: bool) -> Result<PathBuf, UpError> {
    let started = Instant::now();
    let mut nodes = Node::all(nodes)?;
    let parts = parts(cache).await?;
    let _lock = Lock::machine()?;
    refuse_second_cluster(work)?;
    link_tools(work, &parts.binaries)?;

    let usable = State::read(work)
        .filter(|state| state.phase == Phase::Up && state.content == parts.content && unit::holder(work, CONTROL).is_some());
    let Some(state) = usable else {
        clean(work).await?;
        return start(work, cache, parts, nodes, started).await;
    };
    let want = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
    if want < state.nodes {
        if !at_least {
            return Err(UpError::Shrink { have: state.nodes, want });
        }
        nodes = Node::all(state.nodes)?;
    }
    if want <= state.nodes && nodes.iter().all(|node| unit::holder(work, &node.name()).is_some()) {
        let client = client(work).await?;
        if health::lacking(&client, &nodes).await.is_empty() {
            progress::say("the host cluster is up and healthy");
            return Ok(work.kubeconfig());
        }
    }
    start(work, cache, parts, nodes, started).await
}

/// Starts what does not run, and waits for all of it.
async fn start(work: &WorkDir, cache: &Cache, parts: Parts, nodes: Vec<Node>, started: Instant) -> Result<PathBuf, UpError> {
    let fresh = unit::holder(work, CONTROL).is_none();
    let count = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
    if fresh {
        State { phase: Phase::Starting, nodes: count, content: parts.content.clone() }.write(work)?;
        install_program(work)?;
    }
    let seed = seed::ensure(work, cache, &parts.versions, &parts.binaries, &parts.machine, &parts.images).await?;
    if fresh {
        start_control_plane(work, &parts).await?;
    }
    let missing: Vec<Node> = nodes.iter().copied().filter(|node| unit::holder(work, &node.name()).is_none()).collect();
    for node in &nodes {
        if missing.contains(node) {
            network::plug_in(work, *node).await?;
        } else {
            // A test that was cut off may have left it unplugged.
            network::set_link(work, *node, true).await?;
        }
    }
    network::route(work, &nodes).await?;
    let starts = missing.iter().map(|node| start_node(work, &parts, &seed, *node));
    futures::future::join_all(starts).await.into_iter().collect::<Result<Vec<()>, _>>()?;

    let client = client(work).await?;
    let unhealthy = |source| UpError::Health { logs: format!("{}/*/log", work.units().display()), source };
    let every = Duration::from_secs(10);
    progress::step("wait for the apiserver", every, health::wait_for_apiserver(&client, Duration::from_secs(120)))
        .await
        .map_err(unhealthy)?;
    addons::apply(parts.binaries.path("kubectl")?, &work.kubeconfig(), &parts.versions, &nodes).await?;
    let label = format!("wait for {} nodes, DNS and storage", nodes.len());
    progress::step(&label, every, health::wait(&client, &nodes, Duration::from_secs(300))).await.map_err(unhealthy)?;
    State { phase: Phase::Up, nodes: count, content: parts.content }.write(work)?;
    progress::say(&format!(
        "the host cluster is up after {:.1} s: export KUBECONFIG={}",
        started.elapsed().as_secs_f64(),
        work.kubeconfig().display()
    ));
    Ok(work.kubeconfig())
}

async fn client(work: &WorkDir) -> Result<kube::Client, UpError> {
    health::client(&work.kubeconfig()).await.map_err(|source| UpError::Health { logs: work.units().display().to_string(), source })
}

/// Leftovers of a run that did not end well, or of another content.
async fn clean(work: &WorkDir) -> Result<(), UpError> {
    if work.root().exists() {
        progress::say("cleaning up an earlier run");
    }
    Ok(down::down(work).await?)
}

/// Names, links and addresses are fixed, so there is one cluster per machine.
fn refuse_second_cluster(work: &WorkDir) -> Result<(), UpError> {
    let marker = Path::new(down::MARKER);
    if let Ok(text) = std::fs::read_to_string(marker) {
        let other = PathBuf::from(text.trim());
        if other != work.root() && WorkDir::new(&other).is_ok_and(|other| unit::holder(&other, CONTROL).is_some()) {
            return Err(UpError::Elsewhere(other));
        }
    }
    Ok(files::write(marker, work.root().as_os_str().as_encoded_bytes(), files::Access::Public)?)
}

/// kubectl and helm where people and scripts find them.
fn link_tools(work: &WorkDir, binaries: &Binaries) -> Result<(), UpError> {
    files::make_dir(&work.bin())?;
    for tool in ["kubectl", "helm"] {
        let link = work.bin().join(tool);
        let target = binaries.path(tool)?;
        if std::fs::read_link(&link).ok().as_deref() != Some(target) {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).map_err(|source| FileError::new("link", &link, source))?;
        }
    }
    Ok(())
}

fn install_program(work: &WorkDir) -> Result<(), UpError> {
    let own = Path::new("/proc/self/exe");
    let bytes = std::fs::read(own).map_err(|source| FileError::new("read", own, source))?;
    files::write(&work.program(), bytes, files::Access::Public)?;
    Ok(files::make_executable(&work.program())?)
}

async fn start_control_plane(work: &WorkDir, parts: &Parts) -> Result<(), UpError> {
    pki::control_plane(&work.pki())?;
    kubeconfig::write(&work.kubeconfig(), &work.pki(), &Pair::at(&work.pki(), "admin"))?;
    network::set_up(work).await?;
    let spec = control_plane::unit(work, &parts.binaries)?;
    launch::start(work, &spec).await?;
    Ok(())
}

/// A node with an empty disk gets the images; one that was killed keeps what it had.
pub async fn start_node(work: &WorkDir, parts: &Parts, seed: &Path, node: Node) -> Result<(), UpError> {
    let spec = node::unit(work, &parts.versions, &parts.binaries, &parts.machine, node)?;
    let data = spec.dir.join("containerd");
    if !data.exists() {
        seed::plant(seed, &data).await?;
    }
    launch::start(work, &spec).await?;
    Ok(())
}
