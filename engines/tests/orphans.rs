//! Nothing outlives the process that started it, and what a killed one left
//! does not stand in the way of the next.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A directory that PostgreSQL's unprivileged user may enter.
fn directory() -> TempDir {
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

/// A starter of `engine`, and the process id and the address of its engine.
fn hold(engine: &str, dir: &Path) -> (Child, u32, String) {
    let mut starter = Command::new(env!("CARGO_BIN_EXE_sluice-engine"))
        .arg(engine)
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = starter.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    let (pid, address) = line.trim().split_once(' ').expect("it started");
    (starter, pid.parse().unwrap(), address.to_owned())
}

fn lives(pid: u32) -> bool {
    // An ended process that nobody waits for is still listed, as a zombie.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn ends_in_time(pid: u32) -> bool {
    let deadline = Instant::now() + ENDS_WITHIN;
    while lives(pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    !lives(pid)
}

/// Kills the starter; the engine ends, and the next start finds its place.
fn dies_with_its_starter(engine: &str) {
    let dir = directory();
    let (mut starter, engine_pid, address) = hold(engine, dir.path());
    assert!(lives(engine_pid));
    starter.kill().unwrap();
    starter.wait().unwrap();
    // At once: it waits for the end of the one before.
    let (mut next, next_pid, next_address) = hold(engine, dir.path());
    assert!(ends_in_time(engine_pid), "{engine} outlives its starter");
    assert_eq!(next_address, address);
    drop(next.stdin.take());
    assert!(next.wait().unwrap().success());
    assert!(!lives(next_pid), "an orderly stop waits for its engine");
}

#[test]
fn clickhouse_dies_with_its_starter() {
    dies_with_its_starter("clickhouse");
}

#[test]
fn postgres_dies_with_its_starter() {
    dies_with_its_starter("postgres");
}

#[test]
fn postgres_dies_with_its_supervisor() {
    let dir = directory();
    let (mut starter, engine_pid, _) = hold("postgres", dir.path());
    let stat = fs::read_to_string(format!("/proc/{engine_pid}/stat")).unwrap();
    let supervisor = stat.split_whitespace().nth(3).unwrap();
    let killed = Command::new("kill").args(["-9", supervisor]).status();
    assert!(killed.unwrap().success());
    assert!(ends_in_time(engine_pid), "it outlives its supervisor");
    starter.kill().unwrap();
    starter.wait().unwrap();
    let (mut next, _, _) = hold("postgres", dir.path());
    drop(next.stdin.take());
    assert!(next.wait().unwrap().success());
}
