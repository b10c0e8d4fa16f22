//! Taking everything away again, from whatever state it is in.
//!
//! Nothing here trusts the record of an earlier run alone: processes are found by their control group too, mounts by the mount
//! table, links by name. So it also cleans up after a run that was killed at any point.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::{CgroupError, Hierarchies};
use super::files::FileError;
use super::network::{self, NetworkError};
use super::process;
use super::unit;
use super::workdir::WorkDir;

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error("cannot clean up control groups")]
    Cgroup(#[from] CgroupError),
    #[error("processes of {unit} do not end: {pids:?}")]
    Stuck { unit: String, pids: Vec<i32> },
    #[error("cannot clean up the network")]
    Network(#[from] NetworkError),
    #[error("cannot remove the work directory")]
    File(#[from] FileError),
    #[error("something is still mounted below the work directory: {0:?}")]
    Mounted(Vec<PathBuf>),
}

/// Names the work directory of this machine's cluster.
pub const MARKER: &str = "/run/nestling-hostcluster.dir";

/// Ends one unit and removes its control groups; its files stay.
pub async fn stop_unit(work: &WorkDir, name: &str) -> Result<(), DownError> {
    let hierarchies = Hierarchies::detect()?;
    // Killing the holder makes the kernel end the whole process namespace; the rest is for runs that died half-way.
    if let Some(holder) = unit::holder(work, name) {
        holder.kill();
    }
    if !process::kill_all(|| hierarchies.processes(name), Duration::from_secs(15)).await {
        return Err(DownError::Stuck { unit: name.to_owned(), pids: hierarchies.processes(name) });
    }
    hierarchies.remove(name).await?;
    let _ = std::fs::remove_file(unit::holder_path(&work.unit(name)));
    let _ = std::fs::remove_file(unit::services_path(&work.unit(name)));
    Ok(())
}

/// Ends everything and removes the work directory.
pub async fn down(work: &WorkDir) -> Result<(), DownError> {
    let mut units = Hierarchies::detect()?.units();
    for entry in std::fs::read_dir(work.units()).into_iter().flatten().flatten() {
        units.insert(entry.file_name().to_string_lossy().into_owned());
    }
    let stops = units.iter().map(|name| stop_unit(work, name));
    futures::future::join_all(stops).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    network::tear_down(work).await?;

    // Removing files through a mount would reach what does not belong here.
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
