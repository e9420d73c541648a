//! Accounts, sessions and invites, and refusals in general (management.md §1–3).

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::state::Policy;

use crate::table::{but, refuse};
use crate::world::{ADMIN, Caller, EDITOR, THEIR_ADMIN, VIEWER, World, keys, request, with_body};

const NOBODY: Caller = Caller {
    token: "",
    project: "",
};
const STRANGER: Caller = Caller {
    token: "stranger",
    project: "ours",
};
pub(crate) const KEY: Caller = Caller {
    token: "key-ours-editor",
    project: "ours",
};

fn registration() -> Value {
    json!({ "email": " Kim@Example.test", "name": "Kim Doe", "password": "correct horse" })
}

/// A caller with a token that was just handed out.
pub(crate) fn holder(token: &str, project: &'static str) -> Caller {
    Caller {
        token: token.to_owned().leak(),
        project,
    }
}

#[tokio::test]
async fn registration_makes_an_account_with_a_furnished_project() {
    let world = World::start().await;
    let made = world
        .post(NOBODY, "/auth/register", &registration())
        .await
        .expect(201);
    assert_eq!(keys(&made), ["token", "user"]);
    assert_eq!(
        keys(&made["user"]),
        ["email", "id", "name", "projectRole", "role"]
    );
    assert_eq!(made["user"]["email"], "kim@example.test");
    assert_eq!(
        (&made["user"]["role"], &made["user"]["projectRole"]),
        (&json!("admin"), &json!("admin"))
    );
    let kim = holder(made["token"].as_str().unwrap(), "kim-doe");
    assert_eq!(kim.token.len(), 64);
    let projects = world.get(kim, "/projects").await.expect(200);
    assert_eq!(
        keys(&projects[0]),
        ["createdAt", "id", "name", "slug", "uuid"]
    );
    assert_eq!(
        (&projects[0]["name"], &projects[0]["slug"]),
        (&json!("Kim Doe's Project"), &json!("kim-doe"))
    );
    assert_eq!(
        world.get(kim, "/branches").await.expect(200)[0]["name"],
        "main"
    );
    let channels = world.get(kim, "/channels").await.expect(200);
    assert_eq!(
        (&channels[0]["name"], &channels[0]["branchName"]),
        (&json!("production"), &json!("main"))
    );
    let audit = world.get(kim, "/audit-log").await.expect(200);
    assert_eq!(
        (&audit[0]["action"], &audit[0]["actorName"]),
        (&json!("project.created"), &json!("Kim Doe"))
    );
    assert_eq!(
        audit[0]["details"],
        json!({ "name": "Kim Doe's Project", "slug": "kim-doe" })
    );

    // A derived slug that is taken gets a number; a wished one does not.
    let second = but(&registration(), &json!({ "email": "kim2@example.test" }));
    let second = world
        .post(NOBODY, "/auth/register", &second)
        .await
        .expect(201);
    let second = holder(second["token"].as_str().unwrap(), "");
    assert_eq!(
        world.get(second, "/projects").await.expect(200)[0]["slug"],
        "kim-doe-2"
    );
    let body = registration();
    refuse(
        &world,
        NOBODY,
        Method::POST,
        "/auth/register",
        &[
            (body.clone(), 409, "address"),
            (
                but(
                    &body,
                    &json!({ "email": "c@example.test", "projectSlug": "Ours!" }),
                ),
                409,
                "slug",
            ),
            (but(&body, &json!({ "email": null })), 400, "email"),
            (but(&body, &json!({ "email": "kim" })), 400, "email"),
            (but(&body, &json!({ "name": " " })), 400, "name"),
            (
                but(&body, &json!({ "password": "1234567" })),
                400,
                "at least 8 characters",
            ),
            (
                but(
                    &body,
                    &json!({ "email": "c@example.test", "projectSlug": "!!" }),
                ),
                400,
                "projectSlug",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn registration_can_be_closed_once_somebody_is_there() {
    let policy = Policy {
        close_registration: true,
        ..Policy::default()
    };
    let world = World::with_policy(policy).await;
    world
        .post(NOBODY, "/auth/register", &registration())
        .await
        .expect(403);
    world
        .run("delete from memberships; delete from sessions; delete from users")
        .await;
    let status = world.get(NOBODY, "/auth/setup-status").await.expect(200);
    assert_eq!(status, json!({ "needsSetup": true, "userCount": 0 }));
    world
        .post(NOBODY, "/auth/register", &registration())
        .await
        .expect(201);
    let status = world.get(NOBODY, "/auth/setup-status").await.expect(200);
    assert_eq!(status, json!({ "needsSetup": false, "userCount": 1 }));
}

#[tokio::test]
async fn sessions_begin_by_password_and_end_by_logout_expiry_or_deactivation() {
    let world = World::start().await;
    let first = world
        .post(NOBODY, "/auth/register", &registration())
        .await
        .expect(201);
    let login = json!({ "email": "KIM@example.test ", "password": "correct horse" });
    let session = world.post(NOBODY, "/auth/login", &login).await.expect(200);
    assert_eq!(keys(&session), ["token", "user"]);
    assert_eq!(session["user"]["projectRole"], Value::Null);
    let first = holder(first["token"].as_str().unwrap(), "kim-doe");
    let second = holder(session["token"].as_str().unwrap(), "kim-doe");
    assert_eq!(
        world.get(second, "/auth/me").await.expect(200)["projectRole"],
        "admin"
    );
    // A project that is not theirs, or not there, does not lock anybody out.
    for project in ["", "ours", "no-such"] {
        let me = world
            .get(Caller { project, ..second }, "/auth/me")
            .await
            .expect(200);
        assert_eq!(me["projectRole"], Value::Null);
        world
            .get(Caller { project, ..second }, "/projects")
            .await
            .expect(200);
    }
    let logout = |caller| world.call(caller, Method::POST, "/auth/logout", None);
    logout(second).await.expect(204);
    world.get(second, "/auth/me").await.expect(401);
    world.get(first, "/auth/me").await.expect(200);
    logout(second).await.expect(401);
    logout(KEY).await.expect(204);
    world.get(KEY, "/projects").await.expect(200);
    world.get(KEY, "/auth/me").await.expect(403);

    let me = world.get(first, "/auth/me").await.expect(200)["id"].clone();
    world
        .run(&format!(
            "update users set is_active = false where id = {me}"
        ))
        .await;
    world.get(first, "/auth/me").await.expect(401);
    let inactive = world.post(NOBODY, "/auth/login", &login).await;
    let unknown = but(&login, &json!({ "email": "who@example.test" }));
    let unknown = world.post(NOBODY, "/auth/login", &unknown).await;
    assert_eq!(inactive.headers["www-authenticate"], "Bearer");
    assert_eq!(inactive.expect(401)["error"], unknown.expect(401)["error"]);
    world
        .run(&format!(
            "update users set is_active = true where id = {me}"
        ))
        .await;
    let wrong = but(&login, &json!({ "password": "wrong horse" }));
    world.post(NOBODY, "/auth/login", &wrong).await.expect(401);
    world.get(first, "/auth/me").await.expect(200);
    world.wait(TimeDelta::days(30));
    world.get(first, "/auth/me").await.expect(401);
}

#[tokio::test]
async fn failed_logins_close_the_account_and_the_address_for_a_while() {
    let world = World::start().await;
    world
        .post(NOBODY, "/auth/register", &registration())
        .await
        .expect(201);
    let login = async |email: &str, password: &str, address: [u8; 4]| {
        let body = json!({ "email": email, "password": password });
        let mut request = with_body(request(Method::POST, "/auth/login"), Some(&body));
        let peer = ConnectInfo(SocketAddr::from((address, 1)));
        request.extensions_mut().insert(peer);
        world.send(request).await
    };
    let (kim, here) = ("kim@example.test", [192, 0, 2, 1]);
    for _ in 0..10 {
        login("KIM@example.test", "wrong", here).await.expect(401);
    }
    let refused = login(kim, "correct horse", [192, 0, 2, 2]).await;
    assert_eq!(refused.headers["retry-after"], "901");
    refused.expect(429);
    for n in 0..90 {
        let email = format!("{n}@example.test");
        login(&email, "wrong", here).await.expect(401);
    }
    login("new@example.test", "wrong", here).await.expect(429);
    login("new@example.test", "wrong", [192, 0, 2, 2])
        .await
        .expect(401);
    world.wait(TimeDelta::minutes(15));
    login(kim, "correct horse", here).await.expect(200);
}

#[tokio::test]
async fn invites_are_accepted_once_and_within_a_week() {
    let world = World::start().await;
    let body = json!({ "email": "New@example.test", "name": "New", "role": "viewer" });
    let invited = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    assert_eq!(keys(&invited), ["email", "id", "inviteToken"]);
    assert_eq!(invited["email"], "new@example.test");
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), &entity), ("user.invited", &invited["id"]));
    assert_eq!(
        details,
        json!({ "email": "new@example.test", "role": "viewer" })
    );
    let members = world.get(VIEWER, "/auth/users").await.expect(200);
    let member = members
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["id"] == invited["id"])
        .unwrap();
    assert_eq!(
        keys(member),
        [
            "createdAt",
            "email",
            "hasPassword",
            "id",
            "isActive",
            "name",
            "role"
        ]
    );
    assert_eq!(
        (&member["hasPassword"], &member["role"]),
        (&json!(false), &json!("viewer"))
    );

    // Inviting again replaces the token.
    let again = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    assert_eq!(again["id"], invited["id"]);
    let accept =
        |token: &Value, password: &str| json!({ "inviteToken": token, "password": password });
    let (old, new) = (&invited["inviteToken"], &again["inviteToken"]);
    refuse(
        &world,
        NOBODY,
        Method::POST,
        "/auth/accept-invite",
        &[
            (accept(old, "correct horse"), 400, "inviteToken"),
            (accept(new, "short"), 400, "at least 8 characters"),
        ],
    )
    .await;
    world.wait(TimeDelta::days(7));
    world
        .post(NOBODY, "/auth/accept-invite", &accept(new, "correct horse"))
        .await
        .expect(400);
    let third = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    let token = &third["inviteToken"];
    world
        .post(
            NOBODY,
            "/auth/accept-invite",
            &accept(token, "correct horse"),
        )
        .await
        .expect(204);
    let (action, entity, details, actor) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), &entity, &actor),
        ("user.activated", &invited["id"], &json!("New"))
    );
    assert_eq!(details, json!({ "email": "new@example.test" }));
    world
        .post(
            NOBODY,
            "/auth/accept-invite",
            &accept(token, "correct horse"),
        )
        .await
        .expect(400);
}

