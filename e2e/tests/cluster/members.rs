//! Several members of etcd: they come and go while the tenant serves, a lost one is replaced, and no write that was acknowledged is lost.

use anyhow::{Context as _, Result, ensure};
use nestling_e2e::suite::{Kubectl, Tenant, eventually};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Creates objects one after the other, as long as `work` takes; those that were acknowledged must exist in the end.
fn while_writing<T>(tenant: &Tenant, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let ns = tenant.namespace("written")?;
    let ends = AtomicBool::new(false);
    let (acknowledged, done) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for index in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("object-{index}");
                if ns.run(&["create", "configmap", &name, "--request-timeout=5s"]).is_ok() {
                    acknowledged.push(name);
                }
            }
            acknowledged
        });
        let done = work();
        ends.store(true, Ordering::Relaxed);
        (writer.join(), done)
    });
    let (acknowledged, done) = (acknowledged.ok().context("the writer")?, done?);
    let existing = ns.names(&["configmaps"])?;
    let lost: Vec<_> = acknowledged.iter().filter(|name| !existing.contains(name)).collect();
    ensure!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
    ensure!(acknowledged.len() > 20, "only {} writes were acknowledged", acknowledged.len());
    Ok(done)
}

/// Waits until exactly these members are there and nothing is left to do.
fn members_are(host: &Kubectl, cluster: &str, names: &[String]) -> Result<()> {
    let object = format!("virtualcluster/{cluster}");
    eventually("etcd has the members that it should have", Duration::from_secs(240), || {
        let members = host.field(&object, ".status.etcd.members[?(@.ready==true)].name")?;
        ensure!(members.split_whitespace().eq(names.iter()), "{members}");
        let progressing = host.field(&object, ".status.conditions[?(@.type==\"Progressing\")].message")?;
        let is_ready = host.field(&object, ".status.conditions[?(@.type==\"Ready\")].status")?;
        ensure!(is_ready == "True" && progressing.is_empty(), "Ready={is_ready}: {progressing}");
        Ok(())
    })
}

