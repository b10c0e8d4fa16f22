//! The problems of a spec, collected, and the checks that several sections share.

use crate::model::Flag;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nestling_crds::managed_flags::{ManagedFlags, normal, refusal};
use nestling_crds::quantity;
use nestling_crds::v1alpha1::{ExtraArg, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// One thing wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {message}")]
pub struct Invalid {
    /// Path of the field, `spec.network.serviceCIDR`.
    pub field: String,
    /// For the person who wrote the spec: what is wrong and what is allowed. Reads on from the field.
    pub message: String,
}

/// What is wrong with a spec. Fields that the CRD's rules refuse are reported with the message of the rule alone.
#[derive(Debug)]
pub(super) struct Problems {
    all: Vec<Invalid>,
    refused: BTreeSet<String>,
}

impl Problems {
    pub(super) fn new(refusals: Vec<Refusal>) -> Self {
        let refused = refusals.iter().map(|refusal| refusal.field.clone()).collect();
        let all = refusals.into_iter().map(|Refusal { field, message }| Invalid { field, message }).collect();
        Self { all, refused }
    }

    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let field = field.into();
        if !self.refused.contains(&field) {
            self.all.push(Invalid { field, message: message.into() });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn into_inner(self) -> Vec<Invalid> {
        self.all
    }
}

/// The user's flags of a program.
pub(super) fn extra_args(field: &str, extra: &[ExtraArg], managed: &[ManagedFlags], problems: &mut Problems) -> Vec<Flag> {
    for (index, ExtraArg { name, value: _ }) in extra.iter().enumerate() {
        let field = format!("{field}[{index}].name");
        if let Some(instead) = refusal(managed, name) {
            problems.add(field, format!("flag --{name} is managed: {instead}"));
        } else if !is_flag(name) {
            problems.add(field, format!("{name:?} is not a flag: write it without leading dashes, as in v or event-ttl"));
        }
    }
    extra.iter().map(|ExtraArg { name, value }| Flag { name: normal(name), value: value.clone() }).collect()
}

fn is_flag(flag: &str) -> bool {
    flag.starts_with(|c: char| c.is_ascii_alphabetic()) && flag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// The container's resources as asked for.
pub(super) fn checked_resources(
    field: &str,
    resources: Option<&ResourceRequirements>,
    problems: &mut Problems,
) -> Option<ResourceRequirements> {
    let resources = resources?;
    for (part, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if let Some(quantities) = quantities {
            check_quantities(&format!("{field}.{part}"), quantities, problems);
        }
    }
    Some(resources.clone())
}

/// Checks a map of quantities, none of which may be negative.
pub(super) fn check_quantities(field: &str, quantities: &BTreeMap<String, Quantity>, problems: &mut Problems) {
    for (name, quantity) in quantities {
        if quantity::nanos(quantity).is_none_or(|nanos| nanos < 0) {
            problems.add(format!("{field}[{name}]"), format!("{:?} must be a quantity such as 500m, 2 or 8Gi", quantity.0));
        }
    }
}

/// RFC 1123 subdomain.
pub(super) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
