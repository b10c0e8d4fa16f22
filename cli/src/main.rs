//! `kubectl-nestling`: what `kubectl get virtualclusters` cannot show or do. kubectl runs it as `kubectl nestling …`.
//!
//! Each verb is a file: `run` reads from the host cluster, and pure functions turn what was read into text or into a
//! kubeconfig. Output goes to stdout, errors and notes to stderr, exit codes as kubectl's.
//!
//! Order: table ← host ← events ← `kubeconfig_file` ← list ← describe ← kubeconfig ← args

mod args;
mod describe;
mod events;
mod host;
mod kubeconfig;
mod kubeconfig_file;
mod list;
mod table;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match args::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line. Some libraries repeat the cause in their own text; it is printed once.
fn chain(error: &anyhow::Error) -> String {
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
