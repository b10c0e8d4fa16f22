//! From `kubectl apply` of a `VirtualCluster` to its Ready condition.

use crate::suite::{Kubectl, Namespace, eventually, manifest};
use anyhow::Result;
use std::time::{Duration, Instant};

pub fn start(spec: &str) -> Result<Duration> {
    let ns = Namespace::create(&Kubectl::host(), "bench-start")?;
    let begun = Instant::now();
    ns.apply(&manifest("start", spec))?;
    ns.wait_for("virtualcluster/start", "condition=Ready", 120)?;
    let took = begun.elapsed();
    ns.run(&["delete", "virtualcluster", "start", "--timeout=90s"])?;
    eventually("the tenant's pods are gone", Duration::from_secs(60), || {
        anyhow::ensure!(ns.names(&["pods"])?.is_empty());
        Ok(())
    })?;
    Ok(took)
}
