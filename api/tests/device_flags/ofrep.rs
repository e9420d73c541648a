use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sluice_api::service;

use crate::world::{World, eventually};

const ALL: &str = "/ofrep/v1/evaluate/flags";
const ONE: &str = "/ofrep/v1/evaluate/flags/new-checkout";

async fn world() -> World {
    let world = World::start().await;
    let checkout = world.flag("new-checkout").await;
    world
        .rule(
            checkout,
            "user_list",
            json!({"userIds": ["user-1"]}),
            json!(true),
        )
        .await;
    let plan = json!({"conditions": [{"attribute": "plan", "operator": "eq", "values": ["pro"]},
                                     {"attribute": "platform", "operator": "eq", "values": ["ios"]}]});
    let theme = world.flag("theme").await;
    world.rule(theme, "attribute", plan, json!(true)).await;
    let off = world.flag("off").await;
    world
        .run(&format!(
            "update flags set enabled = false where id = {off}"
        ))
        .await;
    world
}

fn context() -> Value {
    json!({"context": {"targetingKey": "user-1", "plan": "pro", "platform": "ios"}})
}

#[tokio::test]
async fn one_flag_is_evaluated_for_the_keys_project() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("publishable").await);
    let expected =
        json!({"key": "new-checkout", "reason": "TARGETING_MATCH", "variant": "On", "value": true});
    let answer = world
        .post(ONE, &[("authorization", &bearer)], &context())
        .await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, expected.clone())
    );
    let key = world.key("viewer").await;
    let answer = world.post(ONE, &[("x-api-key", &key)], &context()).await;
    assert_eq!(
        answer.status,
        StatusCode::OK,
        "a key is known as soon as it exists: {}",
        answer.body
    );
    assert_eq!(answer.json(), expected);
    let answer = world
        .post(ONE, &[("authorization", &bearer)], &json!({}))
        .await;
    assert_eq!(answer.json()["reason"], "DEFAULT");
}

