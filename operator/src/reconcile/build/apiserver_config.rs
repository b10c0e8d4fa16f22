//! Secret `<vc>-apiserver-config`: the configuration files of kube-apiserver. A Secret, because encryption keys are among
//! them; it stays with etcd's data for the same reason.

use super::{metadata, names};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

pub const AUTHENTICATION: &str = "authentication.yaml";
pub const AUDIT: &str = "audit.yaml";
pub const ENCRYPTION: &str = "encryption.yaml";
pub const ADMISSION: &str = "admission.yaml";

fn files(cluster: &ValidatedCluster) -> Vec<(&'static str, &str)> {
    let files = &cluster.api_server.files;
    let optional = [(AUDIT, &files.audit), (ENCRYPTION, &files.encryption), (ADMISSION, &files.admission)];
    let mut all = vec![(AUTHENTICATION, files.authentication.as_str())];
    all.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))));
    all
}

/// Names of the files that there are.
pub fn items(cluster: &ValidatedCluster) -> Vec<String> {
    files(cluster).into_iter().map(|(name, _)| name.to_owned()).collect()
}

pub fn apiserver_config(cluster: &ValidatedCluster) -> Secret {
    let data = files(cluster).into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    Secret {
        metadata: metadata::kept_with_data(cluster, names::apiserver_config(&cluster.name)),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}
