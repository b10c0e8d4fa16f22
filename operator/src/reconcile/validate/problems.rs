//! What is wrong with a spec, collected.

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

#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Invalid>);

impl Problems {
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Invalid { field: field.into(), message: message.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_inner(self) -> Vec<Invalid> {
        self.0
    }
}
