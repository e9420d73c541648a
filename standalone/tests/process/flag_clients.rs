//! The published flag clients in the small: what each sends, in its own words,
//! and what it makes of the answers (flags.md §9 to §12).

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::sluice::{PATIENCE, Sluice, directory};

const CHANNEL: &str = "production";
const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";
const KEYS: [&str; 2] = ["client-checkout", "client-theme"];

/// A switch for a list, a share and an audience, and a text by channel.
async fn make_flags(sluice: &Sluice) -> [Value; 2] {
    let [checkout, theme] = KEYS;
    let checkout = json!({"name": "Checkout", "key": checkout, "variations": [
        {"value": "true", "name": "On"}, {"value": "false", "name": "Off"}]});
    let theme = json!({"name": "Theme", "key": theme, "flagType": "string",
        "defaultValue": "light", "variations": [{"value": "light"}, {"value": "dark", "name": "Dark"}]});
    let mut ids = Vec::new();
    for flag in [checkout, theme] {
        ids.push(sluice.post("/v1/ota/flags", &flag).await["id"].clone());
    }
    let pro = json!([{"attribute": "plan", "operator": "in", "values": ["pro", "team"]}]);
    let third =
        json!([{"variantValue": true, "weight": 33.5}, {"variantValue": false, "weight": 66.5}]);
    for (flag, rule) in [
        (
            0,
            json!({"ruleType": "user_list", "variantValue": true, "priority": 0,
                   "ruleConfig": {"userIds": ["user-1", "user-2"]}}),
        ),
        (
            0,
            json!({"ruleType": "attribute", "variantValue": true, "priority": 1,
                   "ruleConfig": {"conditions": pro}}),
        ),
        (
            0,
            json!({"ruleType": "percentage_rollout", "variantValue": null, "priority": 2,
                   "ruleConfig": {"rollout": third}}),
        ),
        (
            1,
            json!({"ruleType": "percentage_rollout", "variantValue": "dark", "priority": 0,
                   "channelName": CHANNEL, "ruleConfig": {"percentage": 25}}),
        ),
    ] {
        let path = format!("/v1/ota/flags/{}/rules", ids[flag]);
        sluice.post(&path, &rule).await;
    }
    ids.try_into().unwrap()
}

async fn change(sluice: &Sluice, path: &str, body: Value) {
    let answer = sluice.try_call(Method::PATCH, path, Some(&body)).await;
    let answer = answer.unwrap();
    assert!(answer.status.is_success(), "{path}: {}", answer.body);
}

/// The answer of a bulk evaluation, for the clients' flags.
async fn bulk(sluice: &Sluice, body: Value) -> BTreeMap<String, Value> {
    let request = Request::post("/v1/ota/flag-evaluations-bulk")
        .header("content-type", "application/json")
        // An app may have set one; the route ignores it.
        .header("authorization", "Bearer dsp_of_another_server");
    let answer = sluice.send(request, body.to_string()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let flags: Map<String, Value> = serde_json::from_value(body["flags"].clone()).unwrap();
    ours(flags)
}

fn ours(flags: impl IntoIterator<Item = (String, Value)>) -> BTreeMap<String, Value> {
    let flags = flags.into_iter();
    flags.filter(|(key, _)| KEYS.contains(&&**key)).collect()
}

/// React Native SDK 0.8: one bulk call at the first launch, then a stream.
struct NativeSdk<'s> {
    sluice: &'s Sluice,
    flags: BTreeMap<String, Value>,
    stream: BodyDataStream<Incoming>,
    unread: String,
}

impl<'s> NativeSdk<'s> {
    /// What the SDK calls with: an empty targeting key, its update among the attributes.
    async fn bulk(sluice: &Sluice) -> BTreeMap<String, Value> {
        let body = json!({
            "projectSlug": "my-app", "deviceId": "5b0d3c52-0000-4000-8000-000000000007",
            "channel": CHANNEL, "targetingKey": "", "platform": "ios", "runtimeVersion": "49.0.0",
            "attributes": {"update_id": UPDATE},
        });
        bulk(sluice, body).await
    }

