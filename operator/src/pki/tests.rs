use super::*;
use crate::model::{Endpoint, San, ValidatedCluster, keys, names};
use crate::reconcile::validate::testing::{cluster, now};
use installation::InstallationCas;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::names::NodeName;
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use rstest::rstest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::OnceLock;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const POLICY: PkiPolicy = PkiPolicy { leaf_lifetime: SignedDuration::from_hours(9), ca_lifetime: SignedDuration::from_hours(1000) };

fn installation() -> &'static InstallationCas {
    static CAS: OnceLock<InstallationCas> = OnceLock::new();
    CAS.get_or_init(|| installation::generate(now(), POLICY.ca_lifetime).unwrap())
}

fn endpoint() -> Endpoint {
    let url = "https://10.96.7.7:443".to_owned();
    Endpoint { service_ip: "10.96.7.7".parse().unwrap(), host_url: url.clone(), url, sans: Vec::new() }
}

fn dev() -> ValidatedCluster {
    cluster(&json!({}))
}

fn planned(existing: &BTreeMap<String, Secret>, endpoint: &Endpoint, at: Timestamp) -> Pki {
    plan(&dev(), endpoint, installation(), existing, at, &POLICY).unwrap()
}

fn by_name(pki: &Pki) -> BTreeMap<String, Secret> {
    let PkiSecrets { ca, service_account, apiserver, etcd, controllers, admin_kubeconfig } = &pki.secrets;
    [ca, service_account, apiserver, etcd, controllers, admin_kubeconfig]
        .map(|secret| (secret.metadata.name.clone().unwrap(), secret.clone()))
        .into()
}

/// `<Secret>/<key>` of every value that differs.
fn differences(a: &Pki, b: &Pki) -> Vec<String> {
    let (a, b) = (by_name(a), by_name(b));
    let value = |all: &BTreeMap<String, Secret>, name: &str, key: &str| all[name].data.as_ref().unwrap().get(key).cloned();
    a.iter()
        .flat_map(|(name, secret)| secret.data.as_ref().unwrap().keys().map(move |key| (name.clone(), key.clone())))
        .filter(|(name, key)| value(&a, name, key) != value(&b, name, key))
        .map(|(name, key)| format!("{name}/{key}"))
        .collect()
}

fn text(secret: &Secret, key: &str) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap()
}

fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    look(&certificate)
}

fn is_signed_by(leaf: &str, authority: &str) -> bool {
    with_certificate(leaf, |leaf| with_certificate(authority, |ca| leaf.verify_signature(Some(ca.public_key())).is_ok()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn at_rest_nothing_changes(minutes in 0i64..359) {
        let first = planned(&BTreeMap::new(), &endpoint(), now());
        let second = planned(&by_name(&first), &endpoint(), now() + SignedDuration::from_mins(minutes));
        prop_assert_eq!(&first.secrets, &second.secrets);
        prop_assert_eq!(first.renew_at, second.renew_at);
    }
}

#[test]
fn leaves_are_renewed_after_two_thirds_of_their_life() {
    let first = planned(&BTreeMap::new(), &endpoint(), now());
    assert_eq!(first.renew_at, now() + HOUR * 6);
    let second = planned(&by_name(&first), &endpoint(), now() + HOUR * 6);
    assert_eq!(second.renew_at, now() + HOUR * 12);
    let changed = differences(&first, &second);
    assert!(changed.iter().all(|key| !key.starts_with("dev-ca/") && !key.starts_with("dev-sa/") && !key.contains("ca.crt")), "{changed:?}");
    // 4 of the apiserver, 2 of the member, 3 of the controllers and the admin's, each with its key, and the admin's kubeconfig.
    assert_eq!(changed.len(), 2 * 10 + 1, "{changed:?}");
}

#[test]
fn a_new_name_renews_only_the_certificate_that_carries_it() {
    let first = planned(&BTreeMap::new(), &endpoint(), now());
    let named = Endpoint { sans: vec![San::Dns("api.example.com".into())], ..endpoint() };
    let second = planned(&by_name(&first), &named, now() + HOUR);
    assert_eq!(differences(&first, &second), ["dev-apiserver-certs/tls.crt", "dev-apiserver-certs/tls.key"]);
    let third = planned(&by_name(&second), &named, now() + HOUR * 2);
    assert_eq!(differences(&second, &third), Vec::<String>::new());
}

#[test]
fn leaves_of_another_authority_are_replaced() {
    let first = planned(&BTreeMap::new(), &endpoint(), now());
    let mut existing = by_name(&first);
    existing.remove("dev-ca");
    let second = planned(&existing, &endpoint(), now());
    let certificate = text(&second.secrets.apiserver, "tls.crt");
    assert!(is_signed_by(&certificate, &second.ca_bundle));
    assert!(!is_signed_by(&certificate, &first.ca_bundle));
    // The kubelet client's authority is the installation's, and still there.
    assert!(!differences(&first, &second).contains(&"dev-apiserver-certs/kubelet-client.crt".to_owned()));
}

#[rstest]
#[case("dev-ca", "ca.key", None)]
#[case("dev-ca", "etcd-ca.crt", Some("no certificate"))]
#[case("dev-sa", "sa.key", None)]
fn an_authority_that_cannot_be_read_is_never_replaced(#[case] secret: &str, #[case] key: &str, #[case] damaged: Option<&str>) {
    let mut existing = by_name(&planned(&BTreeMap::new(), &endpoint(), now()));
    let data = existing.get_mut(secret).unwrap().data.as_mut().unwrap();
    match damaged {
        Some(text) => data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())),
        None => data.remove(key),
    };
    let error = plan(&dev(), &endpoint(), installation(), &existing, now(), &POLICY).unwrap_err();
    assert!(matches!(error, PkiError::UnusableAuthority { .. }), "{error}");
}

