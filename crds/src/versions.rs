//! The Kubernetes versions that this build of Nestling knows, with the images that go with each, and which change from
//! one to another is allowed.

use std::{fmt, str::FromStr};
use thiserror::Error;

/// A Kubernetes version and the images that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub version: Version,
    /// Tag of `etcd`: what kubeadm declares as supported with this Kubernetes minor version.
    pub etcd_tag: &'static str,
    /// Tag of `coredns/coredns`. CoreDNS does not follow Kubernetes versions: the newest known to work with all of them.
    pub coredns_tag: &'static str,
}

/// Oldest first. Patches that are not listed are refused: nobody has run them with this build.
pub const KNOWN: &[Known] = &[
    Known { version: Version { minor: 36, patch: 3 }, etcd_tag: "3.7.0-0", coredns_tag: "v1.14.6" },
    Known { version: Version { minor: 37, patch: 2 }, etcd_tag: "3.7.0-0", coredns_tag: "v1.14.6" },
];

/// A Kubernetes version `v1.<minor>.<patch>`. The major version is 1 and has been since 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub minor: u32,
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}", self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match parse(text) {
            Some((minor, Some(patch))) => Ok(Self { minor, patch }),
            _ => Err(VersionError::Malformed(text.to_owned())),
        }
    }
}

impl Version {
    /// The version that a build reports of itself; distributions add to it, as in `v1.37.2+k3s1` or `v1.37.2-eks-4096722`.
    pub fn of_build(reported: &str) -> Option<Self> {
        reported.split(['+', '-']).next()?.parse().ok()
    }
}

/// Why a version cannot be used. The text is written for the person who wrote the spec.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VersionError {
    #[error("version {0:?} must look like v1.37 or v1.37.2")]
    Malformed(String),
    #[error("version {asked} is not known to this version of Nestling; known: {known}")]
    Unknown { asked: String, known: String },
    #[error("version cannot go from {from} back to {to}: Kubernetes does not support downgrades across minor versions")]
    Downgrade { from: Version, to: Version },
    #[error("version cannot go from {from} to {to} at once: Kubernetes is upgraded one minor version at a time")]
    SkipsMinor { from: Version, to: Version },
}

/// The version in `table` that a spec asks for: `v1.37.2` is itself, `v1.37` its newest patch there, nothing the newest of all.
pub fn resolve(table: &[Known], asked: Option<&str>) -> Result<Known, VersionError> {
    let newest = |wanted: &dyn Fn(&Known) -> bool| table.iter().filter(|known| wanted(known)).max_by_key(|known| known.version).copied();
    let Some(text) = asked else { return newest(&|_| true).ok_or_else(|| unknown(table, "")) };
    match parse(text).ok_or_else(|| VersionError::Malformed(text.to_owned()))? {
        (minor, None) => newest(&|known| known.version.minor == minor),
        (minor, Some(patch)) => newest(&|known| known.version == Version { minor, patch }),
    }
    .ok_or_else(|| unknown(table, text))
}

/// What a cluster that runs `running` is to become, or `None` if that is what its spec asks for: no version asks for what
/// runs, `v1.37` for any of its patches. So a longer table changes nothing, and a version that has left it runs on.
pub fn change(table: &[Known], running: Version, asked: Option<&str>) -> Result<Option<Known>, VersionError> {
    let Some(text) = asked else { return Ok(None) };
    let (minor, patch) = parse(text).ok_or_else(|| VersionError::Malformed(text.to_owned()))?;
    if running.minor == minor && patch.is_none_or(|patch| patch == running.patch) {
        return Ok(None);
    }
    let known = resolve(table, asked)?;
    check_change(running, known.version)?;
    Ok(Some(known))
}

/// How many minor versions a kubelet may be older than the apiserver
/// (<https://kubernetes.io/releases/version-skew-policy/#kubelet>).
pub const KUBELET_SKEW: u32 = 3;

/// Whether a running control plane may go from one version to another: patches freely, one minor version up, none down.
pub fn check_change(from: Version, to: Version) -> Result<(), VersionError> {
    if to.minor < from.minor {
        Err(VersionError::Downgrade { from, to })
    } else if to.minor > from.minor + 1 {
        Err(VersionError::SkipsMinor { from, to })
    } else {
        Ok(())
    }
}

