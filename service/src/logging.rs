//! Logs: `tracing` to standard error, for people or for machines.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::config::ConfigReader;

/// PostgreSQL's notices tell what `IF NOT EXISTS` found: nothing to act on.
const DEFAULT_FILTER: &str = "info,sqlx::postgres::notice=warn";

/// How a line of log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What is logged and how.
#[derive(Clone, Debug)]
pub struct LoggingConfig {
    /// `SLUICE_LOG`: filter directives such as `info,sluice_ingest=debug`.
    /// Default `info`, without what PostgreSQL only remarks.
    pub filter: String,
    /// `SLUICE_LOG_FORMAT`: `text` or `json`. Default `json` in services, `text` in standalone.
    pub format: Format,
}

impl LoggingConfig {
    /// Reads it; the default format is the binary's choice.
    pub fn read(reader: &mut ConfigReader, default_format: Format) -> Self {
        let filter = reader.value("SLUICE_LOG", DEFAULT_FILTER.to_owned());
        if let Err(error) = EnvFilter::try_new(&filter) {
            reader.problem("SLUICE_LOG", error);
        }
        let format = reader.value("SLUICE_LOG_FORMAT", default_format);
        Self { filter, format }
    }
}

/// Starts logging. The first caller in a process wins.
pub fn init(config: &LoggingConfig) {
    let mut builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter))
        .with_writer(io::stderr);
    if !io::stderr().is_terminal() {
        builder = builder.with_ansi(false);
    }
    // A second call would be a test's: logging goes on as it was.
    let _ = match config.format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn read(variables: &[(&str, &str)]) -> Result<LoggingConfig, config::Problems> {
        let variables = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        config::from_variables(variables, |reader| {
            LoggingConfig::read(reader, Format::Json)
        })
    }

    #[test]
    fn the_binary_chooses_the_default_format() {
        assert_eq!(read(&[]).unwrap().format, Format::Json);
        assert_eq!(
            read(&[("SLUICE_LOG_FORMAT", "text")]).unwrap().format,
            Format::Text
        );
    }

    #[test]
    fn a_bad_filter_is_a_problem_of_the_configuration() {
        let problems = read(&[("SLUICE_LOG", "sluice=loud"), ("SLUICE_LOG_FORMAT", "xml")]);
        let text = problems.unwrap_err().to_string();
        assert!(
            text.contains("SLUICE_LOG:") && text.contains("expected text or json"),
            "{text}"
        );
    }
}
