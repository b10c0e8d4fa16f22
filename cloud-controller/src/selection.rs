//! Which controllers run, as in `--controllers` of every Kubernetes controller manager: names, `-name` for off, `*`
//! for all that are on by default (`k8s.io/controller-manager/pkg/genericcontrollermanager`, `IsControllerEnabled`).

use std::fmt;
use std::str::FromStr;

/// Every controller of this program; all are on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Node facts and lifecycle.
    Node,
}

impl Controller {
    pub const ALL: [Self; 1] = [Self::Node];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.name() == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no controller {name:?}; this program has {}", Controller::ALL.map(Controller::name).join(", "))]
pub struct UnknownController {
    pub name: String,
}

/// One item of the flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    All,
    On(Controller),
    Off(Controller),
}

impl FromStr for Choice {
    type Err = UnknownController;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |name: &str| Controller::named(name).ok_or_else(|| UnknownController { name: name.into() });
        match (text, text.strip_prefix('-')) {
            ("*", _) => Ok(Self::All),
            (_, Some(off)) => known(off).map(Self::Off),
            (on, None) => known(on).map(Self::On),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::On(controller) => f.write_str(controller.name()),
            Self::Off(controller) => write!(f, "-{}", controller.name()),
        }
    }
}

/// The first item that names the controller decides; else `*` does.
pub(crate) fn is_on(controller: Controller, choices: &[Choice]) -> bool {
    let named = choices.iter().find_map(|choice| match choice {
        Choice::On(named) if *named == controller => Some(true),
        Choice::Off(named) if *named == controller => Some(false),
        _ => None,
    });
    named.unwrap_or_else(|| choices.contains(&Choice::All))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("*", true)]
    #[case("node", true)]
    #[case("-node", false)]
    #[case("*,-node", false)]
    #[case("-node,*", false)]
    #[case("node,-node", true)]
    #[case("", false)]
    fn the_flag_selects_as_upstream_does(#[case] flag: &str, #[case] expected: bool) {
        let choices: Vec<Choice> = flag.split(',').filter(|item| !item.is_empty()).map(|item| item.parse().unwrap()).collect();
        assert_eq!(is_on(Controller::Node, &choices), expected);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        for flag in ["route", "-route", "Node", "**"] {
            let error = flag.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains(flag.trim_start_matches('-')) && error.contains("this program has node"), "{error}");
        }
    }
}
