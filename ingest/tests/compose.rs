//! `docker-compose.yml` sets nothing that the edge does not accept.

use sluice_ingest::config::Config;
use sluice_service::config::accepted;

/// The variables of one service: the lines `NAME: value` under its `environment`.
fn variables(service: &str) -> Vec<&'static str> {
    include_str!("../../docker-compose.yml")
        .lines()
        .skip_while(|line| *line != format!("  {service}:"))
        .skip(1)
        .take_while(|line| line.starts_with("   ") || line.is_empty())
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("SLUICE_"))
        .collect()
}

#[test]
fn each_variable_is_accepted() {
    let accepted = accepted(Config::read);
    let set = variables("ingest");
    assert!(set.len() >= 8, "{set:?}");
    for name in set {
        assert!(accepted.iter().any(|known| known == name), "{name}");
    }
}
