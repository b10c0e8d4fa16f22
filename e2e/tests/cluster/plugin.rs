//! `kubectl nestling` as a user calls it.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, Paths, plugin, shared};

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn list_describe_and_merge() -> Result<()> {
    let tenant = shared()?;
    let host = Paths::default().host_kubeconfig();
    let list = plugin(&["list", "-A"], &host)?.ok("list")?;
    ensure!(list.contains("NAME") && list.contains("shared"), "{list}");
    let text = plugin(&["describe", "shared", "-n", tenant.host().name()], &host)?.ok("describe")?;
    ensure!(text.contains("Conditions") && text.contains("Ready"), "{text}");

    let folder = tempfile::tempdir()?;
    let merged = folder.path().join("config");
    std::fs::copy(&host, &merged)?;
    plugin(&["kubeconfig", "shared", "-n", tenant.host().name(), "--merge"], &merged)?.ok("kubeconfig --merge")?;
    let contexts = Kubectl::new(&merged).run(&["config", "get-contexts", "-o", "name"])?;
    ensure!(contexts.lines().count() > 1, "{contexts}");
    let missing = plugin(&["describe", "nobody", "-n", tenant.host().name()], &host)?;
    ensure!(missing.status.code() == Some(1) && missing.stderr.contains("nobody"), "{missing:?}");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn columns_short_name_category_and_scale() -> Result<()> {
    let host = shared()?.host();
    let table = host.run(&["get", "vc"])?;
    for column in ["VERSION", "TOPOLOGY", "READY", "NODES", "ENDPOINT", "AGE"] {
        ensure!(table.contains(column), "no {column} in {table}");
    }
    ensure!(host.run(&["get", "nestling", "-o", "name"])?.contains("virtualcluster"));
    let refused = host.output(&["scale", "vc/shared", "--replicas=2"])?;
    ensure!(!refused.status.success() && refused.stderr.contains("odd"), "{refused:?}");
    Ok(())
}
