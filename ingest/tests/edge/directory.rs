//! The directory against a real Postgres.

use sqlx::PgPool;

use crate::support::*;

fn of(slug: &str) -> String {
    launch().replace("my-app", slug)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_project_works_at_once() {
    let pool = database().await;
    let world = World::with(pool.clone(), Setting::default()).await;
    // Devices may be there before their project.
    assert_eq!(
        world.post(of("new")).await.json()["error"],
        "Project not found"
    );
    let fresh = add_project(&pool, "fresh").await;
    assert_eq!(world.post(of("fresh")).await.status, 204);
    assert_eq!(logged(&world.health)[0].project, Ok(fresh));
    add_project(&pool, "new").await;
    eventually("the project is heard of", async || {
        world.post(of("new")).await.status == 204
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_answers_to_its_uuid() {
    let pool = database().await;
    let uuid: String = sqlx::query_scalar("select uuid::text from projects")
        .fetch_one(&pool)
        .await
        .unwrap();
    let world = World::with(pool, Setting::default()).await;
    for name in [uuid.clone(), uuid.to_uppercase()] {
        assert_eq!(world.post(of(&name)).await.status, 204);
    }
    assert!(
        logged(&world.health)
            .iter()
            .all(|request| request.project == Ok(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_key_was_used_is_known_to_a_minute() {
    let pool = database().await;
    for key in ["idle", "refused"] {
        add_key(&pool, 1, key, "publishable").await;
    }
    let world = World::with(pool.clone(), Setting::default()).await;
    let used = async || -> Vec<(String, bool)> {
        world.directory.store_used_keys().await;
        sqlx::query_as(
            "select key_hash, last_used_at > now() - interval '1 minute' from api_keys
             where last_used_at is not null",
        )
        .fetch_all(&pool)
        .await
        .unwrap()
    };
    let report = async |key: &str, project: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", &*bearer), ("X-Project", project)];
        world.evaluate(&headers).await.status
    };
    assert_eq!(report(KEY, "").await, 204);
    assert_eq!(report("refused", "elsewhere").await, 404);
    assert_eq!(used().await, [(hash(KEY), true)]);
    // Once a minute is enough; and what is not used stays as it was.
    for ago in ["30 seconds", "2 minutes"] {
        let then = format!(
            "update api_keys set last_used_at = now() - interval '{ago}' where key_hash = $1 returning last_used_at::text"
        );
        let then: String = sqlx::query_scalar(&then)
            .bind(hash(KEY))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(report(KEY, "").await, 204);
        assert_eq!(used().await, [(hash(KEY), true)]);
        let now = "select last_used_at::text from api_keys where key_hash = $1";
        let now: String = sqlx::query_scalar(now)
            .bind(hash(KEY))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(now == then, ago == "30 seconds");
    }
    let stale = "update api_keys set last_used_at = now() - interval '1 hour'";
    sqlx::query(stale).execute(&pool).await.unwrap();
    assert!(used().await.iter().all(|(_, is_recent)| !is_recent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_acts_on_its_own_project() {
    let pool = database().await;
    let other = add_project(&pool, "other").await;
    add_key(&pool, other, "dsp_publishable", "publishable").await;
    let world = World::with(pool, Setting::default()).await;
    let bearer = format!("bearer {KEY}");
    for (headers, status) in [
        (vec![("Authorization", &*bearer)], 204),
        (vec![("Authorization", "Bearer dsp_publishable")], 204),
        (
            vec![("Authorization", &*bearer), ("X-Project", "my-app")],
            204,
        ),
        (vec![("Authorization", &*bearer), ("X-Project", " ")], 204),
        (
            vec![("Authorization", &*bearer), ("X-Project", "other")],
            404,
        ),
        (
            vec![("Authorization", &*bearer), ("X-Project", "No Such!")],
            404,
        ),
        (vec![("X-Project", "my-app")], 401),
        (vec![("Authorization", "Bearer unknown")], 401),
        (vec![("Authorization", "Basic unknown")], 401),
    ] {
        let reply = world.evaluate(&headers).await;
        assert_eq!(reply.status, status, "{headers:?}");
        if status == 401 {
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let projects: Vec<_> = logged(&world.evaluations)
        .into_iter()
        .map(|r| r.project)
        .collect();
    assert_eq!(projects, [Ok(1), Ok(other), Ok(1), Ok(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_works_at_once_and_a_revoked_one_soon_no_more() {
    let pool = database().await;
    let world = World::with(pool.clone(), Setting::default()).await;
    add_key(&pool, 1, "dsp_new", "viewer").await;
    let bearer = [("Authorization", "Bearer dsp_new")];
    assert_eq!(world.evaluate(&bearer).await.status, 204);
    let revoke = "update api_keys set is_active = false where key_hash = $1";
    sqlx::query(revoke)
        .bind(hash("dsp_new"))
        .execute(&pool)
        .await
        .unwrap();
    let revoked = tokio::time::Instant::now();
    eventually("it is refused", async || {
        world.evaluate(&bearer).await.status == 401
    })
    .await;
    // The promise of the contract, not a measurement.
    assert!(revoked.elapsed().as_secs() < 5);
}

async fn add_session(pool: &PgPool, token: &str, member: bool, live: &str) -> i64 {
    let user: i64 =
        sqlx::query_scalar("insert into users (email, name) values ($1, $1) returning id")
            .bind(token)
            .fetch_one(pool)
            .await
            .unwrap();
    if member {
        sqlx::query("insert into memberships (project_id, user_id, role) values (1, $1, 'viewer')")
            .bind(user)
            .execute(pool)
            .await
            .unwrap();
    }
    let insert = "insert into sessions (token_hash, user_id, expires_at) \
                  values ($1, $2, now() + $3::interval)";
    sqlx::query(insert)
        .bind(hash(token))
        .bind(user)
        .bind(live)
        .execute(pool)
        .await
        .unwrap();
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_acts_where_its_user_is_a_member() {
    let pool = database().await;
    add_session(&pool, "member", true, "1 day").await;
    add_session(&pool, "stranger", false, "1 day").await;
    add_session(&pool, "expired", true, "-1 second").await;
    let off = add_session(&pool, "deactivated", true, "1 day").await;
    let deactivate = "update users set is_active = false where id = $1";
    sqlx::query(deactivate)
        .bind(off)
        .execute(&pool)
        .await
        .unwrap();
    let world = World::with(pool, Setting::default()).await;
    for (token, project, status) in [
        ("Bearer member", "my-app", 204),
        ("Bearer member", "", 400),
        ("Bearer member", "nobody", 404),
        ("Bearer stranger", "my-app", 404),
        ("Bearer expired", "my-app", 401),
        ("Bearer deactivated", "my-app", 401),
    ] {
        let reply = world
            .evaluate(&[("Authorization", token), ("X-Project", project)])
            .await;
        assert_eq!(reply.status, status, "{token} {project}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_refused_soon() {
    let pool = database().await;
    add_session(&pool, "leaving", true, "1 day").await;
    let world = World::with(pool.clone(), Setting::default()).await;
    let headers = [("Authorization", "Bearer leaving"), ("X-Project", "my-app")];
    assert_eq!(world.evaluate(&headers).await.status, 204);
    sqlx::query("delete from sessions")
        .execute(&pool)
        .await
        .unwrap();
    let ended = tokio::time::Instant::now();
    eventually("it is refused", async || {
        world.evaluate(&headers).await.status == 401
    })
    .await;
    assert!(ended.elapsed().as_secs() < 5);
}
