//! Which controllers run: the syntax of `--controllers` upstream.

use std::collections::BTreeSet;

/// Every controller there is, by the name it has upstream.
pub const KNOWN: [&str; 1] = ["node"];

/// The controllers to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controllers(BTreeSet<&'static str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not in the list of known controllers: {known}", known = KNOWN.join(", "))]
pub struct UnknownController(String);

impl Controllers {
    /// `*` is every controller, `name` that one, `-name` not that one; what is said of a name stands over `*`.
    pub fn parse(list: &[String]) -> Result<Self, UnknownController> {
        let mut chosen = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for entry in list.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                chosen.extend(KNOWN);
                continue;
            }
            let name = entry.strip_prefix('-').unwrap_or(entry);
            let known = KNOWN.into_iter().find(|known| *known == name).ok_or_else(|| UnknownController(name.to_owned()))?;
            if entry.starts_with('-') {
                refused.insert(known)
            } else {
                chosen.insert(known)
            };
        }
        Ok(Self(chosen.difference(&refused).copied().collect()))
    }

    pub fn runs(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&["*"], true)]
    #[case(&["node"], true)]
    #[case(&["*", "-node"], false)]
    #[case(&["-node", "*"], false)]
    #[case(&[], false)]
    fn lists(#[case] list: &[&str], #[case] node: bool) {
        let list: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(Controllers::parse(&list).unwrap().runs("node"), node);
    }

    #[test]
    fn an_unknown_controller_is_named() {
        let error = Controllers::parse(&["-nodes".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "\"nodes\" is not in the list of known controllers: node");
    }
}
