//! Errors as text.

/// An error with all its causes in one line: `a: b: c`. Some libraries put the text of a cause into their own; it is then
/// not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_in_order() {
        let inner = std::io::Error::other("no such address");
        assert_eq!(chain(&inner), "no such address");
        assert_eq!(chain(&Outer(inner)), "cannot start: no such address");
        let repeating = kube::Error::Service(std::io::Error::other("reset").into());
        assert_eq!(chain(&repeating), "ServiceError: reset");
    }
}
