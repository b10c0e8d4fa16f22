//! Names of host objects. Every name carries a 65-bit hash over all that identifies the tenant object, so two tenant
//! objects never share a host object, and a readable prefix for the person who lists them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Longest DNS label (RFC 1123), and so the longest name used here.
pub const MAX_NAME: usize = 63;
const HASH_LENGTH: usize = 13;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

macro_rules! name_type {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// `metadata.uid` of a `VirtualCluster`.
    TenantUid
);
name_type!(
    /// Name of a host node, and of the tenant node that stands for it.
    NodeName
);
name_type!(
    /// Name of an object that Nestling makes on the host: a DNS label of at most 63 characters.
    HostName
);
name_type!(
    /// Host namespace that holds one tenant's pods: a DNS label of at most 63 characters.
    WorkloadNamespace
);

impl TenantUid {
    pub fn new(uid: impl Into<String>) -> Self {
        Self(uid.into())
    }
}

impl NodeName {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl WorkloadNamespace {
    /// The namespace for the pods of `VirtualCluster` `namespace`/`name`.
    pub fn for_cluster(namespace: &str, name: &str, uid: &TenantUid) -> Self {
        Self(readable(&format!("{namespace}-{name}"), &hash65(&["workload", namespace, name, uid.as_str()])))
    }

    /// A name that was made by [`WorkloadNamespace::for_cluster`] elsewhere (the control API, a status).
    pub fn from_made(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl HostName {
    /// The host name of a tenant object. `extra` tells apart host objects of one tenant object: the pod's UID for pods,
    /// the node for copies that each agent keeps of its own.
    pub fn for_object(tenant: &TenantUid, kind: &str, namespace: &str, name: &str, extra: &str) -> Self {
        Self(readable(name, &hash65(&[tenant.as_str(), kind, namespace, name, extra])))
    }
}

/// A tenant object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantName {
    pub namespace: String,
    pub name: String,
}

impl TenantName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// 65 bits of SHA-256 over the length-prefixed parts, as 13 characters `[a-z2-7]`. Length prefixes make
/// `["a", "bc"]` and `["ab", "c"]` differ.
pub fn hash65(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let bytes = digest.finalize();
    let mut bits = 0u128;
    for byte in bytes.iter().take(16) {
        bits = (bits << 8) | u128::from(*byte);
    }
    (0..HASH_LENGTH)
        .map(|i| {
            let index = (bits >> (128 - 5 * (i + 1))) & 31;
            char::from(ALPHABET[usize::try_from(index).unwrap_or(0)])
        })
        .collect()
}

/// `<prefix>-<hash>`, the prefix cut and cleaned so that the whole is a DNS label.
fn readable(prefix: &str, hash: &str) -> String {
    let room = MAX_NAME - HASH_LENGTH - 1;
    let cleaned: String = prefix.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(room).collect();
    // RFC 1035 labels (Services) must begin with a letter; the hash may begin with a digit but stands at the end.
    let trimmed = cleaned.trim_matches('-');
    match trimmed.chars().next() {
        None => format!("x-{hash}"),
        Some(c) if c.is_ascii_digit() => {
            let body: String = trimmed.chars().take(room - 1).collect();
            format!("x{}-{hash}", body.trim_end_matches('-'))
        }
        Some(_) => format!("{trimmed}-{hash}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_dns_label(name: &str) -> bool {
        let bytes = name.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= MAX_NAME
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0].is_ascii_lowercase()
            && bytes[bytes.len() - 1] != b'-'
    }

    proptest! {
        #[test]
        fn host_names_are_always_dns_labels(ns in ".{0,80}", name in ".{0,300}", extra in ".{0,40}") {
            let host = HostName::for_object(&TenantUid::new("u"), "Pod", &ns, &name, &extra);
            prop_assert!(is_dns_label(host.as_str()), "{host}");
            let workload = WorkloadNamespace::for_cluster(&ns, &name, &TenantUid::new(extra));
            prop_assert!(is_dns_label(workload.as_str()), "{workload}");
        }

        #[test]
        fn moving_a_character_between_parts_changes_the_hash(a in "[a-z-]{1,20}", b in "[a-z-]{1,20}") {
            let joined = format!("{a}{b}");
            for cut in 0..=joined.len() {
                let (x, y) = joined.split_at(cut);
                prop_assert_eq!(hash65(&[x, y]) == hash65(&[&a, &b]), (x, y) == (a.as_str(), b.as_str()));
            }
        }
    }

    #[test]
    fn no_collision_among_many_names() {
        let mut seen = std::collections::HashSet::new();
        for tenant in 0..20 {
            for object in 0..10_000 {
                let name = HostName::for_object(&TenantUid::new(tenant.to_string()), "Pod", "default", &format!("p-{object}"), "");
                assert!(seen.insert(name.to_string()));
            }
        }
    }

    #[test]
    fn names_stay_readable() {
        let host = HostName::for_object(&TenantUid::new("uid"), "Pod", "default", "web-0", "pod-uid");
        assert!(host.as_str().starts_with("web-0-"), "{host}");
    }
}
