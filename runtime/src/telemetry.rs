//! Logs: one line per event on standard error, as text or JSON.

use clap::ValueEnum;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

/// Takes precedence over the given filter: kube's client logs the whole body of an answer that it cannot read, and that body
/// may be a Secret; and it logs every refused connection, which callers report themselves, with context.
const KUBE_CLIENT: &str = "kube_client::client=off";

/// Flags for logs, to be flattened into a program's arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,nestling_operator=debug`.
    #[arg(long, env = "NESTLING_LOG", default_value = "info", value_name = "FILTER")]
    pub log_filter: String,

    /// How it is written.
    #[arg(long, env = "NESTLING_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("cannot read the log filter {filter:?}")]
    Filter {
        filter: String,
        #[source]
        source: ParseError,
    },
    #[error("cannot install the log subscriber")]
    Install(#[source] TryInitError),
}

impl TelemetryArgs {
    /// Installs the process-wide subscriber. To be called once, before anything logs.
    pub fn install(&self) -> Result<(), TelemetryError> {
        let filter = self.filter()?;
        let writer = fmt::layer().with_writer(std::io::stderr);
        let layer = match self.log_format {
            LogFormat::Text => writer.with_ansi(false).boxed(),
            LogFormat::Json => writer.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(TelemetryError::Install)
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        let filter = format!("{},{KUBE_CLIENT}", self.log_filter);
        EnvFilter::builder().parse(filter).map_err(|source| TelemetryError::Filter { filter: self.log_filter.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(filter: &str) -> TelemetryArgs {
        TelemetryArgs { log_filter: filter.into(), log_format: LogFormat::Text }
    }

    #[test]
    fn directives_are_understood() {
        let filter = args("info,nestling_operator=debug").filter().unwrap().to_string();
        assert_eq!(filter, "kube_client::client=off,nestling_operator=debug,info");
    }

    #[test]
    fn bodies_of_answers_are_never_logged() {
        let filter = args("trace,kube_client::client=trace").filter().unwrap().to_string();
        assert!(filter.contains("kube_client::client=off") && !filter.contains("kube_client::client=trace"), "{filter}");
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(args("nestling=loud").filter().unwrap_err().to_string().contains("nestling=loud"));
    }
}
