//! What a tenant's PKI Secrets should contain, given what they contain now.

use crate::model::{CERTIFICATES, Endpoint, ValidatedCluster, keys, metadata, names};
use crate::pki::authority::{Authority, Pair, PkiError, PkiPolicy, Values, pair, text};
use crate::pki::installation::InstallationCas;
use crate::pki::leaf::{LeafSpec, held, renewal, still_serves};
use crate::pki::tenant;
use crate::pki::tenant::AuthorityKind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Everything a tenant's components read, and when to look again.
#[derive(Clone, Debug)]
pub struct Pki {
    pub secrets: PkiSecrets,
    /// PEM of the cluster CA: what the tenant's API is verified with.
    pub ca_bundle: String,
    /// When the first certificate will have lived two thirds of its life.
    pub renew_at: Timestamp,
}

/// The Secrets of a tenant's PKI.
#[derive(Clone, Debug, PartialEq)]
pub struct PkiSecrets {
    /// `<vc>-ca`: all authorities with their keys. Mounted nowhere.
    pub ca: Secret,
    /// `<vc>-sa`: key pair of service-account tokens.
    pub service_account: Secret,
    /// `<vc>-apiserver-certs`
    pub apiserver: Secret,
    /// `<vc>-etcd-certs`: for each member a serving and a peer pair, named after its pod.
    pub etcd: Secret,
    /// `<vc>-controllers-certs`: each container mounts its own items only; the cluster CA's key is there for
    /// kube-controller-manager's signer.
    pub controllers: Secret,
    /// `<vc>-admin-kubeconfig`
    pub admin_kubeconfig: Secret,
}

/// Keeps what serves, renews what has lived two thirds of its life or no longer fits, mints what is missing. `existing`
/// are the Secrets of [`super::secret_names`] that are there.
pub fn plan(
    cluster: &ValidatedCluster,
    endpoint: &Endpoint,
    installation: &InstallationCas,
    existing: &BTreeMap<String, Secret>,
    now: Timestamp,
    policy: &PkiPolicy,
) -> Result<Pki, PkiError> {
    let mut minter = Minter { existing, now, policy, renew_at: Timestamp::MAX };
    let vc = cluster.name.as_str();

    let ca_name = names::ca(vc);
    let authorities = Authorities {
        cluster: minter.authority(&ca_name, tenant::CLUSTER)?,
        front_proxy: minter.authority(&ca_name, tenant::FRONT_PROXY)?,
        etcd: minter.authority(&ca_name, tenant::ETCD)?,
        etcd_peer: minter.authority(&ca_name, tenant::ETCD_PEER)?,
    };
    let ca_bundle = authorities.cluster.pair.certificate.clone();

    let secrets = PkiSecrets {
        ca: kept_secret(cluster, ca_name, authorities.values()),
        service_account: kept_secret(cluster, names::service_account_keys(vc), minter.service_account(&names::service_account_keys(vc))?),
        apiserver: secret(cluster, names::apiserver_certs(vc), minter.apiserver(cluster, endpoint, installation, &authorities)?),
        etcd: secret(cluster, names::etcd_certs(vc), minter.etcd(cluster, &authorities)?),
        controllers: secret(cluster, names::controllers_certs(vc), minter.controllers(cluster, endpoint, installation, &authorities)?),
        admin_kubeconfig: secret(cluster, names::admin_kubeconfig(vc), minter.admin(cluster, endpoint, &authorities.cluster)?),
    };
    Ok(Pki { secrets, ca_bundle, renew_at: minter.renew_at })
}

/// Secrets whose certificates were renewed.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub secrets: Vec<Secret>,
    /// When the next certificate is due; never if there is none.
    pub renew_at: Timestamp,
}

