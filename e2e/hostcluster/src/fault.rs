//! Stops, starts, disconnects and restarts parts of a running cluster.

use std::time::{Duration, Instant};

use crate::files::FileError;
use crate::launch::{self, LaunchError};
use crate::network::{self, NetworkError};
use crate::topology::{CONTROL, Node, TopologyError};
use crate::unit::{self, UnitSpec};
use crate::workdir::{State, WorkDir};

#[derive(Debug, thiserror::Error)]
pub(crate) enum FaultError {
    #[error("there is no host cluster here: run `hostcluster up` first")]
    NoCluster,
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("the cluster has no {0}")]
    NoNode(String),
    #[error("{0} is running already")]
    Running(String),
    #[error("cannot change the network")]
    Network(#[from] NetworkError),
    #[error("cannot read the node's unit")]
    Unit(#[from] FileError),
    #[error("cannot start or stop a unit")]
    Launch(#[from] LaunchError),
    #[error("{unit} runs no {service}")]
    NoService { unit: String, service: String },
    #[error("{service} of {unit} did not start again within {} s", .after.as_secs())]
    NotRestarted { unit: String, service: String, after: Duration },
}

/// Nodes the cluster was brought up with.
pub(crate) fn nodes(work: &WorkDir) -> Result<Vec<Node>, FaultError> {
    Ok(State::read(work).ok_or(FaultError::NoCluster)?.nodes()?)
}

pub(crate) fn node(work: &WorkDir, name: &str) -> Result<Node, FaultError> {
    let node = Node::parse(name)?;
    if nodes(work)?.contains(&node) { Ok(node) } else { Err(FaultError::NoNode(name.to_owned())) }
}

/// Power off. Disconnected first, so that dying processes do not close their connections.
pub(crate) async fn kill(work: &WorkDir, node: Node) -> Result<(), FaultError> {
    if unit::holder(work, &node.name()).is_some() {
        partition(work, node).await?;
    }
    Ok(launch::stop(work, &node.name()).await?)
}

/// Power on: a new network namespace and an empty `/run`, the same disks.
pub(crate) async fn start(work: &WorkDir, node: Node) -> Result<(), FaultError> {
    let name = node.name();
    if unit::holder(work, &name).is_some() {
        return Err(FaultError::Running(name));
    }
    network::plug_in(work, node).await?;
    network::route(work, &nodes(work)?).await?;
    let spec = UnitSpec::read(&UnitSpec::path(&work.unit(&name)))?;
    Ok(launch::start(work, &spec).await?)
}

/// Disconnects the node's network cable.
pub(crate) async fn partition(work: &WorkDir, node: Node) -> Result<(), FaultError> {
    network::set_link(work, node, false).await?;
    Ok(network::route(work, &nodes(work)?).await?)
}

/// Connects the node's network cable again.
pub(crate) async fn heal(work: &WorkDir, node: Node) -> Result<(), FaultError> {
    network::set_link(work, node, true).await?;
    Ok(network::route(work, &nodes(work)?).await?)
}

/// How a service is ended before its supervisor starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM, and SIGKILL when that takes longer than 20 seconds.
    Graceful,
    Crash,
}

/// Unit and service of a short name on the command line.
pub(crate) fn service_of(service: &str, node: Option<Node>) -> (String, String) {
    let control = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    let full = control.iter().find(|full| full.trim_start_matches("kube-") == service).map_or(service, |full| *full);
    let unit = match node {
        Some(node) if !control.contains(&full) => node.name(),
        _ => CONTROL.to_owned(),
    };
    (unit, full.to_owned())
}

/// Ends a service and waits until its supervisor has started it again.
pub(crate) async fn restart(work: &WorkDir, unit: &str, service: &str, ending: Ending) -> Result<(), FaultError> {
    let after = Duration::from_secs(60);
    let missing = || FaultError::NoService { unit: unit.to_owned(), service: service.to_owned() };
    let before = *unit::services(work, unit).get(service).ok_or_else(missing)?;
    signal(work, unit, before.pid, if ending == Ending::Graceful { "TERM" } else { "KILL" }).await?;
    let started = Instant::now();
    let mut killed = ending == Ending::Crash;
    while unit::services(work, unit).get(service).is_none_or(|now| now.starts == before.starts) {
        if started.elapsed() > after {
            return Err(FaultError::NotRestarted { unit: unit.to_owned(), service: service.to_owned(), after });
        }
        if !killed && started.elapsed() > Duration::from_secs(20) {
            killed = true;
            if unit::services(work, unit).get(service) == Some(&before) {
                signal(work, unit, before.pid, "KILL").await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// By its process number inside the unit, which cannot be another process: the supervisor reaps and records in one step.
async fn signal(work: &WorkDir, unit: &str, pid: i32, signal: &str) -> Result<(), LaunchError> {
    launch::run_inside(work, unit, ["sh", "-c", &format!("kill -{signal} {pid}")])?.output().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_have_their_unit() {
        let node = Some(Node::parse("node-2").unwrap());
        assert_eq!(service_of("kubelet", node), ("node-2".to_owned(), "kubelet".to_owned()));
        assert_eq!(service_of("kube-proxy", node), ("node-2".to_owned(), "kube-proxy".to_owned()));
        assert_eq!(service_of("apiserver", None), ("control".to_owned(), "kube-apiserver".to_owned()));
        assert_eq!(service_of("scheduler", node), ("control".to_owned(), "kube-scheduler".to_owned()));
    }
}
