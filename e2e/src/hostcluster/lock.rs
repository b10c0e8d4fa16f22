//! Advisory file locks, so that two runs do not build or start the same thing at once.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::progress;

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
pub struct Lock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// One cluster per machine: link, groups and addresses have fixed names.
const MACHINE: &str = "/run/lock/nestling-hostcluster";

impl Lock {
    /// Held by whoever changes the host cluster.
    pub fn machine() -> Result<Self, LockError> {
        Self::take(Path::new(MACHINE), "changing the host cluster")
    }

    /// Waits for the lock, telling who holds it.
    pub fn take(path: &Path, purpose: &str) -> Result<Self, LockError> {
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
                progress::say(&format!("waiting for another run ({}) that holds {shown}", holder.trim()));
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
