//! `docker-compose.yml` against the programs that it starts: no container
//! engine is needed to know that they accept what it gives them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use serde::Deserialize;
use sluice_service::config::{ConfigReader, Problems, from_variables};

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    command: Vec<String>,
}

fn compose() -> Compose {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Reads a program's configuration from its variables alone.
type Reads = fn(BTreeMap<String, String>) -> Result<(), Problems>;

/// Our programs, by the names under which they are started.
const PROGRAMS: [(&str, Reads); 3] = [
    ("sluice-ingest", |v| {
        reads(v, sluice_ingest::config::Config::read)
    }),
    ("sluice-aggregator", |v| {
        reads(v, sluice_aggregator::config::Config::read)
    }),
    ("sluice-api", |v| reads(v, sluice_api::config::Config::read)),
];

fn reads<C>(
    variables: BTreeMap<String, String>,
    read: fn(&mut ConfigReader) -> C,
) -> Result<(), Problems> {
    from_variables(variables, read).map(drop)
}

/// What compose makes of `${NAME:?}` once `.env` has a value.
fn filled_in(value: &str) -> String {
    let mut parts = value.split("${");
    let mut filled = parts.next().unwrap().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('}').unwrap();
        filled = filled + "0123456789abcdef" + rest;
    }
    filled
}

#[test]
fn each_program_accepts_its_variables_and_misses_none() {
    let services = compose().services;
    for (program, reads) in PROGRAMS {
        let started = services
            .values()
            .filter(|service| service.command == [program]);
        let mut starts = 0;
        for service in started {
            let given = service.environment.iter();
            let given = given.map(|(name, value)| (name.clone(), filled_in(value)));
            if let Err(problems) = reads(given.collect()) {
                panic!("{program}: {problems}");
            }
            starts += 1;
        }
        assert_eq!(starts, 1, "{program} is started by one service");
    }
}

#[test]
fn a_wrong_variable_or_a_missing_one_would_be_noticed() {
    let services = compose().services;
    for (program, reads) in PROGRAMS {
        let mut service = services
            .values()
            .filter(|service| service.command == [program]);
        let given = &service.next().unwrap().environment;
        let filled = || given.iter().map(|(n, v)| (n.clone(), filled_in(v)));
        let strange = [("SLUICE_NO_SUCH_THING".to_owned(), "1".to_owned())];
        assert!(
            reads(filled().chain(strange).collect()).is_err(),
            "{program}"
        );
        let without = filled().filter(|(name, _)| name != "SLUICE_POSTGRES_URL");
        assert!(reads(without.collect()).is_err(), "{program}");
    }
}

#[test]
fn there_are_no_default_passwords() {
    let services = compose().services;
    let variables = services.values().flat_map(|service| &service.environment);
    let secrets: Vec<_> = variables
        .filter(|(name, _)| name.ends_with("PASSWORD"))
        .collect();
    assert!(secrets.len() >= 4, "{secrets:?}");
    for (name, value) in secrets {
        assert!(
            value.starts_with("${") && value.ends_with(":?}"),
            "{name} has a value"
        );
    }
}

#[test]
fn ports_are_published_on_loopback_only() {
    let services = compose().services;
    let ports: Vec<_> = services
        .values()
        .flat_map(|service| &service.ports)
        .collect();
    assert!(!ports.is_empty());
    for port in ports {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
    }
}
