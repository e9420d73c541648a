//! What holds for every route of this area: roles, projects, a database that is
//! away, and a description.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_api::ApiState;
use sluice_api::config::PostgresConfig;
use sluice_api::state::Policy;
use sluice_engines::testing::machine_time;
use sluice_service::config::Secret;
use tower::ServiceExt as _;

use crate::world::{OURS, Part, THEIRS, World, authorized};

/// Method, path and least role of each route for people and programs.
const ROUTES: [(&str, &str, &str); 13] = [
    ("GET", "/updates", "viewer"),
    ("POST", "/updates", "editor"),
    ("PATCH", "/updates/{id}", "editor"),
    ("DELETE", "/updates/{id}", "editor"),
    ("POST", "/updates/{id}/republish", "editor"),
    ("GET", "/updates/{id}/history", "viewer"),
    ("POST", "/assets/upload", "editor"),
    ("GET", "/builds", "viewer"),
    ("POST", "/builds", "editor"),
    ("POST", "/builds/{id}/publish", "editor"),
    ("DELETE", "/builds/{id}", "editor"),
    ("GET", "/gc", "viewer"),
    ("POST", "/gc", "admin"),
];
const ROLLBACK: (&str, &str, &str) = ("POST", "/rollback", "editor");

fn routes() -> impl Iterator<Item = (&'static str, String, &'static str)> {
    let routes = ROUTES.into_iter().chain([ROLLBACK]);
    routes.map(|(method, path, least)| (method, path.replace("{id}", "999999"), least))
}

#[tokio::test]
async fn roles_are_what_the_contract_says() {
    let world = World::start().await;
    let order = ["publishable", "viewer", "editor", "admin"];
    let rank = |role: &str| order.iter().position(|other| *other == role).unwrap();
    for (method, path, least) in routes() {
        for role in order {
            let answer = world.call_as((OURS, role), method, &path, None).await;
            let is_refused = rank(role) < rank(least);
            assert_eq!(
                answer.status == 403,
                is_refused,
                "{role} {method} {path}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn credential_project_and_role_are_checked_in_this_order() {
    let world = World::start().await;
    for (method, path, _) in routes() {
        let send = async |headers: &[(&str, &str)]| {
            let request = http::Request::builder()
                .method(method)
                .uri(format!("/v1/ota{path}"));
            let request = headers
                .iter()
                .fold(request, |request, (n, v)| request.header(*n, *v));
            world
                .send(request.body(axum::body::Body::empty()).unwrap())
                .await
                .status
                .as_u16()
        };
        let viewer = "Bearer dsp_ours_viewer";
        assert_eq!(send(&[("x-project", OURS)]).await, 401, "{method} {path}");
        assert_eq!(
            send(&[("authorization", viewer)]).await,
            400,
            "{method} {path}"
        );
        assert_eq!(
            send(&[("authorization", viewer), ("x-project", THEIRS)]).await,
            404,
            "{method} {path}"
        );
    }
    assert_eq!(world.notes().await, (0, 0));
}

#[tokio::test]
async fn without_postgres_every_route_says_so() {
    let world = World::start().await;
    world.pool.close().await;
    for (method, path, _) in routes() {
        let answer = world.call_as((OURS, "admin"), method, &path, None).await;
        answer.refused(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "2", "{method} {path}");
    }
}

#[tokio::test]
async fn a_postgres_that_is_silent_is_away_too() {
    // Takes connections, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/db", silent.local_addr().unwrap());
    let config = PostgresConfig {
        url: Secret::new(url),
        max_connections: 1,
    };
    let pool = config.pool().unwrap();
    let state = ApiState::new(pool, clickhouse::Client::default(), Policy::default());
    let request = authorized("GET", "/updates", OURS, "viewer");
    let request = request.body(axum::body::Body::empty()).unwrap();
    let sent = machine_time();
    let answer = sluice_api::router(state).oneshot(request).await.unwrap();
    let took = machine_time().saturating_sub(sent);
    assert!(took <= Duration::from_secs(2), "the contract's; {took:?}");
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "2");
}

#[tokio::test]
async fn without_storage_uploads_say_so_and_leave_nothing() {
    let world = World::start().await;
    let gone = world.dir.path().join("staging");
    std::fs::remove_dir_all(&gone).unwrap();
    let part = Part::File("a.js", "", b"a");
    let answer = world.upload("/assets/upload", &[part]).await;
    answer.refused(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "2");
    assert_eq!(world.value("select count(*) from blobs").await, json!(0));
    std::fs::create_dir(&gone).unwrap();
    world.asset("a.js", b"a", true).await;
}

#[tokio::test]
async fn every_route_is_described() {
    let world = World::start().await;
    let request = authorized("GET", "/openapi.json", OURS, "viewer");
    let document = world
        .send(request.body(axum::body::Body::empty()).unwrap())
        .await
        .of(200);
    for (method, path, least) in ROUTES.into_iter().chain([ROLLBACK]) {
        let operation = &document["paths"][format!("/v1/ota{path}")][method.to_lowercase()];
        let at = format!("{method} {path}");
        assert!(operation["summary"].is_string(), "{at}");
        assert_eq!(
            operation["security"],
            json!([{ "bearer": [least] }]),
            "{at}"
        );
        let mut statuses = vec!["400", "401", "403", "404", "500", "503"];
        if operation["requestBody"].is_object() {
            statuses.extend(["413", "415"]);
        }
        for status in statuses {
            assert!(operation["responses"][status].is_object(), "{at} {status}");
        }
        let success = operation["responses"]
            .as_object()
            .unwrap()
            .keys()
            .any(|status| status.starts_with('2'));
        assert!(success, "{at}");
        let parameters = operation["parameters"].as_array().unwrap();
        let is_described = |parameter: &Value| parameter["schema"].is_object();
        assert!(parameters.iter().all(is_described), "{at}");
        assert_eq!(
            path.contains("{id}"),
            parameters.iter().any(|p| p["name"] == "id"),
            "{at}"
        );
    }
    for (method, path) in [("delete", "/updates/{id}"), ("delete", "/builds/{id}")] {
        assert!(
            document["paths"][format!("/v1/ota{path}")][method]["responses"]["409"].is_object()
        );
    }
    let asset = &document["paths"]["/v1/ota/assets/{key}"]["get"];
    for status in ["200", "206", "304", "400", "404", "416", "429", "503"] {
        assert!(asset["responses"][status].is_object(), "{status}");
    }
    for path in ["/v1/ota/builds", "/v1/ota/assets/upload"] {
        assert!(
            document["paths"][path]["post"]["responses"]["408"].is_object(),
            "{path}"
        );
    }
    let form = &document["paths"]["/v1/ota/builds"]["post"]["requestBody"]["content"];
    assert!(form["multipart/form-data"].is_object());
}