/// Renews the leaves that have lived two thirds of their life, each for what it says and as long as before, by the authority
/// that signed it: for a cluster whose spec is not carried out. What cannot be read, and whose authority is gone, is left.
pub(crate) fn renew(
    cluster: &str,
    installation: &InstallationCas,
    existing: &BTreeMap<String, Secret>,
    now: Timestamp,
) -> Result<Renewed, PkiError> {
    let own = [tenant::CLUSTER, tenant::FRONT_PROXY, tenant::ETCD, tenant::ETCD_PEER];
    let own = own.into_iter().filter_map(|kind| pair(existing.get(&names::ca(cluster)), kind.stem).and_then(Authority::from_pem));
    let authorities: Vec<Authority> = own.chain([installation.kubelet_client.clone()]).collect();
    let mut renewed = Renewed { secrets: Vec::new(), renew_at: Timestamp::MAX };
    for secret in existing.values() {
        let mut values = Values::of(secret);
        let mut changed = false;
        for stem in secret.data.iter().flatten().filter_map(|(key, _)| key.strip_suffix(".crt")) {
            let Some(old) = pair(Some(secret), stem) else { continue };
            let Some(held) = held(&old.certificate, &old.key) else { continue };
            let authority = authorities.iter().find(|authority| authority.key_id == held.issuer);
            let Some(authority) = authority.filter(|_| held.renew_at <= now) else {
                renewed.renew_at = renewed.renew_at.min(held.renew_at.max(now));
                continue;
            };
            let (new, not_after) = authority.issue(&held.spec, now, held.life)?;
            renewed.renew_at = renewed.renew_at.min(renewal(now, not_after));
            if let Some(kubeconfig) = text(Some(secret), keys::KUBECONFIG) {
                let embedded = |pair: &Pair| [STANDARD.encode(&pair.certificate), STANDARD.encode(&pair.key)];
                let replaced =
                    embedded(&old).iter().zip(embedded(&new)).fold(kubeconfig.to_owned(), |text, (old, new)| text.replace(old, &new));
                values.put(keys::KUBECONFIG, replaced);
            }
            values.put_pair(stem, new);
            changed = true;
        }
        if changed {
            let metadata = ObjectMeta {
                name: secret.metadata.name.clone(),
                namespace: secret.metadata.namespace.clone(),
                labels: secret.metadata.labels.clone(),
                owner_references: secret.metadata.owner_references.clone(),
                ..ObjectMeta::default()
            };
            renewed.secrets.push(Secret { metadata, type_: secret.type_.clone(), data: Some(values.into_data()), ..Secret::default() });
        }
    }
    Ok(renewed)
}

struct Authorities {
    cluster: Authority,
    front_proxy: Authority,
    etcd: Authority,
    etcd_peer: Authority,
}

impl Authorities {
    fn values(&self) -> Values {
        let mut values = Values::default();
        for (kind, authority) in [
            (tenant::CLUSTER, &self.cluster),
            (tenant::FRONT_PROXY, &self.front_proxy),
            (tenant::ETCD, &self.etcd),
            (tenant::ETCD_PEER, &self.etcd_peer),
        ] {
            values.put_pair(kind.stem, authority.pair.clone());
        }
        values
    }
}

/// Keeps or mints, and remembers when the first of all certificates is to be renewed.
struct Minter<'a> {
    existing: &'a BTreeMap<String, Secret>,
    now: Timestamp,
    policy: &'a PkiPolicy,
    renew_at: Timestamp,
}

