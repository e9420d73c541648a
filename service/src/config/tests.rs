use std::net::SocketAddr;
use std::time::Duration;

use super::*;

#[derive(Debug)]
struct Example {
    listen: SocketAddr,
    brokers: Vec<String>,
    spool_max_bytes: u64,
    deadline: Duration,
    url: String,
    password: Secret,
}

impl Example {
    fn read(reader: &mut ConfigReader) -> Self {
        Self {
            listen: reader.value("SLUICE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            brokers: reader.list("SLUICE_KAFKA_BROKERS"),
            spool_max_bytes: reader.bytes("SLUICE_SPOOL_MAX_BYTES", 1 << 30),
            deadline: reader.duration("SLUICE_SPOOL_DEADLINE", Duration::from_millis(500)),
            url: reader.required("SLUICE_POSTGRES_URL"),
            password: reader.required_secret("SLUICE_POSTGRES_PASSWORD"),
        }
    }
}

fn source(file: &str, variables: &[(&str, &str)]) -> Source {
    let mut source = Source::default();
    source.add_toml(file);
    source.add_variables(
        variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
    );
    source
}

fn problems(file: &str, variables: &[(&str, &str)]) -> String {
    evaluate(source(file, variables), Example::read)
        .unwrap_err()
        .to_string()
}

const ENOUGH: &str = "postgres_url = 'postgres://x'\npostgres_password = 'p'\n";

#[test]
fn variables_override_the_file_and_the_file_the_defaults() {
    let file = format!("{ENOUGH}spool_max_bytes = 5\nkafka_brokers = ['a:1', 'b:2']\n");
    let from_file = evaluate(source(&file, &[]), Example::read).unwrap().0;
    assert_eq!(
        (from_file.spool_max_bytes, from_file.listen.port()),
        (5, 8080)
    );
    assert_eq!(from_file.brokers, ["a:1", "b:2"]);
    let variables = [
        ("SLUICE_SPOOL_MAX_BYTES", "6MiB"),
        ("SLUICE_KAFKA_BROKERS", "c:3"),
    ];
    let overridden = evaluate(source(&file, &variables), Example::read)
        .unwrap()
        .0;
    assert_eq!(overridden.spool_max_bytes, 6 << 20);
    assert_eq!(overridden.brokers, ["c:3"]);
    assert_eq!(overridden.deadline, Duration::from_millis(500));
}

#[test]
fn tables_of_the_file_are_part_of_the_name() {
    let file = "[postgres]\nurl = 'postgres://x'\npassword = 'p'\n[spool]\nmax_bytes = '2kB'\n";
    let config = evaluate(source(file, &[]), Example::read).unwrap().0;
    assert_eq!(
        (config.url.as_str(), config.spool_max_bytes),
        ("postgres://x", 2_000)
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = problems(
        "spool_max_bytes = 'lots'\nno_such_key = 1\nwhen = 2026-01-01\n",
        &[
            ("SLUICE_LISTEN", "here"),
            ("SLUICE_LISTN", "127.0.0.1:1"),
            ("HOME", "/root"),
        ],
    );
    for part in [
        "7 problem(s)",
        "no_such_key: unknown key",
        "when: neither",
        "SLUICE_LISTN: unknown variable",
        "SLUICE_LISTEN: invalid socket address",
        "SLUICE_SPOOL_MAX_BYTES: expected bytes",
        "SLUICE_POSTGRES_URL: must be set",
        "SLUICE_POSTGRES_PASSWORD: must be set",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_broken_file_is_one_more_problem() {
    assert!(problems("listen = ", &[]).contains("not TOML"));
    let missing = Source::of_process(Some("/no/such/file".as_ref())).into_problems();
    assert!(
        missing
            .iter()
            .any(|p| p.contains("cannot read /no/such/file"))
    );
}

#[test]
fn empty_variables_and_those_of_tests_are_no_settings() {
    let variables = [
        ("SLUICE_LISTEN", ""),
        ("SLUICE_TEST_KAFKA", "1"),
        ("SLUICE_CONFIG", "x"),
    ];
    assert!(evaluate(source(ENOUGH, &variables), Example::read).is_ok());
}

#[test]
fn a_secret_comes_from_a_file_too_and_is_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let path = path.to_str().unwrap();
    let variables = [
        ("SLUICE_POSTGRES_PASSWORD_FILE", path),
        ("SLUICE_POSTGRES_URL", "u"),
    ];
    let (config, settings) = evaluate(source("", &variables), Example::read).unwrap();
    assert_eq!(config.password.expose(), "hunter2");
    let printed: String = settings.iter().map(Setting::to_string).collect();
    assert!(
        printed.contains("postgres_password") && !printed.contains("hunter2"),
        "{printed}"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_secret_is_refused_twice_missing_or_unreadable() {
    let both = [
        ("SLUICE_POSTGRES_PASSWORD", "a"),
        ("SLUICE_POSTGRES_PASSWORD_FILE", "/b"),
    ];
    assert!(problems("postgres_url = 'x'", &both).contains("both as a value and as a file"));
    let unreadable = problems("postgres_url = 'x'", &both[1..]);
    assert!(unreadable.contains("1 problem(s)") && unreadable.contains("cannot read /b"));
}

#[test]
fn what_check_config_prints_is_a_file_that_says_the_same() {
    let variables = [
        ("SLUICE_LISTEN", "[::1]:9"),
        ("SLUICE_KAFKA_BROKERS", "a:1,b:2"),
    ];
    let (config, settings) = evaluate(source(ENOUGH, &variables), Example::read).unwrap();
    let printed = settings
        .iter()
        .map(Setting::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    let again = evaluate(source(&printed, &[]), Example::read).unwrap().0;
    assert_eq!(
        (again.listen, again.brokers),
        (config.listen, config.brokers)
    );
}

#[test]
fn the_accepted_variables_are_those_that_are_read() {
    let names = accepted(Example::read);
    assert_eq!(names.len(), 7);
    assert!(names.contains(&"SLUICE_POSTGRES_PASSWORD_FILE".to_owned()));
}
