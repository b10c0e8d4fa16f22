//! etcd and kube-apiserver as processes on loopback, for what needs no cluster around them.

use anyhow::Result;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::net::TcpListener;
use std::path::Path;

/// A port that was free a moment ago; if it is taken meanwhile the start fails.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Flags of a lone etcd with its data in `folder`, and the URL where it serves.
pub(crate) fn lone_etcd(folder: &Path) -> Result<(Vec<String>, String)> {
    let (client, peer) = (format!("http://127.0.0.1:{}", free_port()?), format!("http://127.0.0.1:{}", free_port()?));
    let flags = vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=error".to_owned(),
    ];
    Ok((flags, client))
}

/// Writes a key pair into `folder`; returns kube-apiserver's flags for it.
pub(crate) fn service_account_keys(folder: &Path) -> Result<[String; 3]> {
    let (private, public) = (folder.join("sa.key"), folder.join("sa.pub"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    std::fs::write(&private, key.serialize_pem())?;
    std::fs::write(&public, key.public_key_pem())?;
    Ok([
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", public.display()),
        format!("--service-account-signing-key-file={}", private.display()),
    ])
}
