use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Sends one request over a real socket; returns the whole answer.
async fn ask(to: SocketAddr, request_line: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_port_tells_health_readiness_and_metrics() {
    let metrics = crate::metrics::install().unwrap();
    ::metrics::counter!("sluice_test_probes_total").increment(3);
    ::metrics::histogram!("sluice_test_probe_seconds").record(0.002);
    let readiness = Readiness::new();
    let log = readiness.signal("log");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, metrics, readiness.clone()));

    let starting = ask(address, "GET /readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
    assert!(
        starting.ends_with(r#"{"ready":false,"reasons":{"log":"starting"}}"#),
        "{starting}"
    );
    log.set(Ok(()));
    assert!(
        ask(address, "GET /readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(ask(address, "GET /healthz").await.ends_with("ok\n"));
    let text = ask(address, "GET /metrics").await;
    assert!(text.contains("sluice_test_probes_total 3"), "{text}");
    assert!(
        text.contains(r#"sluice_test_probe_seconds_bucket{le="0.0025"} 1"#),
        "{text}"
    );
    assert!(ask(address, "GET /else").await.starts_with("HTTP/1.1 404"));
    let refused = ask(address, "POST /healthz").await;
    assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"));
    server.abort();
}

#[test]
fn every_reason_is_given_and_stopping_is_one() {
    let readiness = Readiness::new();
    assert!(readiness.reasons().is_empty());
    readiness.register("postgres", || Err("connection refused".to_owned()));
    readiness.register("log", || Ok(()));
    readiness.stop();
    let reasons: Vec<_> = readiness.reasons().into_iter().collect();
    let expected = [
        ("postgres", "connection refused"),
        ("process", "shutting down"),
    ];
    assert_eq!(reasons, expected.map(|(name, why)| (name, why.to_owned())));
}

#[test]
fn checks_of_one_name_must_all_hold() {
    let readiness = Readiness::new();
    let log = readiness.signal("log");
    readiness.register("log", || Ok(()));
    readiness.register("log", || Err("full".to_owned()));
    assert_eq!(readiness.reasons()["log"], "starting; full");
    log.set(Ok(()));
    assert_eq!(readiness.reasons()["log"], "full");
}
