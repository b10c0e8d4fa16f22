//! The cluster as tests and benchmarks hold it: the user's own when `KUBECONFIG` names one, else the local one, brought up if need be.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::binaries::{self, BuildError};
use super::command::CommandError;
use super::containerd;
use super::fault::{self, Ending, FaultError};
use super::health::{self, HealthError};
use super::launch::{self, LaunchError};
use super::topology::{DEFAULT_NODES, Node};
use super::unit;
use super::versions::{Versions, VersionsError};
use super::workdir::{Cache, WorkDir};

#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    #[error("cannot find the `hostcluster` program beside {0}: build it with `cargo build -p nestling-e2e`")]
    NoProgram(PathBuf),
    #[error("cannot find out about this process")]
    Process(#[source] std::io::Error),
    #[error("`hostcluster up` failed: {0}")]
    Up(String),
    #[error("the cluster is the user's own: {0} is possible on the local host cluster only")]
    NotOurs(&'static str),
    #[error(transparent)]
    Fault(#[from] FaultError),
    #[error("cannot reach into a node")]
    Inside(#[from] LaunchError),
    #[error("a command on a node failed")]
    Command(#[from] CommandError),
    #[error("cannot find a program of the cluster")]
    Program(#[from] BuildError),
    #[error("versions")]
    Versions(#[from] VersionsError),
    #[error("cannot make a client")]
    Client(#[from] HealthError),
}

#[derive(Debug, Clone)]
pub struct HostCluster {
    kubeconfig: PathBuf,
    /// None when the cluster is the user's own.
    work: Option<WorkDir>,
}

impl HostCluster {
    /// The cluster to test on.
    pub async fn ensure() -> Result<Self, HandleError> {
        let work = WorkDir::new(&WorkDir::default_path()).map_err(HandleError::Process)?;
        let own = work.kubeconfig();
        if let Some(given) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)
            && given != own
        {
            return Ok(Self { kubeconfig: given, work: None });
        }
        bring_up().await?;
        Ok(Self { kubeconfig: own, work: Some(work) })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub async fn client(&self) -> Result<kube::Client, HandleError> {
        Ok(health::client(&self.kubeconfig).await?)
    }

    /// Whether nodes can be broken here. A fault test on another cluster fails, and says why.
    pub fn is_local(&self) -> bool {
        self.work.is_some()
    }

    pub fn nodes(&self) -> Result<Vec<Node>, HandleError> {
        Ok(fault::nodes(self.local("listing nodes")?)?)
    }

    /// Output of a command that runs as on the node itself.
    pub async fn node_exec<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<String, HandleError> {
        let work = self.local("running a command on a node")?;
        let node = fault::node(work, node)?;
        Ok(launch::run_inside(work, &node.name(), argv)?.text().await?)
    }

    pub async fn kill_node(&self, node: &str) -> Result<(), HandleError> {
        let work = self.local("killing a node")?;
        Ok(fault::kill(work, fault::node(work, node)?).await?)
    }

    pub async fn start_node(&self, node: &str) -> Result<(), HandleError> {
        let work = self.local("starting a node")?;
        Ok(fault::start(work, fault::node(work, node)?).await?)
    }

    pub async fn partition_node(&self, node: &str) -> Result<(), HandleError> {
        let work = self.local("partitioning a node")?;
        Ok(fault::partition(work, fault::node(work, node)?).await?)
    }

    pub async fn heal_node(&self, node: &str) -> Result<(), HandleError> {
        let work = self.local("healing a node")?;
        Ok(fault::heal(work, fault::node(work, node)?).await?)
    }

    /// Ends `kubelet`, `containerd`, `kube-proxy` of a node, or a control-plane part, and waits for its next start.
    pub async fn restart(&self, service: &str, node: Option<&str>, ending: Ending) -> Result<(), HandleError> {
        let work = self.local("restarting a service")?;
        let node = node.map(|name| fault::node(work, name)).transpose()?;
        let (unit, service) = fault::service_of(service, node);
        Ok(fault::restart(work, &unit, &service, ending).await?)
    }

    /// Imports an OCI archive on every running node.
    pub async fn load_image(&self, archive: &Path) -> Result<(), HandleError> {
        load_image(self.local("loading an image")?, archive).await
    }

    fn local(&self, what: &'static str) -> Result<&WorkDir, HandleError> {
        self.work.as_ref().ok_or(HandleError::NotOurs(what))
    }
}

/// Imports an OCI archive on every running node.
pub async fn load_image(work: &WorkDir, archive: &Path) -> Result<(), HandleError> {
    let programs = binaries::ensure(&Versions::load()?, &Cache::from_env()).await?;
    let ctr = programs.path("ctr")?;
    let names: Vec<String> = fault::nodes(work)?.iter().map(|node| node.name()).collect();
    let running = names.iter().filter(|name| unit::holder(work, name).is_some());
    let imports = running.map(|name| containerd::import(work, name, ctr, archive));
    futures::future::try_join_all(imports).await?;
    Ok(())
}

/// Runs `hostcluster up`, whose progress goes where ours goes: a first run compiles Kubernetes and takes many minutes.
async fn bring_up() -> Result<(), HandleError> {
    let mut command = tokio::process::Command::new(program()?);
    command.args(["up", "--at-least", "--nodes", &DEFAULT_NODES.to_string()]).stdin(Stdio::null()).kill_on_drop(true);
    let status = tokio::time::timeout(Duration::from_secs(2 * 60 * 60), command.status()).await;
    match status.map_err(|_| HandleError::Up("it did not end".to_owned()))?.map_err(HandleError::Process)? {
        status if status.success() => Ok(()),
        status => Err(HandleError::Up(status.to_string())),
    }
}

/// The `hostcluster` program: units are started by it, so a test program cannot do that itself.
fn program() -> Result<PathBuf, HandleError> {
    if let Some(given) = std::env::var_os("NESTLING_HOSTCLUSTER") {
        return Ok(PathBuf::from(given));
    }
    let own = std::env::current_exe().map_err(HandleError::Process)?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("hostcluster")).find(|file| file.is_file());
    found.ok_or(HandleError::NoProgram(own))
}