#[rstest]
#[case("tls.crt")]
#[case("etcd-client.key")]
fn a_damaged_leaf_is_minted_anew(#[case] key: &str) {
    let mut existing = by_name(&planned(&BTreeMap::new(), &endpoint(), now()));
    let other = text(&existing["dev-etcd-certs"], "dev-control-plane-0.server.key");
    let data = existing.get_mut("dev-apiserver-certs").unwrap().data.as_mut().unwrap();
    data.insert(key.to_owned(), ByteString(other.into_bytes()));
    let repaired = planned(&existing, &endpoint(), now());
    assert_eq!(differences(&repaired, &planned(&by_name(&repaired), &endpoint(), now())), Vec::<String>::new());
    assert_ne!(by_name(&repaired)["dev-apiserver-certs"], existing["dev-apiserver-certs"]);
}

#[test]
fn certificates_chain_and_say_what_they_should() {
    let pki = planned(&BTreeMap::new(), &endpoint(), now());
    let PkiSecrets { ca, apiserver, etcd, controllers, admin_kubeconfig, .. } = &pki.secrets;
    for (secret, leaf, authority) in [
        (apiserver, "tls.crt", text(ca, "ca.crt")),
        (apiserver, "front-proxy-client.crt", text(ca, "front-proxy-ca.crt")),
        (apiserver, "etcd-client.crt", text(ca, "etcd-ca.crt")),
        (apiserver, "kubelet-client.crt", installation().kubelet_client_ca().to_owned()),
        (etcd, "dev-control-plane-0.server.crt", text(ca, "etcd-ca.crt")),
        (etcd, "dev-control-plane-0.peer.crt", text(ca, "etcd-peer-ca.crt")),
        (controllers, "controller-manager.crt", text(ca, "ca.crt")),
        (admin_kubeconfig, "tls.crt", text(ca, "ca.crt")),
    ] {
        assert!(is_signed_by(&text(secret, leaf), &authority), "{leaf}");
    }
    with_certificate(&text(apiserver, "tls.crt"), |certificate| {
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.iter().map(ToString::to_string);
        let names: Vec<String> = names.collect();
        for expected in ["kubernetes.default.svc.cluster.local", "dev-apiserver.team-a.svc"] {
            assert!(names.iter().any(|name| name.contains(expected)), "{expected} is not in {names:?}");
        }
        assert_eq!(certificate.validity().not_before.timestamp(), (now() - SignedDuration::from_mins(5)).as_second());
        assert_eq!(certificate.validity().not_after.timestamp(), (now() + HOUR * 9).as_second());
    });
    with_certificate(&text(apiserver, "kubelet-client.crt"), |certificate| {
        assert!(format!("{:?}", certificate.subject_alternative_name()).contains(&format!("nestling://tenants/{}", dev().uid)));
    });
    with_certificate(&text(admin_kubeconfig, "tls.crt"), |certificate| {
        assert_eq!(certificate.subject().to_string(), "O=kubeadm:cluster-admins, CN=kubernetes-admin");
    });
    with_certificate(&text(ca, "ca.crt"), |certificate| assert!(certificate.is_ca()));
}