fn unknown(table: &[Known], asked: &str) -> VersionError {
    let known: Vec<String> = table.iter().map(|known| known.version.to_string()).collect();
    VersionError::Unknown { asked: asked.to_owned(), known: known.join(", ") }
}

fn parse(text: &str) -> Option<(u32, Option<u32>)> {
    let mut parts = text.strip_prefix("v1.")?.split('.');
    let minor = number(parts.next()?)?;
    let patch = parts.next().map(number);
    match (patch, parts.next()) {
        (None, None) => Some((minor, None)),
        (Some(Some(patch)), None) => Some((minor, Some(patch))),
        _ => None,
    }
}

/// Digits only: `u32::from_str` would take `+1`.
fn number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None, "v1.37.2")]
    #[case(Some("v1.37"), "v1.37.2")]
    #[case(Some("v1.37.2"), "v1.37.2")]
    #[case(Some("v1.36"), "v1.36.3")]
    #[case(Some("v1.36.3"), "v1.36.3")]
    fn known_versions_resolve(#[case] asked: Option<&str>, #[case] version: &str) {
        assert_eq!(resolve(KNOWN, asked).unwrap().version.to_string(), version);
    }

    #[rstest]
    #[case("1.37")]
    #[case("v1.37.2.1")]
    #[case("v1.37.")]
    #[case("v1.+7")]
    #[case("v2.0.0")]
    #[case("latest")]
    #[case("")]
    fn malformed_versions_are_told_apart_from_unknown_ones(#[case] asked: &str) {
        assert_eq!(resolve(KNOWN, Some(asked)), Err(VersionError::Malformed(asked.to_owned())));
    }

    /// A table of a later build: longer, and without the oldest patch.
    const LATER: &[Known] = &[
        Known { version: Version { minor: 37, patch: 2 }, etcd_tag: "3.7.1-0", coredns_tag: "v1.15.0" },
        Known { version: Version { minor: 37, patch: 5 }, etcd_tag: "3.7.1-0", coredns_tag: "v1.15.0" },
        Known { version: Version { minor: 38, patch: 1 }, etcd_tag: "3.7.1-0", coredns_tag: "v1.15.0" },
    ];

    #[rstest]
    #[case("v1.37.2", None, Ok(None))]
    #[case("v1.37.2", Some("v1.37"), Ok(None))]
    #[case("v1.37.2", Some("v1.37.5"), Ok(Some("v1.37.5")))]
    #[case("v1.37.5", Some("v1.37.2"), Ok(Some("v1.37.2")))]
    #[case("v1.37.2", Some("v1.38"), Ok(Some("v1.38.1")))]
    #[case("v1.36.3", Some("v1.37"), Ok(Some("v1.37.5")))]
    #[case("v1.36.3", Some("v1.36"), Ok(None))]
    #[case("v1.36.3", Some("v1.36.3"), Ok(None))]
    #[case("v1.36.3", Some("v1.36.4"), Err("not known"))]
    #[case("v1.36.3", Some("v1.38"), Err("one minor version at a time"))]
    #[case("v1.38.1", Some("v1.37"), Err("downgrades"))]
    fn only_the_spec_changes_a_version(#[case] running: Version, #[case] asked: Option<&str>, #[case] becomes: Result<Option<&str>, &str>) {
        match (change(LATER, running, asked), becomes) {
            (Ok(known), Ok(expected)) => assert_eq!(known.map(|known| known.version.to_string()).as_deref(), expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn an_unknown_version_names_the_known_ones() {
        let error = resolve(KNOWN, Some("v1.37.9")).unwrap_err().to_string();
        assert!(error.contains("v1.37.9") && error.contains("v1.36.3, v1.37.2"), "{error}");
    }

    #[rstest]
    #[case("v1.36.3", "v1.37.2", true)]
    #[case("v1.37.2", "v1.37.0", true)]
    #[case("v1.37.2", "v1.36.3", false)]
    #[case("v1.35.0", "v1.37.2", false)]
    fn changes_keep_to_the_skew_policy(#[case] from: Version, #[case] to: Version, #[case] allowed: bool) {
        assert_eq!(check_change(from, to).is_ok(), allowed);
    }

    #[test]
    fn text_form_round_trips() {
        for known in KNOWN {
            assert_eq!(known.version.to_string().parse(), Ok(known.version));
        }
    }
}