    /// In the foreground: a stream, whose first event replaces everything.
    async fn open(sluice: &'s Sluice) -> Self {
        let path = format!(
            "/v1/ota/flag-stream/my-app?channel={CHANNEL}\
             &deviceId=5b0d3c52-0000-4000-8000-000000000007&targetingKey=&updateId={UPDATE}\
             &runtimeVersion=49.0.0&platform=ios"
        );
        let request = Request::get(path).header("accept", "text/event-stream");
        let answer = sluice.send(request, String::new()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut sdk = Self {
            sluice,
            flags: BTreeMap::new(),
            stream: BodyDataStream::new(answer.into_body()),
            unread: String::new(),
        };
        assert_eq!(sdk.next_event().await, "put");
        sdk
    }

    /// Reads one event; its name.
    async fn next_event(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.unread = rest;
                if let Some(name) = self.apply(&event) {
                    return name;
                }
                continue;
            }
            let chunk = timeout(PATIENCE, self.stream.next()).await;
            let chunk = chunk.expect("something is sent").unwrap().unwrap();
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// None where it is a comment.
    fn apply(&mut self, event: &str) -> Option<String> {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let name = line("event:")?.trim().to_owned();
        let data: Value = serde_json::from_str(line("data:").unwrap()).unwrap();
        match name.as_str() {
            "put" => {
                let flags: Map<String, Value> =
                    serde_json::from_value(data["flags"].clone()).unwrap();
                self.flags = ours(flags);
            }
            "patch" => {
                assert_eq!(data["type"], "patch");
                self.flags
                    .extend(ours([(key_of(&data), data["flag"].clone())]));
            }
            "delete" => {
                assert_eq!(data["type"], "delete");
                self.flags.remove(&key_of(&data));
            }
            other => panic!("unknown event {other}"),
        }
        Some(name)
    }

    /// Reads until it holds what a fresh device would be given, and that is `wanted`.
    async fn until(&mut self, wanted: impl Fn(&BTreeMap<String, Value>) -> bool) {
        while !wanted(&self.flags) {
            self.next_event().await;
        }
        assert_eq!(self.flags, Self::bulk(self.sluice).await);
    }
}

fn key_of(data: &Value) -> String {
    data["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_native_sdk_launches_streams_and_hears_of_changes() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let [checkout, theme] = make_flags(&sluice).await;
    let launched = NativeSdk::bulk(&sluice).await;
    assert_eq!(launched.len(), KEYS.len());
    for flag in launched.values() {
        let members: Vec<_> = flag.as_object().unwrap().keys().collect();
        assert_eq!(members, ["reason", "value", "variant"]);
    }
    let mut sdk = NativeSdk::open(&sluice).await;
    assert_eq!(
        sdk.flags, launched,
        "the first event agrees with the launch"
    );

    let [checkout_key, theme_key] = KEYS;
    let everybody = json!({"ruleType": "force", "variantValue": "true", "priority": -1});
    let rules = format!("/v1/ota/flags/{checkout}/rules");
    let rule = sluice.post(&rules, &everybody).await["id"].clone();
    let forced = json!({"value": true, "variant": "On", "reason": "TARGETING_MATCH"});
    sdk.until(|flags| flags.get(checkout_key) == Some(&forced))
        .await;

    let off = format!("/v1/ota/flags/{checkout}/env/{CHANNEL}");
    change(&sluice, &off, json!({"enabled": false})).await;
    sdk.until(|flags| !flags.contains_key(checkout_key)).await;
    change(&sluice, &off, json!({"enabled": true})).await;
    sdk.until(|flags| flags.contains_key(checkout_key)).await;

    let nobody = json!({"ruleConfig": {"percentage": 0}});
    let path = sluice.get(&format!("/v1/ota/flags/{theme}")).await["rules"][0]["id"].clone();
    change(
        &sluice,
        &format!("/v1/ota/flags/{theme}/rules/{path}"),
        nobody,
    )
    .await;
    change(
        &sluice,
        &format!("/v1/ota/flags/{theme}/env/{CHANNEL}"),
        json!({"defaultValue": "dark"}),
    )
    .await;
    let dark = json!({"value": "dark", "variant": "Dark", "reason": "DEFAULT"});
    sdk.until(|flags| flags.get(theme_key) == Some(&dark)).await;

    // Into the background and back.
    drop(sdk);
    let delete = format!("/v1/ota/flags/{checkout}/rules/{rule}");
    let deleted = sluice.try_call(Method::DELETE, &delete, None).await;
    assert_eq!(deleted.unwrap().status, StatusCode::NO_CONTENT);
    let mut sdk = NativeSdk::open(&sluice).await;
    sdk.until(|flags| flags[checkout_key] != forced).await;
    assert_eq!(sdk.flags[theme_key], dark);
}

/// OpenFeature provider 0.4: polls definitions, evaluates itself, reports counts.
struct Provider<'s> {
    sluice: &'s Sluice,
    etag: String,
    definitions: Value,
    /// How often an app got which value.
    counts: BTreeMap<(String, String), u64>,
}

impl<'s> Provider<'s> {
    async fn start(sluice: &'s Sluice) -> Self {
        let mut provider = Self {
            sluice,
            etag: String::new(),
            definitions: Value::Null,
            counts: BTreeMap::new(),
        };
        assert_eq!(provider.poll().await, StatusCode::OK);
        provider
    }

