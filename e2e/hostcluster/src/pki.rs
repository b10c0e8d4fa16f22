//! Certificates of the host cluster, and kubeconfigs with them: one authority for servers and clients, one for the aggregation layer,
//! and the key pair of service-account tokens. Made once per cluster and kept as files, because upstream components read files.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType, date_time_ymd,
};
use serde_json::{Value, json};

use crate::files::{self, Access, FileError};
use crate::topology::{API_SERVICE, CONTROL_ADDRESS, Node, api_address};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("cannot make the certificate {name}")]
    Certificate { name: String, source: rcgen::Error },
    #[error("cannot keep the certificate {name}")]
    File { name: String, source: FileError },
}

/// Names and addresses in a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organization: Option<&'static str>,
    pub(crate) dns: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Subject {
    pub(crate) fn client(common_name: &str, organization: Option<&'static str>) -> Self {
        Self { common_name: common_name.to_owned(), organization, dns: Vec::new(), addresses: Vec::new() }
    }
}

/// `<dir>/<name>.crt` and `<dir>/<name>.key`.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    pub(crate) fn at(dir: &Path, name: &str) -> Self {
        Self { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority `name` from `dir`, making it the first time.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self, PkiError> {
        let bad = |source| PkiError::Certificate { name: name.to_owned(), source };
        let file = |source| PkiError::File { name: name.to_owned(), source };
        let pair = Pair::at(dir, name);
        if !pair.certificate.exists() {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("nestling-host-{name}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
            validity(&mut params);
            let key = new_key().map_err(bad)?;
            let certificate = params.self_signed(&key).map_err(bad)?;
            files::write(&pair.key, key.serialize_pem(), Access::Secret).map_err(file)?;
            files::write(&pair.certificate, certificate.pem(), Access::Public).map_err(file)?;
        }
        let key = KeyPair::from_pem(&files::read(&pair.key).map_err(file)?).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_pem(&files::read(&pair.certificate).map_err(file)?, key).map_err(bad)?;
        Ok(Self { issuer })
    }

    /// Issues `<dir>/<name>` unless it exists.
    pub(crate) fn issue(&self, dir: &Path, name: &str, subject: &Subject) -> Result<Pair, PkiError> {
        let bad = |source| PkiError::Certificate { name: name.to_owned(), source };
        let file = |source| PkiError::File { name: name.to_owned(), source };
        let pair = Pair::at(dir, name);
        if pair.certificate.exists() {
            return Ok(pair);
        }
        let mut params = CertificateParams::new(subject.dns.clone()).map_err(bad)?;
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
        if let Some(organization) = subject.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params);
        let key = new_key().map_err(bad)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad)?;
        files::write(&pair.key, key.serialize_pem(), Access::Secret).map_err(file)?;
        files::write(&pair.certificate, certificate.pem(), Access::Public).map_err(file)?;
        Ok(pair)
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// One year, from yesterday for clocks that differ.
fn validity(params: &mut CertificateParams) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |date: jiff::civil::Date| date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    params.not_before = date(today.yesterday().unwrap_or(today));
    params.not_after = date(today.saturating_add(jiff::Span::new().days(365)));
}

/// The files that the control plane reads.
pub(crate) fn control_plane(dir: &Path) -> Result<(), PkiError> {
    let authority = Authority::open(dir, "ca")?;
    let front_proxy = Authority::open(dir, "front-proxy-ca")?;
    let server = Subject {
        common_name: "kube-apiserver".to_owned(),
        organization: None,
        dns: ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"]
            .map(str::to_owned)
            .into(),
        addresses: [API_SERVICE, CONTROL_ADDRESS, Ipv4Addr::LOCALHOST].map(IpAddr::V4).into(),
    };
    authority.issue(dir, "apiserver", &server)?;
    authority.issue(dir, "apiserver-kubelet-client", &Subject::client("kube-apiserver-kubelet-client", Some("system:masters")))?;
    front_proxy.issue(dir, "front-proxy-client", &Subject::client("front-proxy-client", None))?;
    authority.issue(dir, "admin", &Subject::client("nestling-host-admin", Some("system:masters")))?;
    for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        authority.issue(dir, component, &Subject::client(&format!("system:{component}"), None))?;
    }
    service_account_key(dir)
}

/// `sa.key` signs service-account tokens, `sa.pub` checks them.
fn service_account_key(dir: &Path) -> Result<(), PkiError> {
    let name = "sa".to_owned();
    if dir.join("sa.pub").exists() {
        return Ok(());
    }
    let key = new_key().map_err(|source| PkiError::Certificate { name: name.clone(), source })?;
    files::write(&dir.join("sa.key"), key.serialize_pem(), Access::Secret)
        .and_then(|()| files::write(&dir.join("sa.pub"), key.public_key_pem(), Access::Public))
        .map_err(|source| PkiError::File { name, source })
}

/// A kubelet's client identity and its serving certificate, as `<node>` and `<node>-serving`.
pub(crate) fn node(dir: &Path, node: Node) -> Result<(Pair, Pair), PkiError> {
    let authority = Authority::open(dir, "ca")?;
    let name = node.name();
    let client = authority.issue(dir, &name, &Subject::client(&format!("system:node:{name}"), Some("system:nodes")))?;
    let serving = Subject {
        common_name: format!("system:node:{name}"),
        organization: Some("system:nodes"),
        dns: vec![name.clone()],
        addresses: vec![IpAddr::V4(node.address())],
    };
    Ok((client, authority.issue(dir, &format!("{name}-serving"), &serving)?))
}

/// Writes a kubeconfig for the identity of `pair`, without references to other files.
pub(crate) fn write_kubeconfig(path: &Path, pki: &Path, pair: &Pair) -> Result<(), FileError> {
    let authority = files::read(&Pair::at(pki, "ca").certificate)?;
    let config =
        render_kubeconfig(&format!("https://{}", api_address()), &authority, &files::read(&pair.certificate)?, &files::read(&pair.key)?);
    // JSON is YAML.
    files::write(path, format!("{config:#}\n"), Access::Secret)
}

fn render_kubeconfig(server: &str, authority: &str, certificate: &str, key: &str) -> Value {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "nestling-host",
        "clusters": [{"name": "nestling-host", "cluster": {"server": server, "certificate-authority-data": encode(authority)}}],
        "users": [{"name": "nestling-host", "user": {"client-certificate-data": encode(certificate), "client-key-data": encode(key)}}],
        "contexts": [{"name": "nestling-host", "context": {"cluster": "nestling-host", "user": "nestling-host"}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_reopened_signs_the_same_chain() {
        let dir = tempfile::tempdir().unwrap();
        control_plane(dir.path()).unwrap();
        let first = files::read(&dir.path().join("ca.crt")).unwrap();
        let (client, serving) = node(dir.path(), Node::parse("node-2").unwrap()).unwrap();
        assert_eq!(first, files::read(&dir.path().join("ca.crt")).unwrap());
        for pair in [&client, &serving] {
            assert!(pair.certificate.exists() && pair.key.exists());
        }
        let before = files::read(&client.certificate).unwrap();
        node(dir.path(), Node::parse("node-2").unwrap()).unwrap();
        assert_eq!(before, files::read(&client.certificate).unwrap(), "an existing pair is kept");
    }

    #[test]
    fn kubeconfigs_parse() {
        let text = render_kubeconfig("https://172.30.0.200:6443", "a", "b", "c").to_string();
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("nestling-host"));
        assert_eq!(config.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://172.30.0.200:6443"));
    }
}
