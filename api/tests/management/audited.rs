//! What each write leaves behind: one audit row with the details of management.md
//! §13.3, by whoever made the request, and for some a delivery with the data of
//! §12.5. Releases are audited in their own tests.

use axum::http::Method;
use serde_json::{Value, json};
use sluice_api::webhooks::Event;

use crate::world::{Caller, World};

/// A scenario of one caller: each step leaves exactly what it says.
struct Scenario {
    world: World,
    caller: Caller,
    actor_type: &'static str,
    actions: Vec<String>,
}

/// Action, entity type and details.
type Audit<'a> = (&'a str, &'a str, Value);

impl Scenario {
    async fn start(token: &'static str, actor_type: &'static str) -> Self {
        let world = World::start().await;
        let events = Event::ALL.map(Event::name).join(",");
        // One that wants to know everything, so that what nobody is told shows.
        world
            .run(&format!(
                "insert into webhooks (project_id, url, events)
                 select id, 'http://127.0.0.1:9/', string_to_array('{events}', ',')
                 from projects where slug = 'ours'"
            ))
            .await;
        let caller = Caller {
            token,
            project: "ours",
        };
        Self {
            world,
            caller,
            actor_type,
            actions: Vec::new(),
        }
    }

    /// The answer. The entity is the id in it, else the last number in the path.
    async fn step(&mut self, method: Method, path: &str, body: Value, audit: Audit<'_>) -> Value {
        self.told(method, path, body, audit, None).await
    }

    async fn told(
        &mut self,
        method: Method,
        path: &str,
        body: Value,
        (action, entity_type, details): Audit<'_>,
        told: Option<(&str, Value)>,
    ) -> Value {
        let body = (!body.is_null()).then_some(&body);
        let (audited, delivered) = (self.audited().await, self.delivered().await);
        let answer = self.world.call(self.caller, method, path, body).await;
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        let rows = self.audited().await;
        assert_eq!(rows.len(), audited.len() + 1, "{path}");
        let (row, entity) = rows.last().unwrap();
        let expected = json!({ "action": action, "entity_type": entity_type, "details": details,
            "actor_type": self.actor_type, "actor_name": self.caller.token });
        assert_eq!(*row, expected, "{path}");
        let id = answer.json["id"].as_i64().filter(|id| *id > 0);
        let in_path = path.rsplit('/').find_map(|part| part.parse().ok());
        if let Some(id) = id.or(in_path) {
            assert_eq!(*entity, Some(id), "{path}");
        }
        let deliveries = self.delivered().await;
        let new: Vec<_> = deliveries[delivered.len()..].iter().collect();
        let expected = told.map(|(event, data)| json!({ "event": event, "data": data }));
        assert_eq!(new, expected.iter().collect::<Vec<_>>(), "{path}");
        self.actions.push(action.to_owned());
        answer.json
    }

    async fn audited(&self) -> Vec<(Value, Option<i64>)> {
        sqlx::query_as(
            "select to_jsonb(a) - '{id,project_id,entity_id,actor_id,created_at}'::text[], entity_id
             from audit_log a join projects p on p.id = a.project_id
             where p.slug = 'ours' order by a.id",
        )
        .fetch_all(&self.world.pool)
        .await
        .unwrap()
    }

    async fn delivered(&self) -> Vec<Value> {
        sqlx::query_scalar("select body::jsonb - 'timestamp' from webhook_deliveries order by id")
            .fetch_all(&self.world.pool)
            .await
            .unwrap()
    }
}

async fn branches_and_channels(s: &mut Scenario) {
    let named = |name: &str| json!({ "name": name });
    s.told(
        Method::POST,
        "/branches",
        named("qa"),
        ("branch.created", "branch", named("qa")),
        Some(("branch.created", named("qa"))),
    )
    .await;
    let details = json!({ "name": "beta", "branchName": "qa" });
    let data = json!({ "name": "beta", "branch_name": "qa" });
    s.told(
        Method::POST,
        "/channels",
        details.clone(),
        ("channel.created", "channel", details),
        Some(("channel.created", data)),
    )
    .await;
    // The log tells what changed, the event what was asked for.
    let body = json!({ "branchName": "qa", "rolloutBranchName": "main", "rolloutPercentage": 5,
                       "minRuntimeVersion": "2" });
    let details = json!({ "name": "beta", "rolloutBranchName": "main", "rolloutPercentage": 5,
                          "minRuntimeVersion": "2" });
    let data = json!({ "name": "beta", "branch_name": "qa", "rollout_branch_name": "main",
                       "rollout_percentage": 5, "min_runtime_version": "2" });
    s.told(
        Method::PATCH,
        "/channels/beta",
        body,
        ("channel.updated", "channel", details),
        Some(("channel.updated", data)),
    )
    .await;
    s.told(
        Method::DELETE,
        "/channels/beta",
        Value::Null,
        ("channel.deleted", "channel", named("beta")),
        Some(("channel.deleted", named("beta"))),
    )
    .await;
    s.told(
        Method::DELETE,
        "/branches/qa",
        Value::Null,
        ("branch.deleted", "branch", named("qa")),
        Some(("branch.deleted", named("qa"))),
    )
    .await;
}

