//! The server keeps its data over a stop and over a kill, and asks for its password.

use std::io::{Read, Write};
use std::net::TcpStream;

use sluice_engines::ClickHouse;

fn send(server: &ClickHouse, request: &str) -> String {
    let address = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// Status code and body.
fn query(server: &ClickHouse, password: &str, sql: &str) -> String {
    let (user, length) = (server.user(), sql.len());
    let request = format!(
        "POST / HTTP/1.0\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
         Content-Length: {length}\r\n\r\n{sql}"
    );
    let answer = send(server, &request);
    let (head, body) = answer.split_once("\r\n\r\n").expect("it speaks HTTP");
    let status = head.split_whitespace().nth(1).expect("a status line");
    format!("{status} {body}")
}

#[test]
fn data_survives_a_stop_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = ClickHouse::start(dir.path()).unwrap();
    let (password, url) = (server.password().to_owned(), server.url());
    let run = |server: &ClickHouse, sql: &str| query(server, &password, sql);
    let create = "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a";
    assert_eq!(run(&server, create), "200 ");
    assert_eq!(run(&server, "INSERT INTO t VALUES (1)"), "200 ");
    server.stop();
    let server = ClickHouse::start(dir.path()).unwrap();
    assert_eq!(server.url(), url, "it keeps its port");
    assert_eq!(run(&server, "INSERT INTO t VALUES (2)"), "200 ");
    server.kill();
    let server = ClickHouse::start(dir.path()).unwrap();
    assert_eq!(run(&server, "SELECT sum(a) FROM t"), "200 3\n");
}

#[test]
fn nobody_gets_in_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let server = ClickHouse::start(dir.path()).unwrap();
    assert!(query(&server, "wrong", "SELECT 1").starts_with("403"));
    // `default` has no password.
    for headers in [
        "",
        "X-ClickHouse-User: default\r\n",
        "Authorization: Basic ZGVmYXVsdDo=\r\n",
    ] {
        let request = format!("GET /?query=SELECT+1 HTTP/1.0\r\n{headers}\r\n");
        let answer = send(&server, &request);
        assert!(answer.starts_with("HTTP/1.0 404"), "{headers}: {answer}");
    }
    let both = "GET /?user=default&query=SELECT+1 HTTP/1.0\r\nX-ClickHouse-User: sluice\r\n\r\n";
    assert!(send(&server, both).starts_with("HTTP/1.0 403"));
}
