//! When the certificates of a tenant end, for its status.

use crate::pki::plan::PkiSecrets;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use nestling_crds::v1alpha1::CertificateStatus;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::collections::BTreeSet;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Authorities and leaves by `<Secret>/<key>`, each once: the certificates that have a key beside them.
pub(crate) fn expiries(secrets: &PkiSecrets) -> Vec<CertificateStatus> {
    let PkiSecrets { ca, service_account: _, apiserver, etcd, controllers, admin_kubeconfig } = secrets;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for secret in [ca, apiserver, etcd, controllers, admin_kubeconfig] {
        for (stem, certificate) in pairs(secret) {
            // The cluster CA has its key in two Secrets.
            if seen.insert(certificate)
                && let Some(not_after) = not_after(certificate)
            {
                all.push(CertificateStatus { name: format!("{}/{stem}.crt", secret.name_any()), not_after: Time(not_after) });
            }
        }
    }
    all
}

fn pairs(secret: &Secret) -> impl Iterator<Item = (&str, &[u8])> {
    secret.data.iter().flatten().filter_map(|(key, value)| {
        let stem = key.strip_suffix(".crt")?;
        secret.data.as_ref()?.contains_key(&format!("{stem}.key")).then_some((stem, value.0.as_slice()))
    })
}

fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(certificate).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}
