//! Configuration: documented defaults, then a TOML file, then `SLUICE_*`
//! variables.
//!
//! Each concern has a struct with a `read` function that asks a
//! [`ConfigReader`] for its values, one line each. The line is all there is:
//! it names the variable, its type and its default, and so also makes up the
//! file's keys, `--check-config`, and the list of [`accepted`] variables that
//! deployment files are tested against.
//!
//! | Where | Spelling of the variable `SLUICE_KAFKA_BROKERS` |
//! |---|---|
//! | environment | `SLUICE_KAFKA_BROKERS` |
//! | file | `kafka_brokers = "…"`, or `brokers = "…"` under `[kafka]` |
//! | secrets, instead of the value | `<NAME>_FILE`: the path of a file that holds it |
//!
//! What always holds: every problem is found in one pass, the unknown keys
//! among them; a configuration with a problem never reaches a service; a
//! secret's value is never printed. `read` functions must ask for the same
//! variables whatever the values, or the list of accepted ones would lie.
//! An empty variable counts as unset; `SLUICE_TEST_*` belongs to the tests.

mod reader;
mod secret;
mod source;
mod units;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

pub use reader::{ConfigReader, Setting};
pub use secret::Secret;
use source::Source;

/// The command-line arguments of every binary; flatten them into its own.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// TOML file with settings; `SLUICE_*` variables override it.
    #[arg(long, value_name = "FILE", env = "SLUICE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration, secrets redacted, and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|p| writeln!(f, "  - {p}"))
    }
}

impl std::error::Error for Problems {}

/// Reads the configuration of this process. `Err` is the code to exit with:
/// the problems were printed, or `--check-config` has done what it is for.
pub fn load<C>(
    args: &ConfigArgs,
    read: impl FnOnce(&mut ConfigReader) -> C,
) -> Result<C, ExitCode> {
    match evaluate(Source::of_process(args.config.as_deref()), read) {
        Err(problems) => {
            eprint!("{problems}");
            Err(ExitCode::from(78)) // EX_CONFIG of sysexits.h
        }
        Ok((_, settings)) if args.check_config => {
            for setting in settings {
                println!("{setting}");
            }
            Err(ExitCode::SUCCESS)
        }
        Ok((config, _)) => Ok(config),
    }
}

/// Reads a configuration from given variables alone: for tests, and for
/// programs that run a service inside themselves.
pub fn from_variables<C>(
    variables: impl IntoIterator<Item = (String, String)>,
    read: impl FnOnce(&mut ConfigReader) -> C,
) -> Result<C, Problems> {
    evaluate(Source::of_variables(variables), read).map(|(config, _)| config)
}

/// Every variable that `read` accepts, `<NAME>_FILE` forms included.
pub fn accepted<C>(read: impl FnOnce(&mut ConfigReader) -> C) -> Vec<String> {
    let mut reader = ConfigReader::new(Source::default());
    read(&mut reader);
    reader
        .settings()
        .iter()
        .flat_map(Setting::spellings)
        .collect()
}

fn evaluate<C>(
    source: Source,
    read: impl FnOnce(&mut ConfigReader) -> C,
) -> Result<(C, Vec<Setting>), Problems> {
    let mut reader = ConfigReader::new(source);
    let config = read(&mut reader);
    let settings = reader.finish().map_err(Problems)?;
    Ok((config, settings))
}

#[cfg(test)]
mod tests;
