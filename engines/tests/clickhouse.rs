//! The server keeps its data over a stop and over a kill, and asks for its password.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::io::{Read, Write};
use std::net::TcpStream;

use sluice_engines::ClickHouse;

fn query(server: &ClickHouse, password: &str, sql: &str) -> String {
    let address = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST / HTTP/1.0\r\nX-ClickHouse-User: sluice\r\nX-ClickHouse-Key: {password}\r\nContent-Length: {}\r\n\r\n{sql}",
        sql.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split_whitespace().nth(1).unwrap())
}

#[test]
fn data_survives_a_stop_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = ClickHouse::start(dir.path()).unwrap();
    let password = server.password().to_owned();
    assert!(
        query(&server, "wrong", "SELECT 1").starts_with("403"),
        "a password is asked for"
    );
    let run = |server: &ClickHouse, sql: &str| query(server, &password, sql);
    assert_eq!(
        run(
            &server,
            "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a"
        ),
        "200 "
    );
    assert_eq!(run(&server, "INSERT INTO t VALUES (1)"), "200 ");
    server.stop();
    let server = ClickHouse::start(dir.path()).unwrap();
    assert_eq!(run(&server, "INSERT INTO t VALUES (2)"), "200 ");
    server.kill();
    let server = ClickHouse::start(dir.path()).unwrap();
    assert_eq!(run(&server, "SELECT sum(a) FROM t"), "200 3\n");
}
