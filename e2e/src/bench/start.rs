//! Starts: a tenant from `kubectl apply` to its Ready condition, and as the lower limit etcd and kube-apiserver alone, as two processes on
//! loopback, from nothing to `/readyz`.

use crate::suite::{Kubectl, Namespace, Running, eventually, manifest};
use anyhow::{Context, Result, ensure};
use nestling_hostcluster::programs::Programs;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) fn tenant(spec: &str) -> Result<Duration> {
    let ns = Namespace::create(&Kubectl::host(), "bench-start")?;
    let begun = Instant::now();
    ns.apply(&manifest("start", spec))?;
    ns.wait_for("virtualcluster/start", "condition=Ready", 120)?;
    let took = begun.elapsed();
    ns.run(&["delete", "virtualcluster", "start", "--timeout=90s"])?;
    eventually("the tenant's pods are gone", Duration::from_secs(60), || {
        ensure!(ns.names(&["pods"])?.is_empty());
        Ok(())
    })?;
    Ok(took)
}

pub(super) fn bare(programs: &Programs) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    std::fs::write(path("sa.key"), key.serialize_pem())?;
    std::fs::write(path("sa.pub"), key.public_key_pem())?;
    let (client, peer, api) = (free_port()?, free_port()?, free_port()?);

    let begun = Instant::now();
    let _etcd = Running::start(Command::new(programs.path("etcd")?).args([
        format!("--data-dir={}", path("etcd")),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        "--log-level=error".into(),
    ]))?;
    let _apiserver = Running::start(Command::new(programs.path("kube-apiserver")?).args([
        format!("--etcd-servers=http://127.0.0.1:{client}"),
        format!("--secure-port={api}"),
        "--bind-address=127.0.0.1".into(),
        format!("--cert-dir={}", path("certs")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", path("sa.pub")),
        format!("--service-account-signing-key-file={}", path("sa.key")),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        "--authorization-mode=Node,RBAC".into(),
    ]))?;
    let certificate = folder.path().join("certs").join("apiserver.crt");
    eventually("kube-apiserver is ready", Duration::from_secs(60), || {
        ensure!(certificate.exists(), "no certificate yet");
        let probe = Command::new("curl")
            .args(["-sk", "--max-time", "2", "-o", "/dev/null", "-w", "%{http_code}", &format!("https://127.0.0.1:{api}/readyz")])
            .output()
            .context("run curl")?;
        ensure!(probe.stdout == b"200", "/readyz answers {}", String::from_utf8_lossy(&probe.stdout));
        Ok(())
    })?;
    Ok(begun.elapsed())
}

/// A port that was free a moment ago; if it is taken meanwhile the start fails.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