#[tokio::test]
async fn an_active_account_joins_at_once_and_wrong_invites_are_refused() {
    let world = World::start().await;
    let body = json!({ "email": "new@example.test", "name": "New" });
    // An active account joins at once; a member is one already.
    let stranger = json!({ "email": "stranger@example.test", "name": "S" });
    let joined = world
        .post(ADMIN, "/auth/invite", &stranger)
        .await
        .expect(201);
    assert_eq!(joined["inviteToken"], "");
    assert_eq!(
        world.get(STRANGER, "/auth/me").await.expect(200)["projectRole"],
        "editor"
    );
    refuse(
        &world,
        ADMIN,
        Method::POST,
        "/auth/invite",
        &[
            (stranger.clone(), 409, "member"),
            (but(&body, &json!({ "email": "x" })), 400, "email"),
            (but(&body, &json!({ "name": "" })), 400, "name"),
            (but(&body, &json!({ "role": "owner" })), 400, "role"),
        ],
    )
    .await;
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/auth/invite",
        &[(body, 403, "admin")],
    )
    .await;
}

#[tokio::test]
async fn an_invite_opens_no_project_of_others() {
    let world = World::start().await;
    let body = json!({ "email": "new@example.test", "name": "New", "role": "admin" });
    let ours = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    refuse(
        &world,
        THEIR_ADMIN,
        Method::POST,
        "/auth/invite",
        &[(body.clone(), 409, "another project")],
    )
    .await;
    // The token is still that of the first invite, which is over at last.
    world.wait(TimeDelta::days(7));
    let theirs = world.post(THEIR_ADMIN, "/auth/invite", &body).await;
    let theirs = theirs.expect(201);
    assert_eq!(theirs["id"], ours["id"]);
    let accept = json!({ "inviteToken": theirs["inviteToken"], "password": "correct horse" });
    world
        .post(NOBODY, "/auth/accept-invite", &accept)
        .await
        .expect(204);
    let login = json!({ "email": "new@example.test", "password": "correct horse" });
    let session = world.post(NOBODY, "/auth/login", &login).await.expect(200);
    let new = holder(session["token"].as_str().unwrap(), "ours");
    world.get(new, "/branches").await.expect(404);
    let projects = world.get(new, "/projects").await.expect(200);
    assert_eq!(projects[0]["slug"], "theirs");
    // Who is active joins without a token.
    let joined = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    assert_eq!(joined["inviteToken"], "");
    world.get(new, "/branches").await.expect(200);
}

