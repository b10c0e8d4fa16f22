//! Errors as a person reads them.

/// The error and its causes on one line. Some libraries repeat the cause in their own text; it is printed once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_are_printed_once() {
        let error = anyhow!("no such file").context("cannot read x: no such file").context("cannot load kubeconfig");
        assert_eq!(chain(&error), "cannot load kubeconfig: cannot read x: no such file");
    }
}