async fn flags(s: &mut Scenario) {
    let details = json!({ "key": "f", "flagType": "boolean" });
    let flag = json!({ "name": "F", "key": "f" });
    let created = ("flag.created", "flag", details);
    let flag = s.step(Method::POST, "/flags", flag, created).await;
    let (id, path) = (flag["id"].clone(), format!("/flags/{}", flag["id"]));
    let off = json!({ "enabled": false });
    let toggled = json!({ "key": "f", "enabled": false });
    s.step(Method::PATCH, &path, off, ("flag.toggled", "flag", toggled))
        .await;
    let both = json!({ "enabled": true, "name": "G" });
    let updated = json!({ "key": "f", "enabled": true, "name": "G" });
    s.step(
        Method::PATCH,
        &path,
        both,
        ("flag.updated", "flag", updated),
    )
    .await;
    let body = json!({ "ruleType": "user_list", "variantValue": true, "priority": 3,
                       "channelName": "beta", "ruleConfig": { "userIds": ["u"] } });
    let created =
        json!({ "flagId": id, "ruleType": "user_list", "priority": 3, "channel": "beta" });
    let rules = format!("{path}/rules");
    let rule = s
        .step(
            Method::POST,
            &rules,
            body,
            ("rule.created", "rule", created),
        )
        .await;
    let one = format!("{rules}/{}", rule["id"]);
    let which = json!({ "flagId": id, "ruleId": rule["id"] });
    let body = json!({ "priority": 4 });
    s.step(
        Method::PATCH,
        &one,
        body,
        ("rule.updated", "rule", which.clone()),
    )
    .await;
    s.step(
        Method::DELETE,
        &one,
        Value::Null,
        ("rule.deleted", "rule", which),
    )
    .await;
    let setting =
        json!({ "flagId": id, "channel": "beta", "enabled": false, "defaultValue": false });
    s.step(
        Method::PATCH,
        &format!("{path}/env/beta"),
        json!({ "enabled": false }),
        ("env_setting.updated", "env_setting", setting),
    )
    .await;
    let variation = &flag["variations"][0]["id"];
    s.step(
        Method::PATCH,
        &format!("{path}/variations/{variation}"),
        json!({ "name": "On" }),
        (
            "variation.updated",
            "variation",
            json!({ "flagId": id, "variationId": variation }),
        ),
    )
    .await;
    let deleted = json!({ "id": id, "key": "f" });
    s.step(
        Method::DELETE,
        &path,
        Value::Null,
        ("flag.deleted", "flag", deleted),
    )
    .await;
}

async fn audiences(s: &mut Scenario) {
    let body = json!({ "name": "S", "key": "s", "matchType": "all", "conditions": [] });
    let key = json!({ "key": "s" });
    let segment = s
        .step(
            Method::POST,
            "/segments",
            body,
            ("segment.created", "segment", key.clone()),
        )
        .await;
    let path = format!("/segments/{}", segment["id"]);
    let body = json!({ "name": "T" });
    s.step(
        Method::PATCH,
        &path,
        body,
        ("segment.updated", "segment", key.clone()),
    )
    .await;
    s.step(
        Method::DELETE,
        &path,
        Value::Null,
        ("segment.deleted", "segment", key),
    )
    .await;
    let context = json!({ "kind": "user", "targetingKey": "u" });
    for (path, created, deleted, entity, body) in [
        (
            "/contexts",
            "context.created",
            "context.deleted",
            "context",
            context,
        ),
        (
            "/user-overrides",
            "user_override.created",
            "user_override.deleted",
            "user_override",
            json!({ "userId": "u", "branchName": "main", "note": "why" }),
        ),
    ] {
        let audit = (created, entity, body.clone());
        let made = s.step(Method::POST, path, body.clone(), audit).await;
        let path = format!("{path}/{}", made["id"]);
        s.step(Method::DELETE, &path, Value::Null, (deleted, entity, body))
            .await;
    }
}

async fn webhooks_and_keys(s: &mut Scenario) {
    let body = json!({ "url": "http://127.0.0.1:9/a", "events": [], "secret": "hidden" });
    let details = json!({ "url": "http://127.0.0.1:9/a", "events": [], "isActive": true });
    let made = s
        .step(
            Method::POST,
            "/webhooks",
            body,
            ("webhook.created", "webhook", details),
        )
        .await;
    let path = format!("/webhooks/{}", made["id"]);
    let body = json!({ "events": ["branch.created"], "isActive": false });
    let updated = ("webhook.updated", "webhook", body.clone());
    s.step(Method::PATCH, &path, body, updated).await;
    s.step(
        Method::DELETE,
        &path,
        Value::Null,
        ("webhook.deleted", "webhook", json!({})),
    )
    .await;
    let body = json!({ "name": "CI", "role": "viewer" });
    let created = ("api_key.created", "api_key", body.clone());
    let key = s.step(Method::POST, "/auth/api-keys", body, created).await;
    let path = format!("/auth/api-keys/{}", key["id"]);
    let name = json!({ "name": "CI" });
    s.step(
        Method::POST,
        &format!("{path}/revoke"),
        Value::Null,
        ("api_key.revoked", "api_key", name.clone()),
    )
    .await;
    s.step(
        Method::DELETE,
        &path,
        Value::Null,
        ("api_key.deleted", "api_key", name),
    )
    .await;
    let body = json!({ "email": "new@example.test", "name": "New", "role": "viewer" });
    let details = json!({ "email": "new@example.test", "role": "viewer" });
    s.step(
        Method::POST,
        "/auth/invite",
        body,
        ("user.invited", "user", details),
    )
    .await;
}

#[tokio::test]
async fn every_write_leaves_its_audit_row_and_its_delivery() {
    for (token, actor_type) in [("ours-admin", "user"), ("key-ours-admin", "api_key")] {
        let mut scenario = Scenario::start(token, actor_type).await;
        branches_and_channels(&mut scenario).await;
        flags(&mut scenario).await;
        audiences(&mut scenario).await;
        webhooks_and_keys(&mut scenario).await;
        let actions = &mut scenario.actions;
        actions.sort_unstable();
        actions.dedup();
        // With user.activated and those of projects, releases and rollouts: all.
        assert_eq!(actions.len(), 28, "{actions:?}");
    }
}
