//! Questions to ClickHouse, within limits: so much time and memory each, and a
//! quick refusal while the server is away.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::query::Query;
use clickhouse::{Client, RowOwned, RowRead};
use serde::Serialize;
use sluice_schema::clickhouse::folds::SETTINGS;
use thiserror::Error as ThisError;
use tokio::time::{sleep, timeout};

use crate::error::ApiError;

/// What a read may use; beyond it ClickHouse ends it.
const LIMITS: [(&str, &str); 5] = [
    ("max_execution_time", "10"),
    ("max_memory_usage", "1000000000"),
    ("max_threads", "2"),
    ("max_bytes_before_external_group_by", "400000000"),
    ("max_bytes_before_external_sort", "400000000"),
];
/// A question unanswered for so long makes us ask whether the server is there.
const DOUBT: Duration = Duration::from_secs(1);
/// A server that is there says so in this time. With [`DOUBT`] less than 2 s.
const PING: Duration = Duration::from_millis(700);

/// Why a question has no answer. Shared by all who wait for it.
#[derive(Clone, Debug, ThisError)]
#[error("{0}")]
pub(crate) struct ReadError(Arc<Error>);

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<Arc<ReadError>> for ApiError {
    fn from(error: Arc<ReadError>) -> Self {
        ReadError::clone(&error).into()
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let passes = match &*error.0 {
            Error::Network(_) | Error::TimedOut => true,
            Error::BadResponse(text) => passes(text),
            _ => false,
        };
        if passes {
            Self::unavailable(error)
        } else {
            Self::internal(error)
        }
    }
}

/// Whether a refusal of the server's is for now only: out of time, of slots or
/// of memory, shutting down, or not migrated yet.
fn passes(response: &str) -> bool {
    const CODES: [u16; 8] = [60, 81, 159, 202, 209, 210, 236, 241];
    let code = response.split_once("Code: ").map(|(_, rest)| rest);
    let code = code.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let code = code.and_then(|digits| digits.parse().ok());
    code.is_some_and(|code: u16| CODES.contains(&code))
}

/// A value for a `?` of a [`Statement`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Number(i64),
    Numbers(Vec<u64>),
    Text(String),
    Texts(Vec<String>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&[u64]> for Value {
    fn from(numbers: &[u64]) -> Self {
        Self::Numbers(numbers.to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[String]> for Value {
    fn from(texts: &[String]) -> Self {
        Self::Texts(texts.to_vec())
    }
}

/// SQL that grows, with the values of its `?` in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Statement {
    sql: String,
    values: Vec<Value>,
}

impl Statement {
    /// Without values.
    pub(super) fn new(sql: &str) -> Self {
        Self::default().push(sql)
    }

    /// Continues without values.
    pub(super) fn push(mut self, sql: &str) -> Self {
        self.sql.push_str(sql);
        self
    }

    /// Continues with a value for the only `?` of this part.
    pub(super) fn with(mut self, sql: &str, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self.push(sql)
    }

    /// Continues if there is a value.
    pub(super) fn with_some(self, sql: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(sql, value),
            None => self,
        }
    }

    /// Continues with another statement.
    pub(super) fn append(mut self, other: Self) -> Self {
        self.values.extend(other.values);
        self.push(&other.sql)
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.sql.is_empty()
    }

    /// Statements with a text between them.
    pub(super) fn join(parts: impl IntoIterator<Item = Self>, between: &str) -> Self {
        parts.into_iter().fold(Self::default(), |all, part| {
            let all = if all.is_empty() {
                all
            } else {
                all.push(between)
            };
            all.append(part)
        })
    }
}

/// Asks ClickHouse.
#[derive(Clone)]
pub(super) struct Reader {
    client: Client,
}

impl Reader {
    pub(super) fn new(client: Client) -> Self {
        let settings = LIMITS.into_iter().chain(SETTINGS);
        let limited = settings.fold(client, |client, (name, value)| {
            client.with_setting(name, value)
        });
        Self { client: limited }
    }

    /// A question with parameters of its own.
    pub(super) fn query(&self, sql: &str) -> Query {
        self.client.query(sql)
    }

    /// All rows of the answer to a question.
    pub(super) async fn ask<T>(&self, query: Query) -> Result<Vec<T>, ReadError>
    where
        T: RowOwned + RowRead,
    {
        // Boxed, because what asks is part of many futures.
        Ok(Box::pin(self.while_there(query.fetch_all())).await?)
    }

    /// All rows of the answer.
    pub(super) async fn rows<T>(&self, statement: Statement) -> Result<Vec<T>, ReadError>
    where
        T: RowOwned + RowRead,
    {
        let query = self.query(&statement.sql);
        self.ask(statement.values.into_iter().fold(query, Query::bind))
            .await
    }

    /// The only row of the answer.
    pub(super) async fn row<T>(&self, statement: Statement) -> Result<T, ReadError>
    where
        T: RowOwned + RowRead,
    {
        let mut rows = self.rows(statement).await?;
        Ok(rows.pop().ok_or(Error::RowNotFound)?)
    }

    /// Waits for an answer, as long as the server is there.
    async fn while_there<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            answer = answer => answer,
            () = self.gone() => Err(Error::TimedOut),
        }
    }

    /// Ends when the server does not answer any more.
    async fn gone(&self) {
        loop {
            sleep(DOUBT).await;
            let ping = self.client.query("SELECT 1").fetch_one::<u8>();
            if !matches!(timeout(PING, ping).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_for_now_are_told_from_bugs() {
        let away = |text: &str| ApiError::from(ReadError::from(Error::BadResponse(text.into())));
        let memory = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)";
        assert_eq!(away(memory).status(), 503);
        assert_eq!(away("Code: 62. DB::Exception: Syntax error").status(), 500);
        assert_eq!(away("no code at all").status(), 500);
        let timed_out = ApiError::from(ReadError::from(Error::TimedOut));
        assert_eq!(timed_out.status(), 503);
    }

    #[test]
    fn statements_keep_their_values_in_order() {
        let parts = ["a", "b"].map(|value| Statement::default().with("x = ?", value));
        let joined = Statement::join(parts, " OR ").with(" LIMIT ?", 5);
        assert_eq!(joined.sql, "x = ? OR x = ? LIMIT ?");
        assert_eq!(joined.values, ["a".into(), "b".into(), Value::Number(5)]);
        assert!(Statement::join([], " OR ").is_empty());
    }
}
