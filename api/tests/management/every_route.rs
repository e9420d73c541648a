//! What holds for every route of the OpenAPI document: who may call it, and
//! that it neither finds nor shows nor changes what belongs to another project.

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::world::{ADMIN, Caller, THEIR_ADMIN, World, request, with_body};

struct Route {
    method: Method,
    /// Under `/v1/ota`, with `{parameters}`.
    path: String,
    /// The least role in the project; none: the route is not about a project.
    role: Option<String>,
    body: Option<Value>,
}

impl Route {
    fn parameters(&self) -> Vec<&str> {
        let segments = self.path.split('/');
        segments
            .filter(|segment| segment.starts_with('{'))
            .collect()
    }

    /// The path with its parameters replaced, in their order.
    fn with(&self, values: &[String]) -> String {
        let mut values = values.iter();
        let segments = self.path.split('/').map(|segment| {
            if segment.starts_with('{') {
                values.next().unwrap().as_str()
            } else {
                segment
            }
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

async fn routes(world: &World) -> Vec<Route> {
    let document = world
        .send(with_body(request(Method::GET, "/openapi.json"), None))
        .await
        .expect(200);
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(path) = path.strip_prefix(sluice_api::BASE_PATH) else {
            continue;
        };
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            let content = &operation["requestBody"]["content"];
            // Uploads have no JSON; what matters here comes before their bodies.
            let schema = content.get("application/json").map(|json| &json["schema"]);
            routes.push(Route {
                method,
                path: path.to_owned(),
                role: operation["security"][0]["bearer"][0]
                    .as_str()
                    .map(str::to_owned),
                body: schema.map(|schema| example(&document, schema)),
            });
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

/// The smallest value of the right shape.
fn example(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(document, document.pointer(&reference[1..]).unwrap());
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(schema) = schema[choice].as_array().and_then(|all| all.last()) {
            return example(document, schema);
        }
    }
    if let Some(value) = schema["enum"].get(0) {
        return value.clone();
    }
    let kind = schema["type"]
        .as_str()
        .or_else(|| schema["type"][0].as_str());
    match kind.unwrap_or_default() {
        "string" => json!("x"),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "array" => json!([]),
        _ => object(document, schema),
    }
}

fn object(document: &Value, schema: &Value) -> Value {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields = required.iter().map(|name| {
        let name = name.as_str().unwrap();
        (
            name.to_owned(),
            example(document, &schema["properties"][name]),
        )
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Gives a project one of each thing, all named after it.
async fn furnish(world: &World, caller: Caller) {
    let name = |what: &str| format!("{}-{what}", caller.project);
    for (path, body) in [
        ("/branches", json!({ "name": name("branch") })),
        (
            "/channels",
            json!({ "name": name("channel"), "branchName": name("branch") }),
        ),
        (
            "/user-overrides",
            json!({ "userId": name("user"), "branchName": name("branch") }),
        ),
        (
            "/contexts",
            json!({ "kind": "user", "targetingKey": name("context") }),
        ),
        (
            "/segments",
            json!({ "name": "s", "key": name("segment"), "matchType": "all", "conditions": [] }),
        ),
        (
            "/webhooks",
            json!({ "url": format!("http://{}.example.test/", caller.project), "events": ["branch.created"] }),
        ),
        ("/flags", json!({ "name": "f", "key": name("flag") })),
    ] {
        world.post(caller, path, &body).await.expect(201);
    }
    let flag = world.get(caller, "/flags").await.expect(200)[0]["id"].clone();
    let rule = json!({ "ruleType": "user_list", "variantValue": true, "ruleConfig": { "userIds": [name("user")] } });
    world
        .post(caller, &format!("/flags/{flag}/rules"), &rule)
        .await
        .expect(201);
    let slug = caller.project;
    world
        .run(&format!(
            "insert into builds (project_id, runtime_version, platform)
                select id, '{slug}-1', 'ios' from projects where slug = '{slug}';
             insert into updates (project_id, runtime_version, platform, channel, group_id)
                select id, '{slug}-1', 'ios', 'production', '{slug}-group' from projects where slug = '{slug}'"
        ))
        .await;
}

/// The value of a path parameter that names something of the project.
async fn value_of(world: &World, project: &str, before: &str, parameter: &str) -> String {
    let named = match (before, parameter) {
        (_, "{slug}") => Some(project.to_owned()),
        ("env", _) => Some("production".to_owned()),
        ("branches", _) => Some(format!("{project}-branch")),
        ("channels", _) => Some(format!("{project}-channel")),
        _ => None,
    };
    if let Some(named) = named {
        return named;
    }
    let table = match before {
        "rules" => "flag_rules".to_owned(),
        "variations" => "flag_variations".to_owned(),
        other => other.replace('-', "_"),
    };
    let query = format!(
        "select max(t.id) from {table} t join projects p on p.id = t.project_id where p.slug = '{project}'"
    );
    let id: Option<i64> = sqlx::query_scalar(&query)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    id.unwrap_or_else(|| panic!("furnish() must give a project something in {table}"))
        .to_string()
}

/// A value for each parameter: of `first` up to `count`, then of `then`.
async fn values(
    world: &World,
    route: &Route,
    first: &str,
    count: usize,
    then: &str,
) -> Vec<String> {
    let segments: Vec<_> = route.path.split('/').collect();
    let mut values = Vec::new();
    for pair in segments.windows(2).filter(|pair| pair[1].starts_with('{')) {
        let project = if values.len() < count { first } else { then };
        values.push(value_of(world, project, pair[0], pair[1]).await);
    }
    values
}

/// Where things of projects are.
async fn tables(world: &World) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select distinct table_name::text from information_schema.columns
         where table_schema = 'public' and column_name = 'project_id' order by 1",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert!(tables.len() > 15, "{tables:?}");
    tables
}

/// Everything that the database holds of a project.
async fn snapshot(world: &World, slug: &str) -> Vec<(String, Value)> {
    let mut snapshot = Vec::new();
    for table in tables(world).await {
        let query = format!(
            "select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from {table} t
             join projects p on p.id = t.project_id where p.slug = '{slug}'"
        );
        let rows = sqlx::query_scalar(&query)
            .fetch_one(&world.pool)
            .await
            .unwrap();
        snapshot.push((table, rows));
    }
    snapshot
}

#[tokio::test]
async fn what_belongs_to_another_project_does_not_exist() {
    let world = World::whole().await;
    furnish(&world, ADMIN).await;
    furnish(&world, THEIR_ADMIN).await;
    let before = snapshot(&world, "theirs").await;
    let mut tried = 0;
    for route in routes(&world).await {
        // Counts of what does not exist are zeros (telemetry.md §5.4).
        let counts = route.path.ends_with("/insights/{id}");
        let about_a_project =
            !counts && (route.role.is_some() || route.path.starts_with("/projects/"));
        let count = route.parameters().len();
        // The first parameter that is theirs decides; a channel's name in a
        // flag's settings names nothing by itself.
        let named = if route.path.contains("/env/") {
            1
        } else {
            count
        };
        for ours in (0..named).filter(|_| about_a_project) {
            let path = route.with(&values(&world, &route, "ours", ours, "theirs").await);
            for token in ["ours-admin", "key-ours-admin"] {
                let caller = Caller {
                    token,
                    project: "ours",
                };
                let answer = world
                    .call(caller, route.method.clone(), &path, route.body.as_ref())
                    .await;
                let session_only = route.path.starts_with("/projects/") && token.starts_with("key");
                let expected = if session_only { 403 } else { 404 };
                assert_eq!(
                    answer.status, expected,
                    "{} {path} {:?}: {}",
                    route.method, route.body, answer.json
                );
                tried += 1;
            }
        }
        if count == 0 && route.method == Method::GET {
            let answer = world.call(ADMIN, Method::GET, &route.path, None).await;
            assert!(
                !answer.json.to_string().contains("theirs"),
                "{}: {}",
                route.path,
                answer.json
            );
        }
    }
    assert!(tried > 40, "{tried}");
    for (before, after) in before.iter().zip(snapshot(&world, "theirs").await) {
        assert_eq!(*before, after);
    }
}

#[tokio::test]
async fn a_deleted_project_leaves_nothing_but_its_end_in_the_log() {
    let world = World::whole().await;
    furnish(&world, THEIR_ADMIN).await;
    let other = json!({ "name": "Other", "slug": "other" });
    let made = world.post(THEIR_ADMIN, "/projects", &other).await;
    made.expect(201);
    let id = world
        .number("select id from projects where slug = 'theirs'")
        .await;
    let deleted = world.delete(THEIR_ADMIN, "/projects/theirs").await;
    deleted.expect(204);
    // What tells others that it is gone may stay as well.
    let kept = ["audit_log", "deleted_projects"];
    for table in tables(&world).await {
        let left = format!("select count(*) from {table} where project_id = {id}");
        let left = world.number(&left).await;
        assert!(
            left == 0 || (left == 1 && kept.contains(&table.as_str())),
            "{table}: {left}"
        );
    }
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let world = World::whole().await;
    let roles = ["publishable", "viewer", "editor", "admin"];
    let rank = |role: &str| roles.iter().position(|r| *r == role).unwrap();
    for route in routes(&world).await {
        let Some(least) = &route.role else { continue };
        // Nothing has these names, so that no call destroys what the next needs.
        let nothing = vec!["999999".to_owned(); route.parameters().len()];
        let path = route.with(&nothing);
        let status = async |token, project| {
            world
                .call(
                    Caller { token, project },
                    route.method.clone(),
                    &path,
                    route.body.as_ref(),
                )
                .await
                .status
        };
        for (token, role) in [
            ("ours-viewer", "viewer"),
            ("ours-editor", "editor"),
            ("ours-admin", "admin"),
            ("key-ours-publishable", "publishable"),
            ("key-ours-viewer", "viewer"),
            ("key-ours-editor", "editor"),
            ("key-ours-admin", "admin"),
        ] {
            let got = status(token, "ours").await;
            let refused = rank(role) < rank(least);
            assert_eq!(
                got == 403,
                refused,
                "{token} {} {path}: {got}",
                route.method
            );
            assert!(got < 500, "{token} {} {path}: {got}", route.method);
        }
        for (token, project, expected) in [
            ("nobody", "ours", 401),
            ("ours-admin", " ", 400),
            ("key-ours-admin", "", 400),
            ("stranger", "ours", 404),
            ("ours-admin", "no-such", 404),
            ("ours-admin", "theirs", 404),
            ("key-ours-admin", "theirs", 404),
        ] {
            assert_eq!(
                status(token, project).await,
                expected,
                "{token} {project:?} {} {path}",
                route.method
            );
        }
    }
}

/// The table of management.md §20.1, but for the optional `/assets/presign`, and
/// with the project setting of telemetry.md §2.9.
/// `P`: nobody, `S`: a session, `B`: any credential; the others are roles.
const CONTRACT: &str = "
    P GET /auth/setup-status
    P POST /auth/register
    P POST /auth/login
    P POST /auth/accept-invite
    B POST /auth/logout
    S GET /auth/me
    V GET /auth/users
    A POST /auth/invite
    A GET /auth/api-keys
    A POST /auth/api-keys
    A POST /auth/api-keys/{id}/revoke
    A DELETE /auth/api-keys/{id}
    B GET /projects
    S POST /projects
    S PATCH /projects/{slug}
    S DELETE /projects/{slug}
    V GET /updates
    E POST /updates
    E PATCH /updates/{id}
    E DELETE /updates/{id}
    E POST /updates/{id}/republish
    V GET /updates/{id}/history
    E POST /assets/upload
    V GET /builds
    E POST /builds
    E POST /builds/{id}/publish
    E DELETE /builds/{id}
    V GET /branches
    E POST /branches
    E DELETE /branches/{name}
    V GET /channels
    E POST /channels
    E PATCH /channels/{name}
    E DELETE /channels/{name}
    V GET /flags
    E POST /flags
    V GET /flags/{id}
    E PATCH /flags/{id}
    E DELETE /flags/{id}
    E POST /flags/{id}/rules
    E PATCH /flags/{id}/rules/{ruleId}
    E DELETE /flags/{id}/rules/{ruleId}
    E PATCH /flags/{id}/variations/{variationId}
    E PATCH /flags/{id}/env/{channelName}
    V GET /segments
    E POST /segments
    V GET /segments/{id}
    E PATCH /segments/{id}
    E DELETE /segments/{id}
    V GET /webhooks
    E POST /webhooks
    E PATCH /webhooks/{id}
    E DELETE /webhooks/{id}
    V GET /webhooks/{id}/deliveries
    V GET /audit-log
    E POST /rollback
    V GET /user-overrides
    E POST /user-overrides
    E DELETE /user-overrides/{id}
    V GET /contexts
    E POST /contexts
    V GET /contexts/kinds
    V GET /contexts/{id}
    E DELETE /contexts/{id}
    V GET /gc
    A POST /gc
    P GET /healthz
";

#[tokio::test]
async fn every_route_of_the_contract_is_there_and_asks_for_its_role() {
    let world = World::whole().await;
    let routes = routes(&world).await;
    let mut rows = 0;
    for row in CONTRACT.lines().filter(|row| !row.trim().is_empty()) {
        let [code, method, path] = row.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let route = routes
            .iter()
            .find(|route| route.method == method && route.path == path)
            .unwrap_or_else(|| panic!("no route: {row}"));
        let role = match code {
            "V" => Some("viewer"),
            "E" => Some("editor"),
            "A" => Some("admin"),
            _ => None,
        };
        assert_eq!(route.role.as_deref(), role, "{row}");
        // Without any credential: welcome at P alone.
        let path = route.with(&vec!["999999".to_owned(); route.parameters().len()]);
        let nobody = with_body(request(route.method.clone(), &path), route.body.as_ref());
        let got = world.send(nobody).await;
        let is_refused = got.status == 401 && got.headers.contains_key("www-authenticate");
        let wrong_login = path == "/auth/login";
        assert_eq!(is_refused, code != "P" || wrong_login, "{row}: {got:?}");
        // A key is nobody at S, and one that ships inside an app nowhere but at P.
        for (token, refused) in [
            ("key-ours-admin", code == "S"),
            ("key-ours-publishable", code != "P"),
        ] {
            let caller = Caller {
                token,
                project: "ours",
            };
            let got = world.call(caller, route.method.clone(), &path, route.body.as_ref());
            assert_eq!(got.await.status == 403, refused, "{token} {row}");
        }
        rows += 1;
    }
    assert_eq!(rows, 67);
}
