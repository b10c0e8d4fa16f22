//! A certificate authority: its certificate and key, what it signs, and how both are kept in Secrets.

use crate::model::San;
use crate::pki::leaf::{BACKDATE, LeafSpec, with_certificate};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use thiserror::Error;
use x509_parser::extensions::ParsedExtension;

/// How long what is minted lives.
///
/// Programs look at renewed files after a while only: the kubelet brings a Secret into a pod within about 90 s, and
/// client-go reloads client certificates every 5 minutes (`CertCallbackRefreshDuration`). Leaves that live less than about
/// 20 minutes are therefore renewed in time in the Secrets, but clients that hold them fail now and then: for tests of
/// renewal itself only.
#[derive(Clone, Copy, Debug)]
pub struct PkiPolicy {
    pub leaf_lifetime: SignedDuration,
    pub ca_lifetime: SignedDuration,
}

/// A certificate with its key, PEM, for a program that keeps them in memory.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub not_after: Timestamp,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

#[derive(Debug, Error)]
pub enum PkiError {
    /// Nothing is minted in its place: a new authority would cut off everything that trusts the old one.
    #[error("Secret {secret} holds an unusable {authority}: restore it, or delete it to begin with a new one")]
    UnusableAuthority { secret: String, authority: String },
    #[error("authority {authority} as minted cannot be read back")]
    Unusable { authority: String },
    #[error("cannot sign {subject}: its authority expired at {at}")]
    AuthorityExpired { subject: String, at: Timestamp },
    #[error("cannot generate a key")]
    Generate(#[source] rcgen::Error),
    #[error("cannot sign {subject}")]
    Sign { subject: String, source: rcgen::Error },
    #[error("cannot write kubeconfig for {user}")]
    Kubeconfig { user: String, source: serde_saphyr::ser::Error },
}

/// A certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A text value that is there and not empty.
pub(super) fn text<'a>(secret: Option<&'a Secret>, key: &str) -> Option<&'a str> {
    let bytes = secret?.data.as_ref()?.get(key)?;
    std::str::from_utf8(&bytes.0).ok().filter(|text| !text.is_empty())
}

/// The pair `<stem>.crt` and `<stem>.key`.
pub(super) fn pair(secret: Option<&Secret>, stem: &str) -> Option<Pair> {
    Some(Pair { certificate: text(secret, &format!("{stem}.crt"))?.to_owned(), key: text(secret, &format!("{stem}.key"))?.to_owned() })
}

/// The values of a Secret in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<String, ByteString>);

impl Values {
    /// Those of a Secret that exists.
    pub(super) fn of(secret: &Secret) -> Self {
        Self(secret.data.clone().unwrap_or_default())
    }

    pub(super) fn put(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.insert(key.into(), ByteString(text.into().into_bytes()));
    }

    pub(super) fn put_pair(&mut self, stem: &str, pair: Pair) {
        self.put(format!("{stem}.crt"), pair.certificate);
        self.put(format!("{stem}.key"), pair.key);
    }

    pub(super) fn into_data(self) -> BTreeMap<String, ByteString> {
        self.0
    }
}

/// A certificate authority.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub pair: Pair,
    /// Subject key identifier, by which leaves name their issuer.
    pub key_id: Vec<u8>,
    not_after: Timestamp,
}

impl Authority {
    /// A new one, signed by itself, that may sign leaves only.
    pub(super) fn generate(common_name: &str, now: Timestamp, lifetime: SignedDuration) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)?;
        let mut params = params(common_name, None, now, now.saturating_add(lifetime).unwrap_or(Timestamp::MAX));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(|source| PkiError::Sign { subject: common_name.to_owned(), source })?;
        Self::from_pem(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
            .ok_or_else(|| PkiError::Unusable { authority: common_name.to_owned() })
    }

    /// `None` if the certificate is not that of an authority. The key is looked at when something is signed.
    pub(super) fn from_pem(pair: Pair) -> Option<Self> {
        let (key_id, not_after) = with_certificate(pair.certificate.as_bytes(), |parsed, not_after| {
            let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })?;
            parsed.is_ca().then_some((key_id, not_after))
        })?;
        Some(Self { pair, key_id, not_after })
    }

    /// Its own certificate, PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// A new key with a certificate for it, and when that ends.
    pub(super) fn issue(&self, spec: &LeafSpec, now: Timestamp, lifetime: SignedDuration) -> Result<(Pair, Timestamp), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)?;
        let (certificate, not_after) = self.certify(spec, &key, now, lifetime)?;
        Ok((Pair { certificate, key: key.serialize_pem() }, not_after))
    }

    /// A certificate for a key of somebody's, and when it ends: never after the authority itself.
    pub(super) fn certify(
        &self,
        spec: &LeafSpec,
        public_key: &impl PublicKeyData,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<(String, Timestamp), PkiError> {
        let failed = |source| PkiError::Sign { subject: spec.common_name.clone(), source };
        if self.not_after <= now {
            return Err(PkiError::AuthorityExpired { subject: spec.common_name.clone(), at: self.not_after });
        }
        let not_after = now.saturating_add(lifetime).unwrap_or(Timestamp::MAX).min(self.not_after);
        let mut params = params(&spec.common_name, spec.organization.as_deref(), now, not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&public_key.subject_public_key_info(), now));
        if spec.usage.is_server() {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if spec.usage.is_client() {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.subject_alt_names = spec.sans.iter().map(san).collect::<Result<_, _>>().map_err(failed)?;

        let key = KeyPair::from_pem(&self.pair.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.pair.certificate, key).map_err(failed)?;
        Ok((params.signed_by(public_key, &issuer).map_err(failed)?.pem(), not_after))
    }
}

fn params(common_name: &str, organization: Option<&str>, now: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let not_before = now.saturating_sub(BACKDATE).unwrap_or(Timestamp::UNIX_EPOCH);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_before);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
    params
}

/// Times before 1970 do not occur; they would become 1970.
fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
}

fn san(name: &San) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        San::Dns(dns) => SanType::DnsName(Ia5String::try_from(dns.as_str())?),
        San::Uri(uri) => SanType::URI(Ia5String::try_from(uri.as_str())?),
        San::Ip(address) => SanType::IpAddress(*address),
    })
}

/// Serial numbers are positive and at most 20 octets (RFC 5280 §4.1.2.2). The same key certified again gets another one.
fn serial(public_key: &[u8], now: Timestamp) -> SerialNumber {
    let mut digest = Sha256::new();
    digest.update(public_key);
    digest.update(now.as_nanosecond().to_be_bytes());
    let mut bytes = digest.finalize()[..16].to_vec();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes)
}

/// A certificate of `authority` with a new key, in memory.
pub(super) fn identity(authority: &Authority, spec: &LeafSpec, now: Timestamp, lifetime: SignedDuration) -> Result<Identity, PkiError> {
    let (pair, not_after) = authority.issue(spec, now, lifetime)?;
    Ok(Identity { certificate: pair.certificate, key: pair.key, not_after })
}
