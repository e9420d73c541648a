//! Two editors do not overwrite each other (flags.md §13).

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::flags::boolean;
use crate::world::{Answer, EDITOR, World, request, with_body};

/// A change of the version that `tag` names.
async fn change(world: &World, path: &str, body: &Value, tag: Option<&str>) -> Answer {
    // Each change at a time of its own.
    world.wait(TimeDelta::microseconds(1));
    let request = request(Method::PATCH, path)
        .header("authorization", format!("Bearer {}", EDITOR.token))
        .header("x-project", EDITOR.project);
    let request = match tag {
        Some(tag) => request.header("if-match", tag),
        None => request,
    };
    world.send(with_body(request, Some(body))).await
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_flag_with_all_that_belongs_to_it_has_one_version() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let variation = format!("{path}/variations/{}", flag["variations"][0]["id"]);
    let rule = json!({"ruleType": "force", "variantValue": true, "ruleConfig": {}});
    let rule = world.post(EDITOR, &format!("{path}/rules"), &rule).await;
    let rule = format!("{path}/rules/{}", rule.expect(201)["id"]);
    for (path_of_change, body) in [
        (path.clone(), json!({"name": "Renamed"})),
        (variation, json!({"name": "Yes"})),
        (format!("{path}/env/production"), json!({"enabled": false})),
        (rule, json!({"priority": 7})),
    ] {
        let seen = tag(&world.get(EDITOR, &path).await);
        let first = change(&world, &path_of_change, &body, Some(&seen)).await;
        let now = tag(&first);
        first.expect(200);
        assert_ne!(now, seen, "{path_of_change}");
        assert_eq!(tag(&world.get(EDITOR, &path).await), now);

        let before = world.get(EDITOR, &path).await.expect(200);
        let entries = world.audit().await.len();
        let late = change(
            &world,
            &path_of_change,
            &json!({"name": "Late", "enabled": true, "priority": 9}),
            Some(&seen),
        )
        .await;
        let refusal = late.expect(412);
        assert_eq!(refusal["code"], "precondition_failed");
        assert_eq!(world.get(EDITOR, &path).await.expect(200), before);
        assert_eq!(world.audit().await.len(), entries);

        // What is wrong in the body is said before (management.md §1.2).
        let wrong = json!({"name": " ", "value": "perhaps", "defaultValue": "perhaps",
            "variantValue": "perhaps"});
        change(&world, &path_of_change, &wrong, Some(&seen))
            .await
            .expect(400);

        let either = format!("{seen}, {now}");
        change(&world, &path_of_change, &body, Some(&either))
            .await
            .expect(200);
        change(&world, &path_of_change, &body, Some("*"))
            .await
            .expect(200);
        change(&world, &path_of_change, &body, None)
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn a_segment_has_a_version() {
    let world = World::start().await;
    let segment = json!({"name": "s", "matchType": "all", "conditions": []});
    let segment = world.post(EDITOR, "/segments", &segment).await.expect(201);
    let path = format!("/segments/{}", segment["id"]);
    let seen = tag(&world.get(EDITOR, &path).await);
    let first = change(&world, &path, &json!({"name": "First"}), Some(&seen)).await;
    assert_ne!(tag(&first), seen);
    first.expect(200);
    change(&world, &path, &json!({"name": "Late"}), Some(&seen))
        .await
        .expect(412);
    change(&world, &path, &json!({"name": " "}), Some(&seen))
        .await
        .expect(400);
    let stored = world.get(EDITOR, &path).await.expect(200);
    assert_eq!(stored["name"], "First");
}