impl Minter<'_> {
    /// An authority is minted only where there is nothing at all: replacing one that cannot be read would silently cut off
    /// everything that trusts it.
    fn authority(&self, secret: &str, kind: AuthorityKind) -> Result<Authority, PkiError> {
        let existing = self.existing.get(secret);
        let nothing = ["crt", "key"].iter().all(|end| text(existing, &format!("{}.{end}", kind.stem)).is_none());
        if nothing {
            return Authority::generate(kind.common_name, self.now, self.policy.ca_lifetime);
        }
        pair(existing, kind.stem)
            .and_then(Authority::from_pem)
            .ok_or_else(|| PkiError::UnusableAuthority { secret: secret.to_owned(), authority: kind.stem.to_owned() })
    }

    fn leaf(&mut self, secret: &str, stem: &str, authority: &Authority, spec: &LeafSpec) -> Result<Pair, PkiError> {
        self.leaf_for(self.policy.leaf_lifetime, secret, stem, authority, spec)
    }

    fn leaf_for(
        &mut self,
        lifetime: SignedDuration,
        secret: &str,
        stem: &str,
        authority: &Authority,
        spec: &LeafSpec,
    ) -> Result<Pair, PkiError> {
        if let Some(pair) = pair(self.existing.get(secret), stem)
            && let Some(renew_at) = still_serves((&pair.certificate, &pair.key), spec, &authority.key_id, lifetime, self.now)
        {
            self.renew_at = self.renew_at.min(renew_at);
            return Ok(pair);
        }
        let (pair, not_after) = authority.issue(spec, self.now, lifetime)?;
        self.renew_at = self.renew_at.min(renewal(self.now, not_after));
        Ok(pair)
    }

    /// ES256. kube-apiserver and kube-controller-manager read PKCS#8 (`keyutil.ParsePrivateKeyPEM`).
    fn service_account(&self, secret: &str) -> Result<Values, PkiError> {
        let existing = self.existing.get(secret);
        let mut values = Values::default();
        match (text(existing, keys::SERVICE_ACCOUNT_KEY), text(existing, keys::SERVICE_ACCOUNT_PUBLIC)) {
            (Some(key), Some(public)) => {
                values.put(keys::SERVICE_ACCOUNT_KEY, key);
                values.put(keys::SERVICE_ACCOUNT_PUBLIC, public);
            }
            (None, None) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)?;
                values.put(keys::SERVICE_ACCOUNT_KEY, key.serialize_pem());
                values.put(keys::SERVICE_ACCOUNT_PUBLIC, key.public_key_pem());
            }
            _ => return Err(PkiError::UnusableAuthority { secret: secret.to_owned(), authority: "key pair".to_owned() }),
        }
        Ok(values)
    }

    fn apiserver(
        &mut self,
        cluster: &ValidatedCluster,
        endpoint: &Endpoint,
        installation: &InstallationCas,
        authorities: &Authorities,
    ) -> Result<Values, PkiError> {
        let name = names::apiserver_certs(&cluster.name);
        let mut values = Values::default();
        for (stem, authority, spec) in [
            (keys::SERVING, &authorities.cluster, tenant::apiserver(cluster, endpoint)),
            (keys::KUBELET_CLIENT, &installation.kubelet_client, tenant::kubelet_client(cluster)),
            (keys::FRONT_PROXY_CLIENT, &authorities.front_proxy, tenant::front_proxy_client()),
            (keys::ETCD_CLIENT, &authorities.etcd, tenant::etcd_client()),
        ] {
            values.put_pair(stem, self.leaf(&name, stem, authority, &spec)?);
        }
        values.put(keys::CA, authorities.cluster.certificate());
        values.put(keys::FRONT_PROXY_CA, authorities.front_proxy.certificate());
        values.put(keys::ETCD_CA, authorities.etcd.certificate());
        values.put(keys::NODE_SERVING_CA, installation.node_serving.certificate());
        Ok(values)
    }

    fn etcd(&mut self, cluster: &ValidatedCluster, authorities: &Authorities) -> Result<Values, PkiError> {
        let name = names::etcd_certs(&cluster.name);
        let mut values = Values::default();
        for member in names::members(cluster) {
            let (server, peer) = (format!("{member}.server"), format!("{member}.peer"));
            values.put_pair(&server, self.leaf(&name, &server, &authorities.etcd, &tenant::etcd_server(cluster, &member))?);
            values.put_pair(&peer, self.leaf(&name, &peer, &authorities.etcd_peer, &tenant::etcd_peer(cluster, &member))?);
        }
        values.put(keys::CA, authorities.etcd.certificate());
        values.put(keys::ETCD_PEER_CA, authorities.etcd_peer.certificate());
        Ok(values)
    }

    fn controllers(
        &mut self,
        cluster: &ValidatedCluster,
        endpoint: &Endpoint,
        installation: &InstallationCas,
        authorities: &Authorities,
    ) -> Result<Values, PkiError> {
        let name = names::controllers_certs(&cluster.name);
        let mut values = Values::default();
        for (stem, spec) in tenant::controllers() {
            values.put_pair(stem, self.leaf(&name, stem, &authorities.cluster, &spec)?);
            // By address: the host's DNS has no part in the start of a tenant.
            values.put(format!("{stem}.kubeconfig"), kubeconfig_with_files(&endpoint.host_url, &spec.common_name, CERTIFICATES, stem)?);
        }
        values.put(keys::CA, authorities.cluster.certificate());
        values.put(keys::CA_KEY, &*authorities.cluster.pair.key);
        values.put(keys::FRONT_PROXY_CA, authorities.front_proxy.certificate());
        values.put(keys::CONTROL_CA, installation.control.certificate());
        Ok(values)
    }

    fn admin(&mut self, cluster: &ValidatedCluster, endpoint: &Endpoint, authority: &Authority) -> Result<Values, PkiError> {
        let name = names::admin_kubeconfig(&cluster.name);
        let spec = tenant::admin();
        let lifetime = cluster.kubeconfig_lifetime.unwrap_or(self.policy.leaf_lifetime);
        let pair = self.leaf_for(lifetime, &name, keys::SERVING, authority, &spec)?;
        let context = format!("nestling-{}-{}", cluster.namespace, cluster.name);
        let mut values = Values::default();
        values.put(
            keys::KUBECONFIG,
            kubeconfig_embedded(&endpoint.kubeconfig_server(cluster), &context, &spec.common_name, authority.certificate(), &pair)?,
        );
        // Apart as well: what is to be kept or renewed is read from here, not out of the kubeconfig.
        values.put_pair(keys::SERVING, pair);
        Ok(values)
    }
}