fn members(set: &str, count: usize) -> Vec<String> {
    (0..count).map(|ordinal| format!("{set}-{ordinal}")).collect()
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_member_that_has_lost_its_data_is_replaced() -> Result<()> {
    let tenant = Tenant::create("replaced", "{controlPlane: {replicas: 3}, etcd: {storage: {medium: Memory}}}")?;
    let host = tenant.host();
    let all = members("replaced-control-plane", 3);
    members_are(host, "replaced", &all)?;
    while_writing(&tenant, || {
        let uid = host.field("pod/replaced-control-plane-1", ".metadata.uid")?;
        host.run(&["delete", "pod", "replaced-control-plane-1", "--wait=false"])?;
        eventually("another pod follows", Duration::from_secs(120), || {
            ensure!(host.field("pod/replaced-control-plane-1", ".metadata.uid")? != uid);
            Ok(())
        })?;
        members_are(host, "replaced", &all)
    })?;
    let events = host.run(&["events", "--for=virtualcluster/replaced"])?;
    for reason in ["MemberRemoved", "MemberAdded", "MemberPromoted"] {
        ensure!(events.contains(reason), "no {reason}:\n{events}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn members_come_and_go_while_the_tenant_serves() -> Result<()> {
    let tenant = Tenant::create("scaled", "{topology: External, etcd: {storage: {size: 1Gi}}}")?;
    let host = tenant.host();
    let uid = host.field("pod/scaled-etcd-0", ".metadata.uid")?;
    while_writing(&tenant, || {
        for count in [3, 1] {
            host.run(&[
                "patch",
                "virtualcluster",
                "scaled",
                "--type=merge",
                "-p",
                &format!("{{\"spec\":{{\"etcd\":{{\"replicas\":{count}}}}}}}"),
            ])?;
            members_are(host, "scaled", &members("scaled-etcd", count))?;
        }
        Ok(())
    })?;
    ensure!(host.field("pod/scaled-etcd-0", ".metadata.uid")? == uid, "scaling has replaced the first member's pod");
    eventually("the volumes of the removed members are gone", Duration::from_secs(60), || {
        let claims = host.names(&["persistentvolumeclaims"])?;
        ensure!(claims == ["data-scaled-etcd-0"], "{claims:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn pods_are_replaced_one_after_the_other() -> Result<()> {
    let tenant = Tenant::create("rolled", "{controlPlane: {replicas: 3}, etcd: {storage: {size: 1Gi}}}")?;
    let host = tenant.host();
    let all = members("rolled-control-plane", 3);
    members_are(host, "rolled", &all)?;
    let pods = |path: &str| -> Result<Vec<String>> {
        let path = format!("jsonpath={{.items[*]{path}}}");
        let found = host.run(&["get", "pods", "-l", "nestling.dev/component=control-plane", "-o", &path])?;
        Ok(found.split_whitespace().map(ToOwned::to_owned).collect())
    };
    let before = pods(".metadata.uid")?;
    while_writing(&tenant, || {
        let change = "{\"spec\":{\"etcd\":{\"extraArgs\":[{\"name\":\"log-level\",\"value\":\"warn\"}]}}}";
        host.run(&["patch", "virtualcluster", "rolled", "--type=merge", "-p", change])?;
        let mut fewest = all.len();
        eventually("every pod is another one", Duration::from_secs(240), || {
            let ready = pods(".status.conditions[?(@.type==\"Ready\")].status")?;
            fewest = fewest.min(ready.iter().filter(|status| *status == "True").count());
            let now = pods(".metadata.uid")?;
            ensure!(now.len() == all.len() && now.iter().all(|uid| !before.contains(uid)), "{now:?}");
            Ok(())
        })?;
        ensure!(fewest >= 2, "only {fewest} of {} pods were ready at a time", all.len());
        members_are(host, "rolled", &all)
    })
}

/// Ends a program of a pod with SIGKILL, and waits until the kubelet has started it again. For nodes on this machine.
fn kill(host: &Kubectl, pod: &str, program: &str) -> Result<()> {
    let (object, uid) = (format!("pod/{pod}"), host.field(&format!("pod/{pod}"), ".metadata.uid")?);
    let restarts = || -> Result<u32> {
        let of = |list: &str| host.field(&object, &format!(".status.{list}[?(@.name==\"{program}\")].restartCount"));
        let restarts = of("initContainerStatuses")?;
        if restarts.is_empty() { of("containerStatuses")? } else { restarts }.parse().context("restartCount")
    };
    let before = restarts()?;
    let is_of_pod = |process: &Path| {
        let read = |file: &str| std::fs::read_to_string(process.join(file)).unwrap_or_default();
        read("comm").trim() == program && read("cgroup").replace('_', "-").contains(&uid)
    };
    let processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path()).find(|process| is_of_pod(process));
    let process = processes.with_context(|| format!("{program} of {pod} does not run on this machine"))?;
    let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok()).context("a process ID")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    eventually("the program is started again", Duration::from_secs(120), || {
        ensure!(restarts()? > before);
        Ok(())
    })
}

#[test]
#[ignore = "needs a local host cluster with Nestling installed"]
fn killed_programs_cost_no_acknowledged_write() -> Result<()> {
    if std::env::var_os("KUBECONFIG").is_some() {
        eprintln!("left out: the nodes of the cluster of KUBECONFIG are other machines");
        return Ok(());
    }
    let tenant = Tenant::create("killed", "{controlPlane: {replicas: 3}, etcd: {storage: {size: 1Gi}}}")?;
    let host = tenant.host();
    let all = members("killed-control-plane", 3);
    members_are(host, "killed", &all)?;
    while_writing(&tenant, || {
        // One of them leads etcd.
        for (pod, program) in [(0, "etcd"), (1, "kube-apiserver"), (1, "etcd"), (2, "etcd")] {
            kill(host, &all[pod], program)?;
            members_are(host, "killed", &all)?;
        }
        Ok(())
    })
}
