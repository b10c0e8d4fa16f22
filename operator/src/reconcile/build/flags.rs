//! Command lines: flags in alphabetical order, so that the same cluster always gives the same pod.

use std::collections::BTreeMap;

/// Flags of a program in the making.
#[derive(Clone, Debug, Default)]
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    pub fn new<const N: usize>(flags: [(&str, String); N]) -> Self {
        Self(flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// With the user's own flags. They change presets of ours and nothing else: validation has refused those that we manage.
    pub fn with(mut self, extra: &BTreeMap<String, String>) -> Self {
        self.0.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    pub fn into_args(self) -> Vec<String> {
        self.0.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
    }
}

/// A file in a directory of the container.
pub fn file(directory: &str, name: impl AsRef<str>) -> String {
    format!("{directory}/{}", name.as_ref())
}
