//! Which Kubernetes.

use super::problems::Problems;
use nestling_crds::versions::{self, Known, Version};

const FIELD: &str = "spec.version";

/// The version asked for, if it is known and the one that runs may become it.
pub(super) fn known(asked: Option<&str>, running: Option<&str>, problems: &mut Problems) -> Option<Known> {
    let known = versions::resolve(asked).map_err(|error| problems.add(FIELD, error.to_string())).ok()?;
    if let Some(running) = running.and_then(|running| running.parse::<Version>().ok())
        && let Err(error) = versions::check_change(running, known.version)
    {
        problems.add(FIELD, error.to_string());
    }
    Some(known)
}