#[test]
fn no_leaf_outlives_its_authority() {
    let short = PkiPolicy { ca_lifetime: HOUR * 2, ..POLICY };
    let first = plan(&dev(), &endpoint(), installation(), &BTreeMap::new(), now(), &short).unwrap();
    with_certificate(&text(&first.secrets.apiserver, "tls.crt"), |certificate| {
        assert_eq!(certificate.validity().not_after.timestamp(), (now() + HOUR * 2).as_second());
    });
    let error = plan(&dev(), &endpoint(), installation(), &by_name(&first), now() + HOUR * 3, &short).unwrap_err();
    assert!(matches!(error, PkiError::AuthorityExpired { .. }), "{error}");
}

#[test]
fn the_admins_kubeconfig_names_how_the_api_is_reached() {
    let kubeconfig = |endpoint: &Endpoint| text(&planned(&BTreeMap::new(), endpoint, now()).secrets.admin_kubeconfig, keys::KUBECONFIG);
    assert!(kubeconfig(&endpoint()).contains("https://dev-apiserver.team-a.svc:443"));
    let exposed = Endpoint { url: "https://api.example.com:443".into(), ..endpoint() };
    assert!(kubeconfig(&exposed).contains("https://api.example.com:443"));
}

#[test]
fn all_secrets_are_asked_for() {
    let planned = planned(&BTreeMap::new(), &endpoint(), now());
    let mut names = secret_names("dev");
    names.sort();
    assert_eq!(by_name(&planned).into_keys().collect::<Vec<_>>(), names);
    assert!(!names.contains(&names::apiserver_config("dev")), "holds nothing that a plan would keep");
}

