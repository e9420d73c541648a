//! Runs one engine on a directory until its standard input ends, and is what
//! tests run engines under: their own executables have the harness's `main`.
//!
//! `sluice-engine clickhouse|postgres DIR` prints the engine's process id and
//! address on one line.

use std::error::Error;
use std::io::{Read, stdin};
use std::path::Path;
use std::process::ExitCode;

use sluice_engines::postgres::Durability;
use sluice_engines::{ClickHouse, Postgres};

fn main() -> ExitCode {
    sluice_engines::run_child_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["clickhouse", dir] => {
            let server = ClickHouse::start(Path::new(dir))?;
            hold(server.pid(), &server.url())
        }
        ["postgres", dir] => {
            let server = Postgres::start(Path::new(dir), Durability::Full)?;
            hold(server.pid(), &server.url())
        }
        _ => Err("usage: sluice-engine clickhouse|postgres DIR".into()),
    }
}

fn hold(pid: u32, address: &str) -> Result<(), Box<dyn Error>> {
    println!("{pid} {address}");
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