#[tokio::test]
async fn an_activation_is_in_the_log_of_its_project_and_nobody_logs_in_before() {
    let world = World::start().await;
    let body = json!({ "email": "new@example.test", "name": "New" });
    let invited = world.post(ADMIN, "/auth/invite", &body).await.expect(201);
    for password in ["", "correct horse"] {
        let login = json!({ "email": "new@example.test", "password": password });
        world.post(NOBODY, "/auth/login", &login).await.expect(401);
    }
    let accept = json!({ "inviteToken": invited["inviteToken"], "password": "correct horse" });
    world
        .post(NOBODY, "/auth/accept-invite", &accept)
        .await
        .expect(204);
    let entry = world.audit().await.remove(0);
    assert_eq!(
        (&entry["action"], &entry["entityType"], &entry["entityId"]),
        (&json!("user.activated"), &json!("user"), &invited["id"])
    );
    assert_eq!(
        (&entry["actorType"], &entry["actorName"]),
        (&json!("user"), &json!("New"))
    );
    let members = world.get(VIEWER, "/auth/users").await.expect(200);
    let member = &members.as_array().unwrap()[0];
    assert_eq!(
        (&member["role"], &member["hasPassword"], &member["isActive"]),
        (&json!("editor"), &json!(true), &json!(true))
    );
}

