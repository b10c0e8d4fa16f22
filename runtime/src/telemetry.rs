//! Logs: one line per event on standard error, as text for people or JSON for machines.

use clap::ValueEnum;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

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
        EnvFilter::builder().parse(&self.log_filter).map_err(|source| TelemetryError::Filter { filter: self.log_filter.clone(), source })
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
        assert_eq!(args("info,nestling_operator=debug").filter().unwrap().to_string(), "nestling_operator=debug,info");
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(args("nestling=loud").filter().unwrap_err().to_string().contains("nestling=loud"));
    }
}
