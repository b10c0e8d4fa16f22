//! Who calls: the tenant, user and groups that a verified client certificate names.

use jiff::Timestamp;
use nestling_crds::names::TenantUid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The URI in a client certificate that says for which tenant it speaks: this and the tenant's UID.
const TENANT_URI: &str = "nestling://tenants/";
/// Every caller with a verified certificate is in this group.
const AUTHENTICATED: &str = "system:authenticated";

/// A caller. The certificate must have been verified against the installation's kubelet-client CA, which the operator
/// alone holds: that makes the tenant's name in it true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub tenant: TenantUid,
    pub user: String,
    pub groups: Vec<String>,
    /// When the certificate ends; a connection may outlive it.
    pub not_after: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the client certificate cannot be read")]
    Parse(#[source] x509_parser::error::X509Error),
    #[error("the client certificate has more than one tenant, or none")]
    NotOneTenant,
    #[error("the client certificate has no common name")]
    NoUser,
    #[error("the client certificate's end cannot be read")]
    NotAfter,
}

impl Identity {
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => IdentityError::Parse(error),
            x509_parser::nom::Err::Incomplete(_) => IdentityError::Parse(x509_parser::error::X509Error::InvalidCertificate),
        })?;
        let mut tenants = certificate
            .subject_alternative_name()
            .map_err(IdentityError::Parse)?
            .into_iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(TENANT_URI),
                _ => None,
            });
        let tenant = match (tenants.next(), tenants.next()) {
            (Some(tenant), None) if !tenant.is_empty() && !tenant.contains('/') => TenantUid::new(tenant),
            _ => return Err(IdentityError::NotOneTenant),
        };
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        let user = certificate.subject().iter_common_name().next().and_then(text).filter(|user| !user.is_empty());
        let groups = certificate.subject().iter_organization().filter_map(text).chain([AUTHENTICATED.to_owned()]).collect();
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|_| IdentityError::NotAfter)?;
        Ok(Self { tenant, user: user.ok_or(IdentityError::NoUser)?, groups, not_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(user: Option<&str>, uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(user) = user {
            params.distinguished_name.push(DnType::CommonName, user);
        }
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn reads_tenant_user_and_groups() {
        let identity =
            Identity::from_certificate(&certificate(Some("kubelet-client"), &["https://other", "nestling://tenants/u-1"])).unwrap();
        assert_eq!(identity.tenant, TenantUid::new("u-1"));
        assert_eq!(identity.user, "kubelet-client");
        assert_eq!(identity.groups, ["system:masters", "system:authenticated"]);
        assert_eq!(identity.not_after, "2040-01-01T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn refuses_certificates_that_name_not_exactly_one_tenant() {
        for uris in [&[][..], &["nestling://tenants/"], &["nestling://tenants/a/b"], &["nestling://tenants/a", "nestling://tenants/b"]] {
            let error = Identity::from_certificate(&certificate(Some("x"), uris)).unwrap_err();
            assert!(matches!(error, IdentityError::NotOneTenant), "{uris:?}: {error}");
        }
        assert!(matches!(Identity::from_certificate(&certificate(None, &["nestling://tenants/a"])), Err(IdentityError::NoUser)));
        assert!(matches!(Identity::from_certificate(b"no certificate"), Err(IdentityError::Parse(_))));
    }
}
