//! Control groups of the cluster's units, on cgroup v1 (also hybrid) and v2 machines.
//!
//! Each unit has one group named after it in every hierarchy, `nestling-<unit>`, with a leaf `system` for its own daemons; a
//! node's kubelet puts pods beside that leaf. The groups are also how a unit's processes are found again after a crash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::FileError;
use crate::topology::{CONTROL, Node, SEED};

const PREFIX: &str = "nestling-";
const DAEMONS: &str = "system";

#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("cannot read the mount table")]
    Mounts(#[source] FileError),
    #[error("no control group hierarchy is mounted at /sys/fs/cgroup")]
    None,
    #[error("cannot set up control group {group}")]
    Create { group: String, source: FileError },
    #[error("control group {0} is still busy")]
    Busy(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// The hierarchies a unit has to be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    pub(crate) version: Version,
    mounts: BTreeSet<PathBuf>,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let table = std::fs::read_to_string(path).map_err(|source| CgroupError::Mounts(FileError::new("read", path, source)))?;
        Self::parse(&table).ok_or(CgroupError::None)
    }

    /// v2 is when /sys/fs/cgroup itself is the unified hierarchy, which is also how kubelet and runc decide. A unified
    /// hierarchy beside v1 controllers (hybrid) is one hierarchy more: runc joins it too.
    fn parse(mountinfo: &str) -> Option<Self> {
        let mut mounts = BTreeSet::new();
        for line in mountinfo.lines() {
            let (left, right) = line.split_once(" - ")?;
            let point = Path::new(left.split(' ').nth(4)?);
            match right.split(' ').next()? {
                "cgroup2" if point == Path::new("/sys/fs/cgroup") => {
                    return Some(Self { version: Version::V2, mounts: [point.to_owned()].into() });
                }
                "cgroup" | "cgroup2" if point.parent() == Some(Path::new("/sys/fs/cgroup")) => {
                    mounts.insert(point.to_owned());
                }
                _ => {}
            }
        }
        (!mounts.is_empty()).then_some(Self { version: Version::V1, mounts })
    }

    /// Controllers a kubelet needs that this machine does not offer.
    pub(crate) fn missing_controllers(&self) -> Vec<&'static str> {
        let offered: BTreeSet<String> = match self.version {
            Version::V1 => {
                self.mounts.iter().filter_map(|mount| mount.file_name()).map(|name| name.to_string_lossy().into_owned()).collect()
            }
            Version::V2 => read(Path::new("/sys/fs/cgroup/cgroup.controllers")).split_whitespace().map(str::to_owned).collect(),
        };
        let has = |name: &str| offered.iter().any(|have| have.split(',').any(|part| part == name));
        ["cpu", "cpuset", "memory", "pids"].into_iter().filter(|name| !has(name)).collect()
    }

    /// The kubelet's `cgroupRoot` for a unit.
    pub(crate) fn root_of(unit: &str) -> String {
        format!("/{PREFIX}{unit}")
    }

    pub(crate) fn create(&self, unit: &str) -> Result<(), CgroupError> {
        for mount in &self.mounts {
            let group = mount.join(format!("{PREFIX}{unit}"));
            let made = self.enable_controllers(mount).and_then(|()| self.make(&group)).and_then(|()| {
                self.enable_controllers(&group)?;
                self.make(&group.join(DAEMONS))
            });
            made.map_err(|source| CgroupError::Create { group: group.display().to_string(), source })?;
        }
        Ok(())
    }

    fn make(&self, group: &Path) -> Result<(), FileError> {
        if let Err(error) = std::fs::create_dir(group)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(FileError::new("create", group, error));
        }
        if self.version == Version::V1 {
            // A new v1 cpuset group is empty, and nothing can be put into an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = group.join(file);
                if own.exists() && read(&own).is_empty() {
                    let parent = group.parent().map(|parent| read(&parent.join(file))).unwrap_or_default();
                    std::fs::write(&own, parent).map_err(|source| FileError::new("write", &own, source))?;
                }
            }
        }
        Ok(())
    }

    /// v2 hands controllers down level by level.
    fn enable_controllers(&self, group: &Path) -> Result<(), FileError> {
        if self.version == Version::V1 {
            return Ok(());
        }
        let control = group.join("cgroup.subtree_control");
        let enabled = read(&control);
        for controller in read(&group.join("cgroup.controllers")).split_whitespace() {
            if !enabled.split_whitespace().any(|have| have == controller) {
                std::fs::write(&control, format!("+{controller}")).map_err(|source| FileError::new("write", &control, source))?;
            }
        }
        Ok(())
    }

    /// Puts the calling process into the unit's daemon leaf; children inherit it.
    pub(crate) fn join(&self, unit: &str) -> Result<(), CgroupError> {
        for mount in &self.mounts {
            let file = mount.join(format!("{PREFIX}{unit}")).join(DAEMONS).join("cgroup.procs");
            let group = file.display().to_string();
            std::fs::write(&file, "0").map_err(|source| CgroupError::Create { group, source: FileError::new("write", &file, source) })?;
        }
        Ok(())
    }

    /// Every unit that has a group, in any hierarchy.
    pub(crate) fn units(&self) -> BTreeSet<String> {
        let names = self.mounts.iter().flat_map(|mount| subdirectories(mount));
        names.filter_map(|dir| Some(dir.file_name()?.to_str()?.strip_prefix(PREFIX)?.to_owned())).filter(|unit| is_unit(unit)).collect()
    }

    /// Numbers of all processes in the unit's groups, pods included.
    pub(crate) fn processes(&self, unit: &str) -> Vec<i32> {
        let mut found = BTreeSet::new();
        for group in self.groups(unit) {
            found.extend(read(&group.join("cgroup.procs")).lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        found.into_iter().collect()
    }

    /// Removes the unit's groups, waiting for the kernel to let go of processes that have just died.
    pub(crate) async fn remove(&self, unit: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // Deepest first.
            let groups: Vec<PathBuf> = self.groups(unit).into_iter().rev().collect();
            let busy =
                groups.iter().find(|group| std::fs::remove_dir(group).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound));
            match busy {
                None => return Ok(()),
                Some(group) if Instant::now() > deadline => return Err(CgroupError::Busy(group.clone())),
                Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// All groups of a unit, parents before children.
    fn groups(&self, unit: &str) -> Vec<PathBuf> {
        let mut groups: Vec<PathBuf> =
            self.mounts.iter().map(|mount| mount.join(format!("{PREFIX}{unit}"))).filter(|group| group.is_dir()).collect();
        let mut next = 0;
        while next < groups.len() {
            let below = subdirectories(&groups[next]);
            groups.extend(below);
            next += 1;
        }
        groups
    }
}

/// Only groups with the name of a unit are removed: others may use the prefix too.
fn is_unit(name: &str) -> bool {
    matches!(name, CONTROL | SEED) || Node::parse(name).is_ok()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_is_version_1_with_the_unified_hierarchy_as_one_more() {
        let table = "30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     32 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n33 1 0:28 / /mnt/cg rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(table).unwrap();
        assert_eq!(found.version, Version::V1);
        assert_eq!(found.mounts, ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from).into());
        assert_eq!(found.missing_controllers(), ["cpuset", "memory", "pids"]);
    }

    #[test]
    fn unified_is_version_2() {
        let found = Hierarchies::parse("30 20 0:25 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n").unwrap();
        assert_eq!((found.version, found.mounts.len()), (Version::V2, 1));
    }

    #[test]
    fn without_a_hierarchy_there_is_nothing() {
        assert_eq!(Hierarchies::parse("30 20 0:25 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn joint_controllers_count_each() {
        let table =
            "31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw\n32 30 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw\n";
        assert_eq!(Hierarchies::parse(table).unwrap().missing_controllers(), ["memory", "pids"]);
    }

    #[test]
    fn only_names_of_units_count() {
        assert!(is_unit("control") && is_unit("node-3"));
        assert!(!is_unit("operator") && !is_unit("node-x"));
    }
}
