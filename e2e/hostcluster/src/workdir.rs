//! Where things are kept: the work directory of one cluster with its state record, the cache that all clusters of a user share, and
//! the locks on both.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::command;
use crate::files::{self, Access, FileError};
use crate::topology::{Node, TopologyError};

/// State of one host cluster; everything below it is removed by `down`.
#[derive(Debug, Clone)]
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    /// `path` need not exist yet; it is made absolute because units run with other working directories.
    pub(crate) fn new(path: &Path) -> std::io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// `.nestling/host` under the project root.
    pub(crate) fn default_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).join(".nestling/host")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }
    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }
    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.0.join("netns")
    }
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        self.netns_dir().join(name)
    }
    pub(crate) fn units(&self) -> PathBuf {
        self.0.join("units")
    }
    /// Directory of one unit (a node, the control plane): its spec, its service records, its disks and its logs.
    pub(crate) fn unit(&self, name: &str) -> PathBuf {
        self.units().join(name)
    }
    /// The copy of this program that units run: a rebuild must not change what a node restarts with.
    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("hostcluster")
    }
    /// Symlinks to kubectl and helm.
    pub(crate) fn bin(&self) -> PathBuf {
        self.0.parent().unwrap_or(&self.0).join("bin")
    }
}

/// Build results by content, outside the tree so that a fresh clone finds them.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// `NESTLING_CACHE`, else `XDG_CACHE_HOME/nestling`, else `~/.cache/nestling`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = var("NESTLING_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("nestling")))
            .or_else(|| var("HOME").map(|dir| dir.join(".cache/nestling")))
            .unwrap_or_else(|| PathBuf::from("/var/cache/nestling"));
        Self(root)
    }

    /// Held while something is added.
    pub(crate) fn lock(&self, purpose: &str) -> Result<Lock, LockError> {
        Lock::take(&self.0.join("lock"), purpose)
    }
    pub(crate) fn program(&self, key: &str, name: &str) -> PathBuf {
        self.0.join("bin").join(key).join(name)
    }
    pub(crate) fn image(&self, key: &str, name: &str) -> PathBuf {
        self.0.join("images").join(key).join(format!("{name}.oci.tar"))
    }
    pub(crate) fn seed(&self, key: &str) -> PathBuf {
        self.0.join("seed").join(key)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// `up` began and has not finished. If it no longer runs, the cluster is incomplete and is built again.
    Starting,
    /// `up` finished once. Nodes that were lost since are started again.
    Up,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) nodes: u8,
    /// Key over programs and images; another key is another cluster.
    pub(crate) content: String,
}

impl State {
    /// None when there is no record, or one of another format.
    pub(crate) fn read(work: &WorkDir) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(work.state()).ok()?).ok()
    }

    pub(crate) fn nodes(&self) -> Result<Vec<Node>, TopologyError> {
        Node::all(self.nodes)
    }

    pub(crate) fn write(&self, work: &WorkDir) -> Result<(), FileError> {
        let path = work.state();
        let json = serde_json::to_vec(self).map_err(|source| FileError::new("render", &path, source.into()))?;
        files::write(&path, json, Access::Public)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot open lock file {path}")]
    Open { path: String, source: std::io::Error },
    #[error("cannot lock {path}")]
    Lock { path: String, source: Errno },
}

/// Held until dropped; the kernel releases it when the process dies.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// One cluster per machine: link, groups and addresses have fixed names.
const MACHINE: &str = "/run/lock/nestling-hostcluster";

impl Lock {
    /// For changes of the host cluster.
    pub(crate) fn machine() -> Result<Self, LockError> {
        Self::take(Path::new(MACHINE), "changing the host cluster")
    }

    /// Waits for the lock, and prints who holds it meanwhile.
    fn take(path: &Path, purpose: &str) -> Result<Self, LockError> {
        let shown = path.display().to_string();
        let open = |source| LockError::Open { path: shown.clone(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(open)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(open)?;
        let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(open)?;
                command::note(&format!("waiting for another run ({}) that holds {shown}", holder.trim()));
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, source)| LockError::Lock { path: shown.clone(), source })?
            }
            Err((_, source)) => return Err(LockError::Lock { path: shown, source }),
        };
        held.rewind()
            .and_then(|()| held.set_len(0))
            .and_then(|()| write!(held, "process {}: {purpose}", std::process::id()))
            .map_err(open)?;
        Ok(Self(held))
    }
}
