use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_api::flags::FlagLimits;
use sluice_api::state::Policy;

use crate::world::{SLUG, World};

const PATH: &str = "/v1/ota/flag-evaluations-bulk";
const DEFINITIONS: &str = "/v1/ota/flag-definitions/my-app";
const STREAM: &str = "/v1/ota/flag-stream/my-app";
const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";

async fn flags(world: &World, more: Value) -> Value {
    let mut body = json!({"projectSlug": SLUG, "deviceId": "device-1", "channel": "production"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let answer = world
        .post(PATH, &[("authorization", "Bearer wrong")], &body)
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()["flags"].clone()
}

#[tokio::test]
async fn every_flag_that_is_on_is_evaluated() {
    let world = World::start().await;
    assert_eq!(flags(&world, json!({})).await, json!({}));

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
    let theme = world.flag("theme").await;
    let plan = json!({"conditions": [{"attribute": "plan", "operator": "eq", "values": ["pro"]}]});
    world.rule(theme, "attribute", plan, json!(true)).await;
    let off = world.flag("off").await;
    world
        .run(&format!(
            "update flags set enabled = false where id = {off}"
        ))
        .await;

    let on = |reason: &str| json!({"value": true, "variant": "On", "reason": reason});
    let default = json!({"value": false, "variant": "Off", "reason": "DEFAULT"});
    assert_eq!(
        flags(
            &world,
            json!({"targetingKey": "user-1", "attributes": {"plan": "free"}})
        )
        .await,
        json!({"new-checkout": on("TARGETING_MATCH"), "theme": default})
    );
    assert_eq!(
        flags(
            &world,
            json!({"targetingKey": "", "attributes": {"plan": "pro"}})
        )
        .await,
        json!({"new-checkout": default, "theme": on("TARGETING_MATCH")})
    );
    let body = json!({"projectSlug": SLUG, "deviceId": "d"});
    let answer = world
        .post(&format!("{PATH}?includeDisabled=true"), &[], &body)
        .await;
    let disabled = json!({"value": null, "variant": null, "reason": "DISABLED"});
    assert_eq!(answer.json()["flags"]["off"], disabled);
}

#[tokio::test]
async fn the_sdk_names_its_update_among_the_attributes() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world.update(UPDATE, "group").await;
    world
        .run(&format!(
            "insert into release_links (project_id, group_id, channel, flag_id, enabled)
             select project_id, 'group', 'production', id, true from flags where id = {flag}"
        ))
        .await;
    let branch = json!({"matchBy": "branch", "branch": "main"});
    let other = world.flag("by-branch").await;
    world.rule(other, "ota_update", branch, json!(true)).await;
    for body in [
        json!({"attributes": {"update_id": UPDATE}}),
        json!({"updateId": UPDATE}),
    ] {
        let flags = flags(&world, body).await;
        assert_eq!(flags["new-checkout"]["reason"], "RELEASE_OVERRIDE");
        assert_eq!(flags["by-branch"]["reason"], "TARGETING_MATCH");
    }
    let flags = flags(&world, json!({})).await;
    assert_eq!(flags["new-checkout"]["reason"], "DEFAULT");
    assert_eq!(flags["by-branch"]["reason"], "DEFAULT");
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let world = World::start().await;
    let many: Value = (0..65)
        .map(|n| (n.to_string(), json!(n)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (body, status, named) in [
        (json!({"deviceId": "d"}), 400, "projectSlug"),
        (json!({"projectSlug": SLUG}), 400, "deviceId"),
        (
            json!({"projectSlug": "", "deviceId": "d"}),
            400,
            "projectSlug",
        ),
        (
            json!({"projectSlug": SLUG, "deviceId": ""}),
            400,
            "deviceId",
        ),
        (json!({"projectSlug": SLUG, "deviceId": 7}), 400, "deviceId"),
        (
            json!({"projectSlug": SLUG, "deviceId": "d", "attributes": []}),
            400,
            "attributes",
        ),
        (
            json!({"projectSlug": SLUG, "deviceId": "d", "attributes": many}),
            400,
            "attributes",
        ),
        (
            json!({"projectSlug": SLUG, "deviceId": "d", "attributes": {"a": "x".repeat(2049)}}),
            400,
            "attributes.a",
        ),
        (
            json!({"projectSlug": "unknown", "deviceId": "d"}),
            404,
            "Project not found",
        ),
        (
            json!({"projectSlug": SLUG, "deviceId": "x".repeat(1024 * 1024)}),
            413,
            "1048576",
        ),
    ] {
        let answer = world.post(PATH, &[], &body).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(named), "{error} should name {named}");
    }
}

/// Routes whose clock stands still: no token flows in.
async fn limited(flag_limits: FlagLimits) -> (World, axum::Router) {
    let world = World::with_policy(Policy {
        flag_limits,
        ..Policy::default()
    })
    .await;
    let now = chrono::Utc::now();
    let clock = sluice_api::clock::Clock::from_fn(move || now);
    let router = sluice_api::router(world.state.clone().with_clock(clock));
    (world, router)
}

#[tokio::test]
async fn a_device_and_a_project_are_held_to_their_rates() {
    let flag_limits = FlagLimits {
        project_per_s: 5.0,
        device_per_s: 2.0,
        ..FlagLimits::default()
    };
    let (_world, router) = limited(flag_limits).await;
    let statuses = async |device: &str, times: usize| {
        let mut statuses = Vec::new();
        for _ in 0..times {
            let path = format!("/v1/ota/flag-definitions/{SLUG}?deviceId={device}");
            let request = http::Request::get(path)
                .body(axum::body::Body::empty())
                .unwrap();
            let answer = tower::ServiceExt::oneshot(router.clone(), request)
                .await
                .unwrap();
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                assert_eq!(answer.headers()["retry-after"], "1");
            }
            statuses.push(answer.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses("a", 3).await, [200, 200, 429]);
    assert_eq!(statuses("b", 2).await, [200, 200]);
    assert_eq!(statuses("c", 2).await, [200, 429]);
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere() {
    let world = World::start().await;
    let request = http::Request::options(PATH)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type")
        .body(axum::body::Body::empty())
        .unwrap();
    let answer = world.send(request).await;
    assert!(answer.status().is_success());
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let origin = [("origin", "https://app.example")];
    let answer = world.get("/v1/ota/flag-definitions/my-app", &origin).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

/// Attributes and lists on their bounds are taken, and evaluated.
#[tokio::test]
async fn a_request_on_every_bound_is_taken() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    let long = "x".repeat(2048);
    let ends = json!({"conditions": [{"attribute": "a63", "operator": "eq", "values": [long]}]});
    world.rule(flag, "attribute", ends, json!(true)).await;
    let attributes: serde_json::Map<_, _> = (0..64)
        .map(|n| (format!("a{n}"), json!("x".repeat(2048))))
        .collect();
    let flags = flags(&world, json!({ "attributes": attributes })).await;
    assert_eq!(flags["new-checkout"]["reason"], "TARGETING_MATCH");
}

/// Weights below one percent count, which the original server cut to none.
#[tokio::test]
async fn fractions_of_a_percent_are_shares_too() {
    let world = World::start().await;
    let flag = world.flag("f").await;
    // `f` + `2` is in bucket 6 (flags.md §7.1, row 17).
    let rollout = json!({"rollout": [
        {"variationId": 1, "weight": 5.6}, {"variationId": 2, "weight": 0.5},
        {"variationId": 1, "weight": 93.9}]});
    world
        .rule(flag, "percentage_rollout", rollout, json!(null))
        .await;
    let second = flags(&world, json!({"targetingKey": "2"})).await;
    assert_eq!(
        second["f"],
        json!({"value": false, "variant": "Off", "reason": "SPLIT"})
    );
}

/// One address cannot take all that a project's devices may, whatever it calls
/// itself (flags.md §13).
#[tokio::test]
async fn an_address_is_held_to_its_rate() {
    let flag_limits = FlagLimits {
        address_per_s: 2.0,
        ..FlagLimits::default()
    };
    let (_world, router) = limited(flag_limits).await;
    let mut device = 0;
    let mut status = async |path: &str, address: &str| {
        device += 1;
        let address: std::net::SocketAddr = address.parse().unwrap();
        let body = json!({"projectSlug": SLUG, "deviceId": format!("d{device}")}).to_string();
        let (method, body) = match path {
            PATH => ("POST", body),
            _ => ("GET", String::new()),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{path}?deviceId=d{device}"))
            .header("content-type", "application/json")
            .extension(axum::extract::ConnectInfo(address))
            .body(axum::body::Body::from(body))
            .unwrap();
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status(PATH, "192.0.2.1:1").await, 200);
    assert_eq!(status(STREAM, "192.0.2.1:2").await, 200);
    for path in [PATH, STREAM, DEFINITIONS] {
        assert_eq!(status(path, "192.0.2.1:3").await, 429, "{path}");
    }
    assert_eq!(status(PATH, "192.0.2.2:1").await, 200);
}

/// An app that cuts a string inside an emoji still gets its flags.
#[tokio::test]
async fn half_an_emoji_costs_nobody_the_flags() {
    let world = World::start().await;
    world.flag("new-checkout").await;
    let body = r#"{"projectSlug":"my-app","deviceId":"d","attributes":{"city":"Z\ud83d"}}"#;
    let request = http::Request::post(PATH)
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body))
        .unwrap();
    assert_eq!(world.send(request).await.status(), StatusCode::OK);
}
