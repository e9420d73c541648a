//! Input that means harm: a documented answer, and the next device is served.

use std::time::Duration;

use serde_json::json;
use sluice_ingest::{Limits, ProjectRate};
use sluice_schema::wire::MAX_BODY_BYTES;
use sluice_service::serve::Timeouts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::*;

/// Short enough for a test; what each means is tested with a clock of its own.
fn impatient() -> Setting {
    let short = Duration::from_millis(200);
    let timeouts = Timeouts {
        idle: Duration::from_mins(1),
        head: short,
        body: short,
        drain: short,
    };
    Setting {
        limits: Limits {
            timeouts,
            ..Limits::default()
        },
        ..Setting::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_cut_off() {
    let world = World::start(impatient()).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream
        .write_all(b"POST /v1/ota/health-metrics HTTP/1.1\r\nHos")
        .await
        .unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    assert_eq!(world.post(launch()).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_told_so() {
    let world = World::start(impatient()).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let whole = Request::post(HEALTH, launch().as_bytes()).bytes();
    stream.write_all(&whole[..whole.len() - 5]).await.unwrap();
    let reply = Reply::parse(&read_to_end(&mut stream).await).unwrap();
    assert_eq!((reply.status, &*reply.code()), (408, "timeout"));
    assert!(logged(&world.health).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_stored() {
    let world = World::start(Setting::default()).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let whole = Request::post(HEALTH, launch().as_bytes()).bytes();
    stream.write_all(&whole[..whole.len() - 5]).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;
    assert!(logged(&world.health).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_for_the_next_request() {
    let world = World::start(impatient()).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = String::from_utf8(Request::post(HEALTH, launch().as_bytes()).bytes()).unwrap();
    let request = request.replace("Connection: close\r\n", "");
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let bytes = stream.read(&mut answer).await.unwrap();
        assert_eq!(Reply::parse(&answer[..bytes]).unwrap().status, 204);
    }
    // Two in one write, from a device that has nothing more to say: both are answered.
    stream
        .write_all(request.repeat(2).as_bytes())
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let answers = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert_eq!(answers.matches("204 No Content").count(), 2, "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_of_a_body_that_is_too_large_comes_to_its_answer() {
    let world = World::start(Setting::default()).await;
    let large = vec![b' '; 3 * MAX_BODY_BYTES];
    for encoding in ["", "chunked"] {
        let request = Request::post(HEALTH, &large).with("Transfer-Encoding", encoding);
        assert_eq!(world.send(request).await.status, 413);
    }
    let refused = Request::post(HEALTH, &large[..MAX_BODY_BYTES]).with("Content-Type", "a/b");
    assert_eq!(world.send(refused).await.status, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_that_never_comes_is_not_waited_for() {
    let world = World::start(impatient()).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST {HEALTH} HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n\
                        Content-Length: 99999999\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = Reply::parse(&read_to_end(&mut stream).await).unwrap();
    assert_eq!(reply.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_have_documented_answers() {
    let world = World::start(Setting::default()).await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep_objects = r#"{"a":"#.repeat(100_000) + "1" + &"}".repeat(100_000);
    let tiny = format!("[{}0]", "0,".repeat(1_000_000));
    let inside = |value: &str| {
        let body = body(&json!([{"type": "crash", "name": "HERE"}])).to_string();
        body.replace("\"HERE\"", value)
    };
    let many = format!(
        "[{}{{\"type\":\"crash\"}}]",
        "{\"type\":\"crash\"},".repeat(100_000)
    );
    for (what, body, status) in [
        ("deep arrays", deep.clone(), 400),
        ("deep objects", deep_objects, 400),
        ("never closed", "[".repeat(100_000), 400),
        ("deep in a field", inside(&deep), 204),
        ("a million elements", tiny.clone(), 400),
        (
            "a hundred thousand events",
            body(&json!("E")).to_string().replace("\"E\"", &many),
            204,
        ),
        (
            "a million numbers as events",
            body(&json!("E")).to_string().replace("\"E\"", &tiny),
            400,
        ),
    ] {
        assert_eq!(world.post(&body).await.status, status, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let world = World::start(Setting::default()).await;
    let long = Request::new("GET", "/").with("X-Long", &"a".repeat(300_000));
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // It may be cut off before it has said everything, and then before it reads.
    let _ = stream.write_all(&long.bytes()).await;
    let answer = Reply::parse(&read_to_end(&mut stream).await);
    assert!(answer.is_none_or(|reply| reply.status == 431));
    let many = (0..200).fold(Request::new("GET", "/"), |request, n| {
        request.with(&format!("X-{n}"), "a")
    });
    assert_eq!(world.send(many).await.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_past_its_rate_is_told_when_to_come_back() {
    let rate = ProjectRate {
        per_s: 0.001,
        burst: 3.0,
    };
    let limits = Limits {
        rate: Some(rate),
        ..Limits::default()
    };
    let world = World::start(Setting {
        limits,
        ..Setting::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(world.post(launch()).await.status, 204);
    }
    let reply = world.post(launch()).await;
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (429, Some("60"))
    );
    assert_eq!(logged(&world.health).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_gather_share_a_budget() {
    let limits = Limits {
        gathering_bytes: 100_000,
        ..Limits::default()
    };
    let world = World::start(Setting {
        limits,
        ..Setting::default()
    })
    .await;
    let large = launch() + &" ".repeat(500_000);
    let reply = world.post(&large).await;
    assert_eq!((reply.status, &*reply.code()), (503, "overloaded"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    // What was taken is given back.
    assert_eq!(world.post(launch() + &" ".repeat(50_000)).await.status, 204);
}
