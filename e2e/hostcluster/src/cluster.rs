//! Brings the cluster up, from nothing, from an incomplete cluster, or from one that lacks a node, and takes it down.
//!
//! [`down`] does not rely on records alone: processes are also found by control group, mounts in the mount table, links by name. So
//! it cleans up after a run that was killed at any point.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::catalog::{self, CatalogError, Stored};
use crate::cgroup::{CgroupError, Hierarchies};
use crate::command;
use crate::containerd::{self, ConfigError, Machine};
use crate::control;
use crate::files::{self, FileError};
use crate::health::{self, AddonError, HealthError};
use crate::launch::{self, LaunchError};
use crate::network::{self, NetworkError};
use crate::node;
use crate::pki::{self, Pair, PkiError};
use crate::preflight::{self, PreflightError};
use crate::programs::{self, BuildError, Programs, Versions, VersionsError};
use crate::seed::{self, SeedError};
use crate::topology::{CONTROL, Node, TopologyError};
use crate::unit;
use crate::workdir::{Cache, Lock, LockError, Phase, State, WorkDir};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    #[error("cannot read versions.toml")]
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
    #[error("cannot configure a unit")]
    Configure(#[from] ConfigError),
    #[error("cannot start a unit")]
    Launch(#[from] LaunchError),
    #[error("cannot set up the network")]
    Network(#[from] NetworkError),
    #[error("cannot set up DNS and storage")]
    Addons(#[from] AddonError),
    #[error("the cluster is not healthy (logs: {logs})")]
    Health { logs: String, source: HealthError },
    #[error("cannot clean up an earlier run")]
    Clean(#[from] DownError),
    #[error("cannot prepare the work directory")]
    File(#[from] FileError),
    #[error("cannot lock the host cluster")]
    Lock(#[from] LockError),
    #[error("the cluster has {have} nodes and cannot shrink to {want}: run `hostcluster down` first")]
    Shrink { have: u8, want: u8 },
    #[error("another host cluster runs on this machine, in {0}: take it down first")]
    Elsewhere(PathBuf),
}

/// What a cluster is made of; programs and images are in the cache.
pub(crate) struct Parts {
    pub(crate) versions: Versions,
    pub(crate) machine: Machine,
    pub(crate) programs: Programs,
    pub(crate) images: Vec<Stored>,
    /// Key over all of it.
    pub(crate) content: String,
}

/// Builds programs and images that the cache lacks.
pub(crate) async fn parts(cache: &Cache) -> Result<Parts, UpError> {
    let versions = Versions::load()?;
    let machine = preflight::check().await?;
    let programs = programs::ensure(&versions, cache).await?;
    let images = catalog::ensure(&versions, &programs, cache).await?;
    let mut keys: Vec<String> = images.iter().map(|image| image.key.clone()).collect();
    for family in &versions.families {
        for program in family.binaries.keys() {
            keys.push(programs.key(program)?);
        }
    }
    let content = files::key(keys.iter().map(String::as_bytes));
    Ok(Parts { versions, machine, programs, images, content })
}

/// Returns the kubeconfig of a healthy cluster with `nodes` nodes, or more if it has more and `at_least` allows that.
pub(crate) async fn up(work: &WorkDir, cache: &Cache, nodes: u8, at_least: bool) -> Result<PathBuf, UpError> {
    let started = Instant::now();
    let mut nodes = Node::all(nodes)?;
    let parts = parts(cache).await?;
    let _lock = Lock::machine()?;
    refuse_second_cluster(work)?;
    link_tools(work, &parts.programs)?;

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
            command::note("the host cluster is up and healthy");
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
    let seed = seed::ensure(work, cache, &parts.versions, &parts.programs, &parts.machine, &parts.images).await?;
    if fresh {
        start_control_plane(work, &parts).await?;
    }
    let missing: Vec<Node> = nodes.iter().copied().filter(|node| unit::holder(work, &node.name()).is_none()).collect();
    for node in &nodes {
        if missing.contains(node) {
            network::plug_in(work, *node).await?;
        } else {
            // A test that was interrupted may have left it disconnected.
            network::set_link(work, *node, true).await?;
        }
    }
    network::route(work, &nodes).await?;
    let starts = missing.iter().map(|node| start_node(work, &parts, &seed, *node));
    futures::future::join_all(starts).await.into_iter().collect::<Result<Vec<()>, _>>()?;

    let client = client(work).await?;
    let unhealthy = |source| UpError::Health { logs: format!("{}/*/log", work.units().display()), source };
    let every = Duration::from_secs(10);
    command::step("wait for the apiserver", every, health::wait_for_apiserver(&client, Duration::from_secs(120)))
        .await
        .map_err(unhealthy)?;
    health::apply_addons(parts.programs.path("kubectl")?, &work.kubeconfig(), &parts.versions, &nodes).await?;
    let label = format!("wait for {} nodes, DNS and storage", nodes.len());
    command::step(&label, every, health::wait(&client, &nodes, Duration::from_secs(300))).await.map_err(unhealthy)?;
    State { phase: Phase::Up, nodes: count, content: parts.content }.write(work)?;
    command::note(&format!(
        "the host cluster is up after {:.1} s: export KUBECONFIG={}",
        started.elapsed().as_secs_f64(),
        work.kubeconfig().display()
    ));
    Ok(work.kubeconfig())
}

async fn client(work: &WorkDir) -> Result<kube::Client, UpError> {
    health::client(&work.kubeconfig()).await.map_err(|source| UpError::Health { logs: work.units().display().to_string(), source })
}

/// Removes what an earlier run left: an incomplete cluster, or one of other content.
async fn clean(work: &WorkDir) -> Result<(), UpError> {
    if work.root().exists() {
        command::note("cleaning up an earlier run");
    }
    Ok(down(work).await?)
}

/// Names, links and addresses are fixed, so there is one cluster per machine.
fn refuse_second_cluster(work: &WorkDir) -> Result<(), UpError> {
    let marker = Path::new(MARKER);
    if let Ok(text) = std::fs::read_to_string(marker) {
        let other = PathBuf::from(text.trim());
        if other != work.root() && WorkDir::new(&other).is_ok_and(|other| unit::holder(&other, CONTROL).is_some()) {
            return Err(UpError::Elsewhere(other));
        }
    }
    Ok(files::write(marker, work.root().as_os_str().as_encoded_bytes(), files::Access::Public)?)
}

/// Links kubectl and helm into the project's `bin`.
fn link_tools(work: &WorkDir, programs: &Programs) -> Result<(), UpError> {
    files::make_dir(&work.bin())?;
    for tool in ["kubectl", "helm"] {
        let link = work.bin().join(tool);
        let target = programs.path(tool)?;
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
    pki::write_kubeconfig(&work.kubeconfig(), &work.pki(), &Pair::at(&work.pki(), "admin"))?;
    network::set_up(work).await?;
    let spec = control::unit(work, &parts.programs)?;
    launch::start(work, &spec).await?;
    Ok(())
}

/// A node with an empty disk gets the images; one that was killed keeps its disk.
async fn start_node(work: &WorkDir, parts: &Parts, seed: &Path, node: Node) -> Result<(), UpError> {
    let spec = node::unit(work, &parts.versions, &parts.programs, &parts.machine, node)?;
    let data = spec.dir.join("containerd");
    if !data.exists() {
        seed::plant(seed, &data).await?;
    }
    launch::start(work, &spec).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DownError {
    #[error("cannot find control groups")]
    Cgroup(#[from] CgroupError),
    #[error("cannot stop a unit")]
    Stop(#[from] LaunchError),
    #[error("cannot clean up the network")]
    Network(#[from] NetworkError),
    #[error("cannot remove the work directory")]
    File(#[from] FileError),
    #[error("something is still mounted below the work directory: {0:?}")]
    Mounted(Vec<PathBuf>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("there is no host cluster here: run `hostcluster up` first")]
    NoCluster,
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("cannot read versions.toml")]
    Versions(#[from] VersionsError),
    #[error("cannot find ctr")]
    Program(#[from] BuildError),
    #[error("cannot import the image on a node")]
    Import(#[from] LaunchError),
}

/// Holds the path of the work directory of this machine's cluster.
const MARKER: &str = "/run/nestling-hostcluster.dir";

/// Stops all units and removes the work directory.
pub(crate) async fn down(work: &WorkDir) -> Result<(), DownError> {
    let mut units = Hierarchies::detect()?.units();
    for entry in std::fs::read_dir(work.units()).into_iter().flatten().flatten() {
        units.insert(entry.file_name().to_string_lossy().into_owned());
    }
    let stops = units.iter().map(|name| launch::stop(work, name));
    futures::future::join_all(stops).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    network::tear_down(work).await?;

    // Removing files through a mount would remove the files of others.
    let mounted = mounts_below(work.root());
    if !mounted.is_empty() {
        return Err(DownError::Mounted(mounted));
    }
    let _ = std::fs::remove_file(MARKER);
    match std::fs::remove_dir_all(work.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::new("remove", work.root(), error).into()),
        _ => Ok(()),
    }
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).filter(|point| point.starts_with(dir)).collect()
}

/// Imports an OCI archive on every running node.
pub(crate) async fn load_image(work: &WorkDir, archive: &Path) -> Result<(), LoadError> {
    let programs = programs::ensure(&Versions::load()?, &Cache::from_env()).await?;
    let ctr = programs.path("ctr")?;
    let state = State::read(work).ok_or(LoadError::NoCluster)?;
    let names: Vec<String> = state.nodes()?.iter().map(|node| node.name()).collect();
    let running = names.iter().filter(|name| unit::holder(work, name).is_some());
    futures::future::try_join_all(running.map(|name| containerd::import(work, name, ctr, archive))).await?;
    Ok(())
}
