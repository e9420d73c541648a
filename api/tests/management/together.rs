//! Many at once: one makes it, the others are told so, and nobody sees a fault.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{ADMIN, Answer, EDITOR, World};

const CALLERS: usize = 50;

async fn all_at_once(world: &World, path: &str, body: &Value) -> Vec<Answer> {
    let caller = if path == "/projects" { ADMIN } else { EDITOR };
    join_all((0..CALLERS).map(|_| world.post(caller, path, body))).await
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status)
        .count()
}

#[tokio::test]
async fn of_many_that_make_the_same_one_succeeds() {
    let world = World::start().await;
    for (path, body, table) in [
        ("/flags", json!({ "name": "f", "key": "same" }), "flags"),
        ("/branches", json!({ "name": "same" }), "branches"),
        (
            "/channels",
            json!({ "name": "same", "branchName": "main" }),
            "channels",
        ),
        (
            "/segments",
            json!({ "name": "s", "key": "same", "matchType": "any", "conditions": [] }),
            "segments",
        ),
        (
            "/projects",
            json!({ "name": "p", "slug": "same" }),
            "projects",
        ),
    ] {
        let before = world.number(&format!("select count(*) from {table}")).await;
        let answers = all_at_once(&world, path, &body).await;
        assert_eq!(
            (count(&answers, 201), count(&answers, 409)),
            (1, CALLERS - 1),
            "{path}"
        );
        assert_eq!(
            world.number(&format!("select count(*) from {table}")).await,
            before + 1
        );
    }
    let audited = world.audit().await;
    let made = |action: &str| {
        audited
            .iter()
            .filter(|entry| entry["action"] == action)
            .count()
    };
    assert_eq!(
        [
            made("flag.created"),
            made("branch.created"),
            made("channel.created"),
            made("segment.created")
        ],
        [1; 4]
    );
}

#[tokio::test]
async fn upserts_of_the_same_all_succeed_on_one_row() {
    let world = World::start().await;
    for (path, body) in [
        (
            "/user-overrides",
            json!({ "userId": "same", "branchName": "main" }),
        ),
        (
            "/contexts",
            json!({ "kind": "user", "targetingKey": "same" }),
        ),
    ] {
        let answers = all_at_once(&world, path, &body).await;
        assert_eq!(count(&answers, 201), CALLERS, "{path}");
        assert!(
            answers
                .iter()
                .all(|answer| answer.json["id"] == answers[0].json["id"]),
            "{path}"
        );
    }
    let flag = world
        .post(EDITOR, "/flags", &json!({ "name": "f", "key": "f" }))
        .await
        .expect(201)["id"]
        .clone();
    let path = format!("/flags/{flag}/env/beta");
    let body = json!({ "enabled": true });
    let answers = join_all((0..CALLERS).map(|_| world.patch(EDITOR, &path, &body))).await;
    assert_eq!(count(&answers, 200), CALLERS);
    assert_eq!(
        world.number("select count(*) from flag_env_settings").await,
        1
    );
}

#[tokio::test]
async fn derived_keys_of_segments_are_all_different() {
    let world = World::start().await;
    let body = json!({ "name": "Beta", "matchType": "any", "conditions": [] });
    let answers = all_at_once(&world, "/segments", &body).await;
    assert_eq!(count(&answers, 201), CALLERS);
    assert_eq!(
        world
            .number("select count(distinct key) from segments")
            .await,
        CALLERS as i64
    );
}

#[tokio::test]
async fn of_many_that_delete_the_same_one_succeeds() {
    let world = World::start().await;
    let made = world
        .post(EDITOR, "/flags", &json!({ "name": "f", "key": "f" }))
        .await
        .expect(201);
    let path = format!("/flags/{}", made["id"]);
    let answers = join_all((0..CALLERS).map(|_| world.delete(EDITOR, &path))).await;
    assert_eq!(
        (count(&answers, 204), count(&answers, 404)),
        (1, CALLERS - 1)
    );
    let deleted = world.audit().await;
    assert_eq!(
        deleted
            .iter()
            .filter(|entry| entry["action"] == "flag.deleted")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_branch_that_is_being_used_is_not_deleted_under_its_user() {
    let world = World::start().await;
    for round in 0..20 {
        let branch = format!("b{round}");
        world
            .post(EDITOR, "/branches", &json!({ "name": branch }))
            .await
            .expect(201);
        let channel = json!({ "name": format!("c{round}"), "branchName": branch });
        let path = format!("/branches/{branch}");
        let (made, deleted) = tokio::join!(
            world.post(EDITOR, "/channels", &channel),
            world.delete(EDITOR, &path)
        );
        let outcome = (made.status, deleted.status);
        assert!([(201, 409), (400, 204)].contains(&outcome), "{outcome:?}");
    }
}

#[tokio::test]
async fn two_projects_cannot_both_be_deleted_as_not_the_last() {
    let world = World::start().await;
    world
        .post(ADMIN, "/projects", &json!({ "name": "p", "slug": "other" }))
        .await
        .expect(201);
    let (one, other) = tokio::join!(
        world.delete(ADMIN, "/projects/ours"),
        world.delete(ADMIN, "/projects/other")
    );
    let mut outcome = [one.status, other.status];
    outcome.sort_unstable();
    assert_eq!(outcome, [204, 409]);
}