#[tokio::test]
async fn many_logins_at_once_get_no_more_guesses() {
    let world = World::start().await;
    let login = json!({ "email": "who@example.test", "password": "wrong" });
    let guesses = (0..40).map(|_| world.post(NOBODY, "/auth/login", &login));
    let answers = futures_util::future::join_all(guesses).await;
    let looked = answers.iter().filter(|answer| answer.status == 401);
    assert_eq!(looked.count(), 10);
}

#[tokio::test]
async fn a_blank_slug_is_none() {
    let world = World::start().await;
    let body = but(&registration(), &json!({ "projectSlug": " " }));
    let made = world
        .post(NOBODY, "/auth/register", &body)
        .await
        .expect(201);
    let kim = holder(made["token"].as_str().unwrap(), "");
    let projects = world.get(kim, "/projects").await.expect(200);
    assert_eq!(projects[0]["slug"], "kim-doe");
}

#[tokio::test]
async fn preflights_need_no_credential() {
    let world = World::start().await;
    let preflight = request(Method::OPTIONS, "/flags/1")
        .header("origin", "https://dashboard.example.test")
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization,x-project,if-match",
        );
    let answer = world.send(with_body(preflight, None)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let allowed = |name: &str| answer.headers[name].to_str().unwrap().to_lowercase();
    let methods = allowed("access-control-allow-methods");
    assert!(methods == "*" || methods.contains("patch"));
    let headers = allowed("access-control-allow-headers");
    assert!(headers.contains("authorization") && headers.contains("if-match"));
}

#[tokio::test]
async fn refusals_are_json_whatever_is_wrong() {
    let world = World::start().await;
    let bearer = |method: Method, path: &str| {
        request(method, path)
            .header("authorization", "bEaReR ours-editor")
            .header("x-project", "ours")
    };
    world
        .send(with_body(bearer(Method::GET, "/branches"), None))
        .await
        .expect(200);
    world
        .send(with_body(bearer(Method::GET, "/no-such-route"), None))
        .await
        .expect(404);
    world
        .send(with_body(bearer(Method::PUT, "/branches"), None))
        .await
        .expect(405);
    let raw = |content_type: &str, body: String| {
        let request = bearer(Method::POST, "/branches").header("content-type", content_type);
        request.body(Body::from(body)).unwrap()
    };
    world
        .send(raw("text/plain", "{}".to_owned()))
        .await
        .expect(415);
    world
        .send(raw("application/json", "{".to_owned()))
        .await
        .expect(400);
    world
        .send(raw("application/json", r#"{"name":1}"#.to_owned()))
        .await
        .expect(400);
    let nul = world
        .send(raw(
            "application/json",
            "{\"name\":\"a\\u0000b\"}".to_owned(),
        ))
        .await;
    nul.expect(400);
    let large = format!(r#"{{"name":"{}"}}"#, "a".repeat(2 * 1024 * 1024));
    world.send(raw("application/json", large)).await.expect(413);
    let missing = with_body(request(Method::GET, "/branches"), None);
    let missing = world.send(missing).await;
    assert_eq!(missing.headers["www-authenticate"], "Bearer");
    assert!(!missing.headers["x-request-id"].is_empty());
    missing.expect(401);
    // The credential comes before the project, the project before the role,
    // the role before the path, the path before the body.
    world
        .get(
            Caller {
                token: "x",
                project: "",
            },
            "/flags/x",
        )
        .await
        .expect(401);
    world
        .get(
            Caller {
                token: "ours-editor",
                project: " ",
            },
            "/flags/x",
        )
        .await
        .expect(400);
    world.get(STRANGER, "/flags/x").await.expect(404);
    world.patch(VIEWER, "/flags/x", &json!(1)).await.expect(403);
    world.patch(EDITOR, "/flags/x", &json!(1)).await.expect(400);
    let health = request(Method::GET, "/healthz")
        .body(Body::empty())
        .unwrap();
    assert_eq!(world.send(health).await.status, 200);
}
