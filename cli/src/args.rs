//! The command line.

use crate::{describe, host::HostArgs, kubeconfig, list};
use anyhow::Result;
use clap::{Parser, Subcommand};

/// Work with the tenant clusters of Nestling.
#[derive(Parser)]
#[command(name = "kubectl-nestling", bin_name = "kubectl nestling", version, arg_required_else_help = true)]
struct Args {
    #[command(flatten)]
    host: HostArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print, save or merge the admin kubeconfig of a tenant cluster
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// List tenant clusters
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show the spec, status and events of a tenant cluster
    Describe(describe::DescribeArgs),
}

/// Runs the verb of the command line.
pub(crate) async fn run() -> Result<()> {
    let Args { host, verb } = Args::parse();
    match verb {
        Verb::Kubeconfig(args) => kubeconfig::run(&host, &args).await,
        Verb::List(args) => list::run(&host, &args).await,
        Verb::Describe(args) => describe::run(&host, &args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_go_before_and_after_the_verb() {
        assert!(Args::try_parse_from(["kubectl-nestling", "-n", "team-a", "list"]).is_ok());
        assert!(Args::try_parse_from(["kubectl-nestling", "kubeconfig", "dev", "-n", "team-a", "--merge"]).is_ok());
        assert!(Args::try_parse_from(["kubectl-nestling", "kubeconfig", "dev", "--merge", "--output", "f"]).is_err());
    }
}