    /// Every 30 s. What is not a success leaves what it has.
    async fn poll(&mut self) -> StatusCode {
        let request = Request::get(format!("/v1/ota/flag-definitions/my-app?channel={CHANNEL}"))
            .header(
                "authorization",
                format!("Bearer {}", self.sluice.text("apiKey")),
            )
            .header("if-none-match", &self.etag);
        let answer = self.sluice.send(request, String::new()).await;
        let status = answer.status();
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        if status.is_success() {
            assert_ne!(etag, self.etag);
            self.definitions = serde_json::from_slice(&body).unwrap();
        } else {
            assert_eq!((&etag, body.len()), (&self.etag, 0));
        }
        self.etag = etag;
        status
    }

    /// What the app gets, or its own default where there is no such flag.
    fn value(&mut self, key: &str, user: &str, attributes: &Value) -> Option<Value> {
        let value = evaluate(&self.definitions, key, user, attributes)?;
        let seen = (key.to_owned(), value.to_string());
        *self.counts.entry(seen).or_default() += 1;
        Some(value)
    }

    /// Every 60 s, if something was evaluated: with the key alone, and with
    /// nulls for what the app did not set.
    async fn flush(&mut self, context: Value) {
        let counts = std::mem::take(&mut self.counts);
        let entry = |((key, value), count): ((String, String), u64)| {
            let value: Value = serde_json::from_str(&value).unwrap();
            json!({"flagKey": key, "variationValue": value, "count": count, "channel": null})
        };
        let evaluations: Vec<_> = counts.into_iter().map(entry).collect();
        let body = json!({"evaluations": evaluations, "context": context});
        let request = Request::post("/v1/ota/flag-evaluations")
            .header(
                "authorization",
                format!("Bearer {}", self.sluice.text("apiKey")),
            )
            .header("content-type", "application/json");
        let answer = self.sluice.send(request, body.to_string()).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert!(!answer.headers().contains_key("content-type"));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(body.is_empty());
    }
}

/// As a script does it that knows three types of rules and skips the rest.
fn evaluate(definitions: &Value, key: &str, user: &str, attributes: &Value) -> Option<Value> {
    let flags = definitions["flags"].as_array().unwrap();
    let flag = flags.iter().find(|flag| flag["key"] == key)?;
    let rules = flag["rules"].as_array().unwrap().iter();
    let matched = rules.into_iter().find_map(|rule| {
        let (config, value) = (&rule["ruleConfig"], &rule["variantValue"]);
        match rule["ruleType"].as_str().unwrap() {
            // An array would throw here.
            "user_list" => {
                let mut ids = config["userIds"].as_str().unwrap().split(',');
                ids.any(|id| id.trim() == user).then(|| value.clone())
            }
            "attribute" => {
                let mut conditions = config["conditions"].as_array().unwrap().iter();
                let holds = |condition: &Value| {
                    assert_eq!(condition["operator"], "in");
                    let given = &attributes[condition["attribute"].as_str().unwrap()];
                    condition["values"].as_array().unwrap().contains(given)
                };
                conditions.all(holds).then(|| value.clone())
            }
            "percentage_rollout" => slice(flag, config, &format!("{key}{user}")),
            _ => None,
        }
    });
    Some(matched.unwrap_or_else(|| flag["defaultValue"].clone()))
}

/// The value of the slice that the published hash falls in.
fn slice(flag: &Value, config: &Value, hashed: &str) -> Option<Value> {
    let hash = hashed.encode_utf16().fold(2_166_136_261_u32, |hash, unit| {
        let product = f64::from((hash ^ u32::from(unit)) as i32) * 16_777_619.0;
        product.rem_euclid(4_294_967_296.0) as u32
    });
    let mut up_to = 0.0;
    let slice = config["rollout"].as_array().unwrap().iter().find(|slice| {
        up_to += slice["weight"].as_f64().unwrap();
        f64::from(hash % 100) < up_to
    })?;
    let mut variations = flag["variations"].as_array().unwrap().iter();
    let variation = variations.find(|variation| variation["id"] == slice["variationId"]);
    Some(
        variation
            .map_or(&flag["defaultValue"], |v| &v["value"])
            .clone(),
    )
}

#[tokio::test]
async fn the_older_provider_polls_evaluates_and_reports() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let [checkout, theme] = make_flags(&sluice).await;
    let mut provider = Provider::start(&sluice).await;
    let (pro, free) = (json!({"plan": "pro"}), json!({"plan": "free"}));
    let mut on = 0;
    for user in (0..40).map(|n| format!("user-{n}")) {
        for attributes in [&pro, &free] {
            let body = json!({"projectSlug": "my-app", "deviceId": user, "channel": CHANNEL,
                "targetingKey": user, "attributes": attributes});
            let served = bulk(&sluice, body).await;
            for key in KEYS {
                let value = provider.value(key, &user, attributes).unwrap();
                assert_eq!(value, served[key]["value"], "{key} {user} {attributes}");
                on += u64::from(value == json!(true));
            }
        }
    }
    assert!(on > 40 && on < 80, "both values are given: {on}");
    assert_eq!(provider.value("no-such-flag", "user-1", &free), None);

