//! The content of a leaf certificate, and whether an existing certificate is still valid for it. X.509 times have whole
//! seconds.

use crate::model::San;
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafSpec {
    pub common_name: String,
    /// The group, for certificates that are an identity toward a kube-apiserver.
    pub organization: Option<String>,
    pub usage: Usage,
    pub sans: BTreeSet<San>,
}

impl LeafSpec {
    pub(super) fn client(common_name: impl Into<String>, organization: Option<&str>) -> Self {
        Self {
            common_name: common_name.into(),
            organization: organization.map(ToOwned::to_owned),
            usage: Usage::Client,
            sans: BTreeSet::new(),
        }
    }

    pub(super) fn server(common_name: impl Into<String>, usage: Usage, sans: impl IntoIterator<Item = San>) -> Self {
        Self { common_name: common_name.into(), organization: None, usage, sans: sans.into_iter().collect() }
    }
}

/// Extended key usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
    /// etcd dials itself with its serving certificate (etcd#9785).
    ServerAndClient,
}

impl Usage {
    pub(super) fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::ServerAndClient)
    }

    pub(super) fn is_server(self) -> bool {
        matches!(self, Self::Server | Self::ServerAndClient)
    }
}

/// A certificate that exists.
pub(super) struct Held {
    pub spec: LeafSpec,
    pub renew_at: Timestamp,
    /// From minting to end.
    pub life: SignedDuration,
    /// Key identifier of the authority that signed it.
    pub issuer: Vec<u8>,
    /// Whether it is for the key next to it.
    owns_key: bool,
}

/// `None` if it cannot be read, or is no leaf.
pub(super) fn held(certificate: &str, key: &str) -> Option<Held> {
    with_certificate(certificate.as_bytes(), |parsed, not_after| {
        let minted = Timestamp::from_second(parsed.validity().not_before.timestamp()).ok()? + BACKDATE;
        Some(Held {
            spec: read(parsed)?,
            renew_at: renewal(minted, not_after),
            life: not_after.duration_since(minted),
            issuer: key_id_of_issuer(parsed)?.to_vec(),
            owns_key: owns(key, parsed),
        })
    })
}

/// What `read` makes of a PEM certificate and the time of its end; `None` also if it cannot be parsed.
pub(super) fn with_certificate<T>(pem: &[u8], read: impl FnOnce(&X509Certificate<'_>, Timestamp) -> Option<T>) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
    read(&parsed, not_after)
}

/// When the certificate is to be renewed, or `None` if it is of no use any more: unreadable, of another authority, for
/// other names, for another key, longer-lived than `lifetime`, or past two thirds of its life.
pub(super) fn still_serves(
    (certificate, key): (&str, &str),
    spec: &LeafSpec,
    authority_key_id: &[u8],
    lifetime: SignedDuration,
    now: Timestamp,
) -> Option<Timestamp> {
    let held = held(certificate, key)?;
    let short_enough = held.life <= lifetime + SignedDuration::from_secs(1);
    let fits = held.spec == *spec && held.issuer == authority_key_id && held.owns_key && short_enough;
    (fits && now < held.renew_at).then_some(held.renew_at)
}

fn read(certificate: &X509Certificate<'_>) -> Option<LeafSpec> {
    let common_name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let organization = match certificate.subject().iter_organization().next() {
        Some(name) => Some(name.as_str().ok()?.to_owned()),
        None => None,
    };
    let usages = certificate.extended_key_usage().ok()??.value;
    let usage = match (usages.client_auth, usages.server_auth) {
        (true, true) => Usage::ServerAndClient,
        (true, false) => Usage::Client,
        (false, true) => Usage::Server,
        (false, false) => return None,
    };
    let mut sans = BTreeSet::new();
    if let Some(extension) = certificate.subject_alternative_name().ok()? {
        for name in &extension.value.general_names {
            sans.insert(match name {
                GeneralName::DNSName(dns) => San::Dns((*dns).to_owned()),
                GeneralName::URI(uri) => San::Uri((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => San::Ip(address(bytes)?),
                _ => return None,
            });
        }
    }
    Some(LeafSpec { common_name, organization, usage, sans })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The issuer is told by its key identifier, not by checking its signature: whoever could put a foreign certificate into
/// these Secrets could put a foreign authority there as well, and a signature check for every leaf of a thousand tenants
/// would be the operator's main work.
fn key_id_of_issuer<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

/// PKCS#8 keys that we mint carry their public key (RFC 5915 `publicKey`), so comparing bytes does.
fn owns(key: &str, certificate: &X509Certificate<'_>) -> bool {
    let Ok(PrivateKeyDer::Pkcs8(der)) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else { return false };
    let public = certificate.public_key().subject_public_key.data.as_ref();
    !public.is_empty() && der.secret_pkcs8_der().windows(public.len()).any(|window| window == public)
}

/// How far `notBefore` lies before the moment of minting, for readers whose clocks are behind.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// When to renew: after two thirds of the life between minting and end.
pub(super) fn renewal(minted: Timestamp, not_after: Timestamp) -> Timestamp {
    let life = not_after.duration_since(minted).max(SignedDuration::ZERO);
    minted.saturating_add(life * 2 / 3).unwrap_or(not_after)
}
