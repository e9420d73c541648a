//! Deliveries to be, written in the transaction of the change they tell of.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::Event;

/// Adds a delivery for each active webhook of the project that wants the event.
/// None of them can be switched off in the meantime: that would leave a
/// delivery behind that nobody sends.
pub(crate) async fn enqueue(
    connection: &mut PgConnection,
    project: i64,
    event: Event,
    data: Value,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into webhook_deliveries (project_id, webhook_id, event, body, created_at, next_attempt_at)
         select project_id, id, $2, $3, $4, $4 from webhooks
         where project_id = $1 and is_active and $2 = any (events)
         for share",
    )
    .bind(project)
    .bind(event.name())
    .bind(envelope(event, &data, at))
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The exact body of every attempt.
fn envelope(event: Event, data: &Value, at: DateTime<Utc>) -> String {
    let timestamp = at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    json!({ "data": data, "event": event.name(), "timestamp": timestamp }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_contracts_to_the_byte() {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let body = envelope(Event::BranchCreated, &json!({ "name": "qa" }), at);
        let expected =
            r#"{"data":{"name":"qa"},"event":"branch.created","timestamp":"2026-01-02T03:04:05Z"}"#;
        assert_eq!(body, expected);
        assert_eq!(body.len(), 82);
    }
}