    let me =
        json!({"targetingKey": "provider-user", "kind": null, "name": "Ada", "attributes": pro});
    provider.flush(me).await;
    let context = "/v1/ota/contexts?search=provider-user";
    let counted = |answer: &Value| answer["contexts"][0]["evaluationCount"] == 160;
    let seen = sluice.get_until(context, counted).await["contexts"][0].clone();
    assert_eq!(
        (&seen["kind"], &seen["name"]),
        (&json!("user"), &json!("Ada"))
    );
    assert_eq!(seen["attributes"], pro);
    let counts = format!("/v1/ota/flags/{checkout}/evaluations");
    // The device's own, and those of the bulk answers.
    let counts = sluice
        .get_until(&counts, |answer| answer["total"] == 160)
        .await;
    let by_name = counts["byVariation"].as_array().unwrap();
    let of = |name: &str| {
        by_name
            .iter()
            .find(|row| row["variationName"] == name)
            .unwrap()
    };
    assert_eq!(of("On")["total"], json!(2 * on));

    // A change at the next poll, and nothing in between.
    assert_eq!(provider.poll().await, StatusCode::NOT_MODIFIED);
    change(
        &sluice,
        &format!("/v1/ota/flags/{theme}"),
        json!({"enabled": false}),
    )
    .await;
    let polled = async {
        while provider.poll().await == StatusCode::NOT_MODIFIED {
            tokio::time::sleep(crate::sluice::POLL).await;
        }
    };
    timeout(PATIENCE, polled)
        .await
        .expect("the change is polled");
    let [checkout_key, theme_key] = KEYS;
    assert_eq!(provider.value(theme_key, "user-1", &free), None);
    provider.value(checkout_key, "user-1", &free).unwrap();

    // The name stays where none is given, attributes are replaced.
    let me = json!({"targetingKey": "provider-user", "attributes": free});
    provider.flush(me).await;
    let counted = |answer: &Value| answer["contexts"][0]["evaluationCount"] == 161;
    let seen = sluice.get_until(context, counted).await["contexts"][0].clone();
    assert_eq!((&seen["name"], &seen["attributes"]), (&json!("Ada"), &free));
    let detail = format!("/v1/ota/contexts/{}", seen["id"]);
    let slots = sluice.get(&detail).await["evaluations"].clone();
    let slots = slots.as_array().unwrap();
    assert_eq!(slots.len(), KEYS.len());
    let latest = slots
        .iter()
        .find(|slot| slot["flagKey"] == checkout_key)
        .unwrap();
    assert_eq!(latest["variationValue"], json!(true));
    assert_eq!(
        (&latest["channelName"], &latest["evaluationCount"]),
        (&Value::Null, &json!(81))
    );
}