#[test]
fn the_super_admin_is_of_the_tenants_own_authority() {
    let pki = planned(&BTreeMap::new(), &endpoint(), now());
    let identity = super_admin(&pki.secrets.ca, now()).unwrap();
    assert!(is_signed_by(&identity.certificate, &pki.ca_bundle));
    assert_eq!(identity.not_after, now() + HOUR * 24);
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

#[test]
fn installation_authorities_survive_their_secret() {
    let secret = installation().to_secret("nestling-system");
    let read = InstallationCas::from_secret(&secret).unwrap();
    assert_eq!(read.to_secret("nestling-system"), secret);
    let public = installation().to_config_map("nestling-system").data.unwrap();
    assert_eq!(public.keys().collect::<Vec<_>>(), ["control-ca.crt", "kubelet-client-ca.crt", "node-serving-ca.crt"]);
    assert!(public.values().all(|value| !value.contains("PRIVATE")));
    let server = read.control_server(&["nestling-control-api.nestling-system.svc".into()], now(), HOUR).unwrap();
    assert!(is_signed_by(&server.certificate, read.control_ca()));
}

/// A request that asks for more than it gets.
fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["evil.example.com".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "system:masters");
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn only_the_key_of_a_request_counts() {
    let ca = planned(&BTreeMap::new(), &endpoint(), now()).secrets.ca;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let node = NodeName::new("node-1");

    let signed = sign::kubelet(&ca, &node, &request(&key), now(), HOUR).unwrap();
    assert!(is_signed_by(&signed.chain_pem, &text(&ca, "ca.crt")));
    with_certificate(&signed.chain_pem, |certificate| {
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:node-1");
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    });

    let signed = sign::proxy(&ca, &node, &request(&key), now(), HOUR).unwrap();
    with_certificate(&signed.chain_pem, |certificate| {
        assert_eq!(certificate.subject().to_string(), "O=nestling:proxies, CN=system:kube-proxy:node-1");
    });

    let address: IpAddr = "172.30.0.1".parse().unwrap();
    let signed = sign::kubelet_serving(installation(), &node, &[address], &request(&key), now(), HOUR).unwrap();
    assert!(is_signed_by(&signed.chain_pem, installation().node_serving_ca()));
    with_certificate(&signed.chain_pem, |certificate| {
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever bytes an agent sends: there is no panic, and what is signed is the subject of its node and no other.
    #[test]
    fn no_bytes_make_the_operator_sign_another_subject(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        static GOOD: OnceLock<(Secret, Vec<u8>)> = OnceLock::new();
        let (ca, good) = GOOD.get_or_init(|| {
            let ca = planned(&BTreeMap::new(), &endpoint(), now()).secrets.ca;
            (ca, request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()))
        });
        let mut edited = good.clone();
        for (at, value) in &edits {
            let at = at.index(edited.len());
            edited[at] = *value;
        }
        let short = good[..cut.index(good.len())].to_vec();
        for csr in [noise, edited, short] {
            if let Ok(signed) = sign::kubelet(ca, &NodeName::new("node-1"), &csr, now(), HOUR) {
                with_certificate(&signed.chain_pem, |certificate| {
                    assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:node-1");
                    assert!(certificate.subject_alternative_name().unwrap().is_none() && !certificate.is_ca());
                });
            }
        }
    }
}

#[test]
fn requests_that_prove_nothing_or_bring_odd_keys_are_refused() {
    let ca = planned(&BTreeMap::new(), &endpoint(), now()).secrets.ca;
    let kubelet = |csr: &[u8]| sign::kubelet(&ca, &NodeName::new("node-1"), csr, now(), HOUR);
    let good = request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let p384 = request(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    for csr in [forged, longer, p384, b"nothing".to_vec(), Vec::new()] {
        assert!(matches!(kubelet(&csr), Err(sign::SignError::Request(_))));
    }
    assert!(kubelet(&good).is_ok());
}

#[test]
fn the_admin_certificate_lives_as_long_as_the_spec_says() {
    let plan_for = |lifetime: &str, existing: &BTreeMap<String, Secret>, at| {
        let cluster = cluster(&json!({"kubeconfig": {"lifetime": lifetime}}));
        plan(&cluster, &endpoint(), installation(), existing, at, &POLICY).unwrap()
    };
    let end = |pki: &Pki| {
        let of_admin =
            |all: Vec<nestling_crds::v1alpha1::CertificateStatus>| all.into_iter().find(|one| one.name == "dev-admin-kubeconfig/tls.crt");
        of_admin(expiries(&pki.secrets)).unwrap().not_after.0
    };
    let long = plan_for("100h", &BTreeMap::new(), now());
    assert_eq!(end(&long), now() + HOUR * 100);
    // Others keep theirs: nine hours, and so does the next look.
    assert_eq!(long.renew_at, now() + HOUR * 6);
    let kept = plan_for("100h", &by_name(&long), now() + HOUR);
    assert_eq!(end(&kept), end(&long));
    // A shorter life holds at once, and nothing else is minted anew.
    let short = plan_for("3h", &by_name(&long), now() + HOUR);
    assert_eq!(end(&short), now() + HOUR * 4);
    assert!(differences(&long, &short).iter().all(|name| name.starts_with("dev-admin-kubeconfig/")), "{:?}", differences(&long, &short));
    assert_eq!(short.renew_at, now() + HOUR * 3);
}

#[test]
fn ends_are_told_of_every_certificate_once() {
    let all = expiries(&planned(&BTreeMap::new(), &endpoint(), now()).secrets);
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names.len(), 14, "{names:?}");
    assert!(names.contains(&"dev-ca/etcd-ca.crt") && names.contains(&"dev-etcd-certs/dev-control-plane-0.server.crt"), "{names:?}");
    let end = |name: &str| all.iter().find(|one| one.name == name).unwrap().not_after.0;
    assert_eq!((end("dev-ca/ca.crt"), end("dev-apiserver-certs/tls.crt")), (now() + POLICY.ca_lifetime, now() + POLICY.leaf_lifetime));
}
