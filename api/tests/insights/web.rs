//! What browsers are told, and what is compressed (telemetry.md §2.8).

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::world::{World, body};

const VARY: &str = "origin, access-control-request-method, access-control-request-headers";

struct Web(Router);

impl Web {
    async fn send(
        &self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/ota{path}"));
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let answer = self.0.clone().oneshot(request.body(Body::empty()).unwrap());
        let (parts, body) = answer.await.unwrap().into_parts();
        (
            parts.status,
            parts.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    /// What a viewer reads who offers these encodings.
    async fn read(&self, path: &str, encodings: &str) -> (HeaderMap, Bytes) {
        let headers = [
            ("authorization", "Bearer dsp_my-app_viewer"),
            ("x-project", "my-app"),
            ("accept-encoding", encodings),
        ];
        let (status, headers, body) = self.send(("GET", path), &headers).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        (headers, body)
    }
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer_is_for_any_origin() {
    let world = World::start().await;
    let web = Web(world.over(world.clickhouse_url().to_owned()));
    let viewer = [
        ("authorization", "Bearer dsp_my-app_viewer"),
        ("x-project", "my-app"),
    ];
    for (request, headers, status) in [
        (("GET", "/insights"), &viewer[..], 200),
        (("GET", "/insights"), &viewer[..1], 400),
        (("GET", "/insights"), &[], 401),
        (("GET", "/flags/9/health"), &viewer, 404),
        (("GET", "/no-such-route"), &viewer, 404),
        (("DELETE", "/insights"), &viewer, 405),
        (("GET", "/flag-definitions/my-app"), &[], 200),
        (("OPTIONS", "/insights"), &[], 200),
        (("OPTIONS", "/no-such-route"), &[], 200),
    ] {
        let (found, headers, _) = web.send(request, headers).await;
        assert_eq!(found, status, "{request:?}");
        assert_eq!(
            all(&headers, "access-control-allow-origin"),
            ["*"],
            "{request:?}"
        );
        assert!(
            all(&headers, "vary").contains(&VARY),
            "{request:?}: {headers:?}"
        );
        assert!(
            !headers.contains_key("access-control-allow-credentials"),
            "{request:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_lists_what_may_be_sent() {
    let world = World::start().await;
    let web = Web(world.over(world.clickhouse_url().to_owned()));
    let asks = [
        ("origin", "https://dashboard.example.test"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "x-trace"),
    ];
    for (asked, more) in [
        (&asks[..0], None),
        (&asks[..2], None),
        (&asks[..], Some("x-trace")),
    ] {
        let (_, headers, body) = web.send(("OPTIONS", "/telemetry/timeseries"), asked).await;
        assert_eq!(body.len(), 0);
        let methods = all(&headers, "access-control-allow-methods").join(", ");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert!(methods.contains(method), "{methods}");
        }
        let allowed = all(&headers, "access-control-allow-headers")
            .join(", ")
            .to_lowercase();
        let names = ["authorization", "x-project", "content-type"];
        for name in names.into_iter().chain(more) {
            assert!(allowed.split(", ").any(|known| known == name), "{allowed}");
        }
        assert_eq!(all(&headers, "access-control-max-age"), ["86400"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_kibibyte_are_compressed_for_those_who_say_so() {
    let mut world = World::start().await;
    world
        .send(&[body("a", json!([{"type": "crash", "message": "boom"}]))])
        .await;
    world.settle().await;
    let web = Web(world.over(world.clickhouse_url().to_owned()));
    let path = "/telemetry/timeseries";
    let (headers, plain) = web.read(path, "identity").await;
    assert!(plain.len() >= 1_024 && !headers.contains_key("content-encoding"));
    for (offered, encoding) in [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
    ] {
        let (headers, packed) = web.read(path, offered).await;
        assert_eq!(all(&headers, "content-encoding"), [encoding], "{offered}");
        let vary = all(&headers, "vary").join(", ").to_lowercase();
        assert!(vary.contains("accept-encoding"), "{vary}");
        let inflated = match encoding {
            "gzip" => inflate(&packed),
            _ => zstd::decode_all(&packed[..]).unwrap(),
        };
        assert_eq!(inflated, plain, "{offered}");
    }
    // An event is less.
    let (headers, small) = web.read("/observe/events", "gzip, zstd").await;
    assert!(small.len() < 1_024 && !headers.contains_key("content-encoding"));
    assert_eq!(serde_json::from_slice::<Value>(&small).unwrap()["total"], 1);
}

fn inflate(packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut plain).unwrap();
    plain
}
