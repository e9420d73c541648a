//! The served description, whole: a change of it is a change of what clients
//! were promised, and is looked at as such.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use sluice_api::ApiState;
use sluice_api::state::Policy;
use sqlx::PgPool;
use tower::ServiceExt as _;

#[tokio::test]
async fn the_document_is_what_was_promised() {
    // It is served without asking anybody.
    let nowhere = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let state = ApiState::new(nowhere, clickhouse::Client::default(), Policy::default());
    let request = Request::get("/v1/ota/openapi.json").body(Body::empty());
    let answer = sluice_api::router(state).oneshot(request.unwrap()).await;
    let body = answer.unwrap().into_body().collect().await.unwrap();
    let document: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    insta::assert_json_snapshot!("openapi", document);
}
