//! Load generator, ledger verifier, fault drill and benchmarks of Sluice.

use std::process::ExitCode;

use clap::Parser as _;
use sluice_loadtest::cli::{Arguments, execute};

fn main() -> ExitCode {
    sluice_engines::run_child_if_asked();
    let arguments = Arguments::parse();
    let done = tokio::runtime::Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(execute(arguments)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
