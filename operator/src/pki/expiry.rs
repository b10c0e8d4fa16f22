//! When the certificates of a tenant end, for its status.

use crate::pki::leaf::with_certificate;
use crate::pki::plan::PkiSecrets;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use nestling_crds::v1alpha1::CertificateStatus;
use std::collections::BTreeSet;

/// Authorities and leaves by `<Secret>/<key>`, each once: the certificates that have a key beside them.
pub(crate) fn expiries(secrets: &PkiSecrets) -> Vec<CertificateStatus> {
    let PkiSecrets { ca, service_account: _, apiserver, etcd, controllers, admin_kubeconfig } = secrets;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for secret in [ca, apiserver, etcd, controllers, admin_kubeconfig] {
        for (stem, certificate) in pairs(secret) {
            // The cluster CA has its key in two Secrets.
            if seen.insert(certificate)
                && let Some(not_after) = with_certificate(certificate, |_, not_after| Some(not_after))
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
