//! A unit: programs that share namespaces of their own, as the services of a machine share the machine. Its files in the work directory
//! are its specification, the record of the process that holds it, and the record of its services.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::files::{self, Access, FileError};
use crate::workdir::WorkDir;

/// The specification, which process 1 of the unit reads from a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UnitSpec {
    /// Also the hostname.
    pub(crate) name: String,
    /// The unit's directory in the work directory.
    pub(crate) dir: PathBuf,
    /// Pinned network namespace; none means a fresh one with nothing in it.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) disks: Disks,
    pub(crate) services: Vec<Service>,
}

/// How the unit's files differ from the machine's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Disks {
    /// Directories with a writable layer of the unit's own, kept under `<dir>/root`: what is written there stays off the machine.
    pub(crate) layered: Vec<PathBuf>,
    /// Directories that start empty at each start.
    pub(crate) volatile: Vec<PathBuf>,
    /// Directories wholly the unit's own, target to source.
    pub(crate) own: BTreeMap<PathBuf, PathBuf>,
    /// Kernel settings that are the whole machine's: the unit sees this value and cannot write it.
    pub(crate) pinned_settings: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    /// Not started before all of these accept connections.
    pub(crate) after: Vec<Endpoint>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A service that runs, as the supervisor records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// As seen inside the unit.
    pub(crate) pid: i32,
    /// How often it was started: a higher count is another process.
    pub(crate) starts: u64,
}

pub(crate) type Services = BTreeMap<String, Running>;

impl UnitSpec {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("unit.json")
    }

    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = std::fs::read(path).map_err(|source| FileError::new("read", path, source))?;
        serde_json::from_slice(&bytes).map_err(|source| FileError::new("parse", path, source.into()))
    }

    pub(crate) fn write(&self) -> Result<PathBuf, FileError> {
        let path = Self::path(&self.dir);
        let text = serde_json::to_vec_pretty(self).map_err(|source| FileError::new("render", &path, source.into()))?;
        files::write(&path, text, Access::Public)?;
        Ok(path)
    }

    pub(crate) fn log(&self, service: &str) -> PathBuf {
        self.dir.join("log").join(format!("{service}.log"))
    }
}

/// Record of the process whose death makes the kernel end the whole unit.
pub(crate) fn holder_path(dir: &Path) -> PathBuf {
    dir.join("holder.json")
}

pub(crate) fn services_path(dir: &Path) -> PathBuf {
    dir.join("services.json")
}

/// The process that holds the unit; none when the unit is not running.
pub(crate) fn holder(work: &WorkDir, unit: &str) -> Option<Identity> {
    Identity::read(&holder_path(&work.unit(unit))).filter(|holder| holder.alive())
}

/// The services that run in a unit; empty before the supervisor has started any.
pub(crate) fn services(work: &WorkDir, unit: &str) -> Services {
    std::fs::read(services_path(&work.unit(unit))).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// A process number together with when that process began (clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    pub(crate) started: u64,
}

impl Identity {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|(_, started)| Self { pid, started })
    }

    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Zombies count as gone: they hold only a process number.
    pub(crate) fn alive(self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| parse_stat(&stat))
            .is_some_and(|(state, started)| started == self.started && state != 'Z' && state != 'X')
    }

    /// Sends SIGKILL if it is still that process.
    pub(crate) fn kill(self) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// State letter and start time of a `/proc/<pid>/stat` line. The name in parentheses may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_have_parentheses() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        assert_eq!(parse_stat(&format!("7 (a) b) {tail}")), Some(('S', 4242)));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.alive());
        assert!(!Identity { started: own.started + 1, ..own }.alive());
    }
}