#[tokio::test]
async fn all_flags_that_are_on_are_evaluated_once() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let authorization = ("authorization", bearer.as_str());
    let first = world.post(ALL, &[authorization], &context()).await;
    let flag = |key: &str| json!({"key": key, "reason": "TARGETING_MATCH", "variant": "On", "value": true});
    assert_eq!(
        first.json(),
        json!({"flags": [flag("new-checkout"), flag("theme")]})
    );
    let known = ("if-none-match", first.header("etag"));
    let again = world.post(ALL, &[authorization, known], &context()).await;
    assert_eq!(
        (again.status, again.body.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    let other = json!({"context": {"targetingKey": "user-2"}});
    assert_eq!(
        world
            .post(ALL, &[authorization, known], &other)
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn failures_are_those_of_the_protocol() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let authorization = ("authorization", bearer.as_str());
    for missing in ["off", "unknown"] {
        let path = format!("{ALL}/{missing}");
        let answer = world.post(&path, &[authorization], &context()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.json()["key"], missing);
        assert_eq!(answer.json()["errorCode"], "FLAG_NOT_FOUND");
    }
    let long = json!({"context": {"a": "x".repeat(3000)}});
    for (body, code) in [
        (json!({"context": 7}), "PARSE_ERROR"),
        (long, "INVALID_CONTEXT"),
    ] {
        let answer = world.post(ONE, &[authorization], &body).await;
        assert_eq!(
            (answer.status, answer.json()["errorCode"].as_str()),
            (StatusCode::BAD_REQUEST, Some(code))
        );
        assert_eq!(answer.json()["key"], "new-checkout");
        let answer = world.post(ALL, &[authorization], &body).await;
        assert_eq!(
            (answer.status, answer.json()["errorCode"].as_str()),
            (StatusCode::BAD_REQUEST, Some(code))
        );
    }
    assert_eq!(
        world.post(ONE, &[], &context()).await.status,
        StatusCode::UNAUTHORIZED
    );
    let wrong = world
        .post(ONE, &[("authorization", "Bearer wrong")], &context())
        .await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_that_was_used_shows_when() {
    let world = world().await;
    let (key, idle) = (world.key("publishable").await, world.key("viewer").await);
    let before = Utc::now();
    let answer = world.post(ONE, &[("x-api-key", &key)], &context()).await;
    assert_eq!(answer.status, StatusCode::OK);
    service::finish(&world.state).await;
    let used = async |key: &str| -> Option<DateTime<Utc>> {
        let hash = hex::encode(Sha256::digest(key));
        sqlx::query_scalar("select last_used_at from api_keys where key_hash = $1")
            .bind(hash)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    assert!(used(&key).await.is_some_and(|at| at >= before));
    assert_eq!(used(&idle).await, None);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let authorization = ("authorization", bearer.as_str());
    assert_eq!(
        world.post(ONE, &[authorization], &context()).await.status,
        StatusCode::OK
    );
    world.run("update api_keys set is_active = false").await;
    eventually("the revocation", async || {
        let answer = world.post(ONE, &[authorization], &context()).await;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
}

/// The Python provider looks reasons up in an enumeration, and variants without asking.
#[tokio::test]
async fn answers_are_in_the_words_that_published_clients_know() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    world
        .run(
            "insert into segments (project_id, key, name, match_type)
             select id, 'all', 'all', 'any' from projects;
             insert into segment_conditions
                 (project_id, segment_id, attribute, operator, condition_values, sort_order)
             select project_id, id, 'plan', 'exists', '{}', 0 from segments",
        )
        .await;
    let flag = world.flag("by-segment").await;
    world
        .rule(flag, "segment", json!({"segmentKey": "all"}), json!(true))
        .await;
    world.run("update flag_variations set name = null").await;
    let path = format!("{ALL}/by-segment");
    let answer = world
        .post(&path, &[("authorization", &bearer)], &context())
        .await;
    let expected =
        json!({"key": "by-segment", "reason": "TARGETING_MATCH", "variant": "", "value": true});
    assert_eq!(answer.json(), expected);
}

/// A key that is no text is the caller's mistake; taken for none, it would put
/// everybody into one bucket.
#[tokio::test]
async fn a_targeting_key_is_a_text_or_absent() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let authorization = ("authorization", bearer.as_str());
    for wrong in [json!(7), json!(true), json!(["user-1"]), json!({"id": 1})] {
        let body = json!({"context": {"targetingKey": wrong}});
        for path in [ONE, ALL] {
            let answer = world.post(path, &[authorization], &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(answer.json()["errorCode"], "INVALID_CONTEXT");
            let details = answer.json()["errorDetails"].as_str().unwrap().to_owned();
            assert!(details.contains("targetingKey"), "{details}");
        }
    }
    for absent in [
        json!({"context": {"targetingKey": null, "plan": "pro"}}),
        json!({"context": {"targetingKey": "", "deviceId": "user-2"}}),
        json!({"context": null}),
        json!({}),
    ] {
        let answer = world.post(ONE, &[authorization], &absent).await;
        assert_eq!(answer.json()["reason"], "DEFAULT", "{}", answer.body);
    }
    let device = json!({"context": {"deviceId": "user-1"}});
    let answer = world.post(ONE, &[authorization], &device).await;
    assert_eq!(answer.json()["reason"], "TARGETING_MATCH");
}

/// The protocol requires no body, and no content type of a body that is not there.
#[tokio::test]
async fn a_request_without_a_body_has_no_context() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    for (path, reason) in [(ONE, "/reason"), (ALL, "/flags/0/reason")] {
        let request = http::Request::post(path).header("authorization", &bearer);
        let request = request.body(axum::body::Body::empty()).unwrap();
        let answer = world.send(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
        let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
        assert_eq!(body.pointer(reason), Some(&json!("DEFAULT")), "{body}");
        let authorization = [("authorization", bearer.as_str())];
        let null = world.post(path, &authorization, &Value::Null).await;
        assert_eq!(null.json(), body);
    }
}

/// What a context calls like one of our fields but is no text stays an attribute.
#[tokio::test]
async fn members_that_are_no_texts_are_attributes() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let flag = world.flag("by-version").await;
    let version = json!({"attribute": "runtimeVersion", "operator": "gte", "values": ["7"]});
    let config = json!({"conditions": [version]});
    world.rule(flag, "attribute", config, json!(true)).await;
    let path = format!("{ALL}/by-version");
    for (version, reason) in [(json!(7), "TARGETING_MATCH"), (json!(6), "DEFAULT")] {
        let body = json!({"context": {"runtimeVersion": version}});
        let answer = world
            .post(&path, &[("authorization", &bearer)], &body)
            .await;
        assert_eq!(answer.json()["reason"], reason);
    }
}

/// The protocol puts no bound on keys; clients percent-encode them.
#[tokio::test]
async fn keys_of_any_characters_are_looked_up_and_named() {
    let world = world().await;
    let bearer = format!("Bearer {}", world.key("viewer").await);
    let authorization = ("authorization", bearer.as_str());
    world.flag("a.b_C-1").await;
    let found = world
        .post(&format!("{ALL}/a%2Eb_C-1"), &[authorization], &context())
        .await;
    assert_eq!(found.json()["key"], "a.b_C-1");
    for (encoded, key) in [
        ("a%2Fb", "a/b"),
        ("%F0%9F%9A%80%20x", "🚀 x"),
        ("%22", "\""),
    ] {
        let answer = world
            .post(&format!("{ALL}/{encoded}"), &[authorization], &context())
            .await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.json()["key"], key);
        assert_eq!(answer.json()["errorCode"], "FLAG_NOT_FOUND");
    }
}
