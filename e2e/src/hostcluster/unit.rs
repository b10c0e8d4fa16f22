//! A unit: programs that share namespaces of their own, the way a machine's services share the machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, Access, FileError};
use super::process::Identity;
use super::workdir::WorkDir;

/// Everything process 1 of a unit needs to know, as a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnitSpec {
    /// Also the hostname.
    pub name: String,
    /// The unit's directory in the work directory.
    pub dir: PathBuf,
    /// Pinned network namespace; none means a fresh one with nothing in it.
    pub netns: Option<PathBuf>,
    pub disks: Disks,
    pub services: Vec<Service>,
}

/// How the unit's files differ from the machine's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Disks {
    /// Directories with a writable layer of the unit's own, kept under `<dir>/root`: what is written there stays off the machine.
    pub layered: Vec<PathBuf>,
    /// Directories that start empty at each start.
    pub volatile: Vec<PathBuf>,
    /// Directories wholly the unit's own, target to source.
    pub own: BTreeMap<PathBuf, PathBuf>,
    /// Kernel settings that are the whole machine's: the unit sees this value and cannot write it.
    pub pinned_settings: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub argv: Vec<String>,
    /// Not started before all of these accept connections.
    pub after: Vec<Endpoint>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the supervisor tells about one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// As seen inside the unit.
    pub pid: i32,
    /// How often it was started, so that a restart can be told from the same process.
    pub starts: u64,
}

pub type Services = BTreeMap<String, Running>;

impl UnitSpec {
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("unit.json")
    }

    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = std::fs::read(path).map_err(|source| FileError::new("read", path, source))?;
        serde_json::from_slice(&bytes).map_err(|source| FileError::new("parse", path, source.into()))
    }

    pub fn write(&self) -> Result<PathBuf, FileError> {
        let path = Self::path(&self.dir);
        let text = serde_json::to_vec_pretty(self).map_err(|source| FileError::new("render", &path, source.into()))?;
        files::write(&path, text, Access::Public)?;
        Ok(path)
    }

    pub fn log(&self, service: &str) -> PathBuf {
        self.dir.join("log").join(format!("{service}.log"))
    }
}

/// The process that holds a unit up: when it dies the kernel ends the rest.
pub fn holder_path(dir: &Path) -> PathBuf {
    dir.join("holder.json")
}

pub fn services_path(dir: &Path) -> PathBuf {
    dir.join("services.json")
}

/// The unit's holder, if it lives.
pub fn holder(work: &WorkDir, unit: &str) -> Option<Identity> {
    Identity::read(&holder_path(&work.unit(unit))).filter(|holder| holder.alive())
}

/// What runs in a unit; empty before the supervisor has started anything.
pub fn services(work: &WorkDir, unit: &str) -> Services {
    std::fs::read(services_path(&work.unit(unit))).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
