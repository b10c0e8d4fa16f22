//! `extraArgs`: any flag that the operator does not manage.

use super::problems::Problems;
use nestling_crds::managed_flags::{ManagedFlags, refusal};
use std::collections::BTreeMap;

pub(super) fn check(field: &str, extra: &BTreeMap<String, String>, managed: &[ManagedFlags], problems: &mut Problems) {
    for flag in extra.keys() {
        if let Some(instead) = refusal(managed, flag) {
            problems.add(field, format!("flag --{flag} is managed: {instead}"));
        } else if !is_flag(flag) {
            problems.add(field, format!("{flag:?} is not a flag: write it without leading dashes, as in v or event-ttl"));
        }
    }
}

/// Flags of Kubernetes programs; some of logging have underscores.
fn is_flag(flag: &str) -> bool {
    flag.starts_with(|c: char| c.is_ascii_lowercase()) && flag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}
