//! Fields that a host pod cannot be made with.

use serde::Serialize;
use std::fmt;

/// Longest quoted value, in characters: events have little room.
const MAX_VALUE: usize = 120;

/// Why a tenant pod is not realized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Path from the pod, e.g. `spec.volumes[0].persistentVolumeClaim`.
    pub field: String,
    /// The value as JSON, cut.
    pub value: String,
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.field, self.value, self.reason)
    }
}

/// The refusals found so far.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    pub fn add(&mut self, field: impl Into<String>, value: &impl Serialize, reason: impl Into<String>) {
        let value = serde_json::to_string(value).unwrap_or_default();
        let cut = if value.chars().count() > MAX_VALUE { value.chars().take(MAX_VALUE).chain("…".chars()).collect() } else { value };
        self.0.push(Refusal { field: field.into(), value: cut, reason: reason.into() });
    }

    /// Refuses a field that is set at all.
    pub fn set<T: Serialize>(&mut self, field: impl Into<String>, value: Option<&T>, reason: impl Into<String>) {
        if let Some(value) = value {
            self.add(field, value, reason);
        }
    }

    pub fn into_result<T>(self, done: T) -> Result<T, Vec<Refusal>> {
        if self.0.is_empty() { Ok(done) } else { Err(self.0) }
    }
}