fn secret(cluster: &ValidatedCluster, name: String, values: Values) -> Secret {
    Secret {
        metadata: metadata::owned(cluster, name),
        type_: Some("Opaque".to_owned()),
        data: Some(values.into_data()),
        ..Secret::default()
    }
}

/// A Secret without which etcd's data cannot be used: it stays when the data stays.
fn kept_secret(cluster: &ValidatedCluster, name: String, values: Values) -> Secret {
    Secret { metadata: metadata::kept_with_data(cluster, name), ..secret(cluster, String::new(), values) }
}

/// Credentials that stand in files beside the kubeconfig: client-go reloads those, never what is embedded.
fn kubeconfig_with_files(server: &str, user: &str, directory: &str, stem: &str) -> Result<String, PkiError> {
    render(
        user,
        "tenant",
        &json!({"server": server, "certificate-authority": format!("{directory}/ca.crt")}),
        &json!({"client-certificate": format!("{directory}/{stem}.crt"), "client-key": format!("{directory}/{stem}.key")}),
    )
}

/// Credentials inside, for a person to take away.
fn kubeconfig_embedded(server: &str, cluster: &str, user: &str, ca: &str, client: &Pair) -> Result<String, PkiError> {
    render(
        user,
        cluster,
        &json!({"server": server, "certificate-authority-data": STANDARD.encode(ca)}),
        &json!({"client-certificate-data": STANDARD.encode(&client.certificate), "client-key-data": STANDARD.encode(&client.key)}),
    )
}

fn render(user: &str, cluster: &str, connection: &Value, credentials: &Value) -> Result<String, PkiError> {
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": connection}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    });
    // Each value on its own line, as kubectl writes it: wrapped, base64 is valid YAML but no pleasure to work with.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&file, options).map_err(|source| PkiError::Kubeconfig { user: user.to_owned(), source })
}
