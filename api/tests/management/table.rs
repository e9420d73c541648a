//! Requests that are refused, as rows of a table.

use axum::http::Method;
use serde_json::{Value, json};

use crate::world::{Caller, World};

/// A body, the status it gets, and a word that the refusal must contain.
pub(crate) type Row = (Value, u16, &'static str);

/// Sends every row, and sees to it that none leaves an audit row behind.
pub(crate) async fn refuse(
    world: &World,
    caller: Caller,
    method: Method,
    path: &str,
    rows: &[Row],
) {
    let audited = world.number("select count(*) from audit_log").await;
    for (body, status, word) in rows {
        let answer = world.call(caller, method.clone(), path, Some(body)).await;
        let context = format!("{method} {path} {body}: {}", answer.json);
        assert_eq!(answer.status, *status, "{context}");
        let error = answer.json["error"].as_str().unwrap_or_default();
        assert!(error.contains(word), "{word:?} in {context}");
    }
    assert_eq!(
        world.number("select count(*) from audit_log").await,
        audited,
        "{path}"
    );
}

/// `body` with some fields replaced; null removes one.
pub(crate) fn but(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    let object = body.as_object_mut().unwrap();
    for (key, value) in fields.as_object().unwrap() {
        if value.is_null() {
            object.remove(key);
        } else {
            object.insert(key.clone(), value.clone());
        }
    }
    body
}

/// What every JSON body is refused for.
pub(crate) async fn refuse_malformed(world: &World, caller: Caller, method: Method, path: &str) {
    let rows = [(json!([]), 400, ""), (json!("text"), 400, "")];
    refuse(world, caller, method, path, &rows).await;
}
