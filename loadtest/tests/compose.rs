//! `docker-compose.yml` against the programs that it starts: no container
//! engine is needed to know that they accept what it gives them.

use std::collections::BTreeMap;

use serde::Deserialize;

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
