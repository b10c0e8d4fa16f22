//! The one small record of a cluster: how far `up` came, and with what.

use serde::{Deserialize, Serialize};

use super::files::{self, Access, FileError};
use super::workdir::WorkDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// `up` began and has not finished; if it is not running any more, what is there is half a cluster.
    Starting,
    /// `up` finished once. Nodes may since have been killed or lost; that is repaired, not rebuilt.
    Up,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    pub nodes: u8,
    /// Key over programs and images; another key is another cluster.
    pub content: String,
}

impl State {
    /// None when there is no record, or one that an older program wrote.
    pub fn read(work: &WorkDir) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(work.state()).ok()?).ok()
    }

    pub fn write(&self, work: &WorkDir) -> Result<(), FileError> {
        let path = work.state();
        let json = serde_json::to_vec(self).map_err(|source| FileError::new("render", &path, source.into()))?;
        files::write(&path, json, Access::Public)
    }
}
