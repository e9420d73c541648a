//! telemetry.md §2.5 to §2.8 and the probes of §12, row by row.

use std::io::Write as _;

use serde_json::{Value as Json, json};
use sluice_schema::frame::ContentKind;
use sluice_schema::wire::MAX_BODY_BYTES;

use crate::support::*;

const RECORDED: &str = include_str!("../../../schema/fixtures/sdk-health-bodies.jsonl");

/// A body with one event that has this member, beside a known one.
fn event(name: &str, value: &Json) -> String {
    let mut event = json!({"type": "custom", "name": "n", "tags": {"duration_ms": "1"}});
    event[name] = value.clone();
    body(&json!([{"type": "crash"}, event])).to_string()
}

fn envelope(name: &str, value: &Json) -> String {
    let mut body = body(&json!([{"type": "crash"}]));
    body[name] = value.clone();
    body.to_string()
}

fn without(name: &str) -> String {
    let mut body = body(&json!([{"type": "crash"}]));
    body.as_object_mut().unwrap().remove(name);
    body.to_string()
}

/// (what, body, status)
#[allow(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<(&'static str, Vec<u8>, u16)> {
    let sample = |tags: Json| {
        body(&json!([{"type": "perf_sample", "name": "m", "tags": tags}]))
            .to_string()
            .into_bytes()
    };
    let text: Vec<(&'static str, String, u16)> = vec![
        ("not JSON", "{".into(), 400),
        ("empty body", String::new(), 400),
        ("trailing garbage", launch() + "x", 400),
        ("a BOM", format!("\u{feff}{}", launch()), 204),
        (
            "lone surrogate",
            launch().replace("\"d\"", "\"\\ud83d\""),
            204,
        ),
        ("no slug", without("projectSlug"), 400),
        ("no device", without("deviceId"), 400),
        ("no platform", without("platform"), 400),
        ("no runtime version", without("runtimeVersion"), 400),
        ("no events", without("events"), 400),
        ("null device", envelope("deviceId", &json!(null)), 400),
        ("number as platform", envelope("platform", &json!(7)), 400),
        ("empty device", envelope("deviceId", &json!("")), 204),
        ("odd platform", envelope("platform", &json!("web")), 204),
        ("null channel", envelope("channel", &json!(null)), 204),
        ("unknown field", envelope("sdk", &json!({"a": [1]})), 204),
        ("events no array", envelope("events", &json!({})), 400),
        ("event no object", envelope("events", &json!([1])), 400),
        ("no events at all", envelope("events", &json!([])), 204),
        ("event without type", envelope("events", &json!([{}])), 400),
        (
            "type no string",
            envelope("events", &json!([{"type": 1}])),
            400,
        ),
        (
            "only unknown types",
            envelope("events", &json!([{"type": "x"}])),
            400,
        ),
        ("one unknown type", event("type", &json!("x")), 204),
        (
            "duplicate key",
            launch().replacen('{', r#"{"deviceId":1,"#, 1),
            204,
        ),
        ("fraction", event("count", &json!(1.5)), 204),
        (
            "exponent",
            launch().replace("\"count\":1", "\"count\":1e3"),
            204,
        ),
        ("null count", event("count", &json!(null)), 204),
        ("string count", event("count", &json!("1")), 400),
        ("bool count", event("count", &json!(true)), 400),
        ("object count", event("count", &json!({})), 400),
        ("zero count", event("count", &json!(0)), 204),
        ("negative count", event("count", &json!(i64::MIN)), 204),
        ("huge count", event("count", &json!(u64::MAX)), 204),
        (
            "absurd count",
            launch().replace("\"count\":1", &format!("\"count\":1{}", "0".repeat(400))),
            400,
        ),
        ("name no string", event("name", &json!([1, {"a": 2}])), 204),
        ("message no string", event("message", &json!(7)), 204),
        ("null fatal", event("isFatal", &json!(null)), 204),
        ("fatal no bool", event("isFatal", &json!("yes")), 400),
        (
            "flag states no object",
            event("flagStates", &json!([1])),
            204,
        ),
        ("tags no object", event("tags", &json!("t")), 204),
        ("NUL in a text", event("message", &json!("a\0b")), 204),
        (
            "unknown project",
            envelope("projectSlug", &json!("nobody")),
            404,
        ),
        (
            "a slug that is none",
            envelope("projectSlug", &json!("")),
            404,
        ),
        (
            "a long slug",
            envelope("projectSlug", &json!("a".repeat(300))),
            404,
        ),
    ];
    let mut rows: Vec<_> = text
        .into_iter()
        .map(|(what, body, status)| (what, body.into_bytes(), status))
        .collect();
    rows.push((
        "invalid UTF-8",
        launch().replace("\"d\"", "\"@\"").into_bytes(),
        400,
    ));
    let last = rows.last_mut().unwrap();
    let at = last.1.iter().position(|byte| *byte == b'@').unwrap();
    last.1[at] = 0xff;
    for duration in [
        json!("NaN"),
        json!("inf"),
        json!(-1),
        json!(86_400_001),
        json!({}),
    ] {
        rows.push((
            "a sample that is dropped",
            sample(json!({"duration_ms": duration})),
            204,
        ));
    }
    rows.push(("a sample", sample(json!({"duration_ms": "812"})), 204));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_matrix_has_its_status() {
    let world = World::start(Setting::default()).await;
    for (what, body, status) in rows() {
        let reply = world.post(&body).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("*"),
            "{what}"
        );
        if status == 204 {
            assert_eq!(
                (&*reply.body, reply.header("content-type")),
                ("", None),
                "{what}"
            );
        } else {
            assert!(reply.json()["error"].is_string(), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_is_logged_as_sent_and_nothing_else() {
    let world = World::start(Setting::default()).await;
    for (_, body, _) in rows() {
        world.post(&body).await;
    }
    let logged: Vec<_> = logged(&world.health)
        .into_iter()
        .map(|r| r.payload)
        .collect();
    // Accepted, but nothing of it is kept.
    let empty = ["no events at all", "a sample that is dropped"];
    let expected: Vec<_> = rows()
        .into_iter()
        .filter(|(what, _, status)| *status == 204 && !empty.contains(what))
        .map(|(_, body, _)| body)
        .collect();
    assert_eq!(logged, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_bodies_are_accepted_and_logged_byte_for_byte() {
    let world = World::start(Setting::default()).await;
    for line in RECORDED.lines() {
        assert_eq!(world.post(line).await.status, 204, "{line}");
    }
    let logged = logged(&world.health);
    assert_eq!(logged.len(), 458);
    for (logged, line) in logged.iter().zip(RECORDED.lines()) {
        assert_eq!(
            (&logged.project, logged.kind),
            (&Ok(1), ContentKind::Health)
        );
        assert_eq!(logged.payload, line.as_bytes());
    }
}

/// Probe 2, and the headers of §2.5 and §2.8.
#[tokio::test(flavor = "multi_thread")]
async fn the_head_decides_before_the_body() {
    let world = World::start(Setting::default()).await;
    let body = launch();
    let post = || Request::post(HEALTH, body.as_bytes());
    for (request, status) in [
        (post().with("Content-Type", ""), 415),
        (post().with("Content-Type", "text/plain"), 415),
        (
            post().with("Content-Type", "application/json; charset=utf-8"),
            204,
        ),
        (post().with("Content-Type", "application/vnd.x+json"), 204),
        (post().with("Content-Encoding", "identity"), 204),
        (post().with("Content-Encoding", "br"), 415),
        (post().with("Content-Encoding", "gzip, zstd"), 415),
        (post().with("Transfer-Encoding", "chunked"), 204),
        (post().with("Authorization", "Bearer nonsense"), 204),
        (
            Request::post("/v1/ota/health-metrics/", body.as_bytes()),
            204,
        ),
        (
            Request::post("/v1/ota/health-metrics//", body.as_bytes()),
            404,
        ),
        (
            Request::post("/v1/ota/health-metrics?a=b", body.as_bytes()),
            204,
        ),
        (Request::new("GET", "/"), 404),
        (Request::new("OPTIONS", "/anything"), 204),
    ] {
        let bytes = request.bytes();
        let reply = world.send(request).await;
        let head = String::from_utf8_lossy(&bytes[..120.min(bytes.len())]).into_owned();
        assert_eq!(reply.status, status, "{head}");
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("*"),
            "{head}"
        );
        let vary = "origin, access-control-request-method, access-control-request-headers";
        assert_eq!(reply.header("vary"), Some(vary), "{head}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let reply = world.send(Request::new(method, HEALTH)).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_lists_methods_and_headers() {
    let world = World::start(Setting::default()).await;
    for path in [HEALTH, EVALUATIONS] {
        let reply = world.send(Request::new("OPTIONS", path)).await;
        assert_eq!((reply.status, &*reply.body), (204, ""));
        let methods = reply.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST"), "{methods}");
        let headers = reply.header("access-control-allow-headers").unwrap();
        for header in ["Authorization", "X-Project", "Content-Type"] {
            assert!(headers.contains(header), "{headers}");
        }
        assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_logged_inflated() {
    let world = World::start(Setting::default()).await;
    let body = launch();
    let zstd = zstd::stream::encode_all(body.as_bytes(), 3).unwrap();
    for (encoding, sent) in [("gzip", gzip(body.as_bytes())), ("ZSTD", zstd)] {
        let request = Request::post(HEALTH, &sent).with("Content-Encoding", encoding);
        assert_eq!(world.send(request).await.status, 204);
        let not_so = Request::post(HEALTH, body.as_bytes()).with("Content-Encoding", encoding);
        assert_eq!(world.send(not_so).await.code(), "invalid_encoding");
    }
    let payloads: Vec<_> = logged(&world.health)
        .into_iter()
        .map(|r| r.payload)
        .collect();
    assert_eq!(payloads, [body.as_bytes(), body.as_bytes()]);
}

/// A valid body of exactly so many bytes.
fn of_size(bytes: usize) -> Vec<u8> {
    let mut body = launch().into_bytes();
    body.resize(bytes, b' ');
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mebibytes_are_accepted_and_one_byte_more_is_not() {
    let world = World::start(Setting::default()).await;
    let (fits, over) = (of_size(MAX_BODY_BYTES), of_size(MAX_BODY_BYTES + 1));
    for chunked in ["", "chunked"] {
        let send =
            |body| world.send(Request::post(HEALTH, body).with("Transfer-Encoding", chunked));
        assert_eq!(send(&fits).await.status, 204);
        assert_eq!(send(&over).await.status, 413);
    }
    for (sent, status) in [(gzip(&fits), 204), (gzip(&over), 413)] {
        let request = Request::post(HEALTH, &sent).with("Content-Encoding", "gzip");
        assert_eq!(world.send(request).await.status, status);
    }
    assert_eq!(logged(&world.health).len(), 3);
}

/// Probe 1, as far as the edge sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_all_five_types_passes() {
    let world = World::start(Setting::default()).await;
    let all = json!([
        {"type": "app_launch"}, {"type": "js_error", "count": 2}, {"type": "crash"},
        {"type": "custom", "name": "n"},
        {"type": "perf_sample", "name": "startup_cold", "tags": {"duration_ms": "812"}},
    ]);
    assert_eq!(world.post(body(&all).to_string()).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluations_have_rules_of_their_own() {
    let world = World::start(Setting::default()).await;
    let bearer = format!("Bearer {KEY}");
    let whole = json!({"evaluations": [{"flagKey": "f", "variationValue": true, "count": 3}],
                       "context": {"targetingKey": "k"}})
    .to_string();
    for (body, status) in [
        (&*whole, 204),
        (r#"{"evaluations":[]}"#, 204),
        (r#"{"evaluations":[{"flagKey":"f","count":-1}]}"#, 204),
        (r#"{"evaluations":[{"count":1}]}"#, 400),
        (r#"{"evaluations":{}}"#, 400),
        ("{}", 400),
        ("{", 400),
    ] {
        let request = Request::post(EVALUATIONS, body.as_bytes()).with("Authorization", &bearer);
        assert_eq!(world.send(request).await.status, status, "{body}");
    }
    let logged = logged(&world.evaluations);
    assert_eq!(logged.len(), 1);
    assert_eq!(
        (&logged[0].project, logged[0].kind),
        (&Ok(1), ContentKind::Evaluations)
    );
    assert_eq!(logged[0].payload, whole.as_bytes());
}
