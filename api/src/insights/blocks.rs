//! What a process of the API counts itself, as blocks for ClickHouse.
//!
//! A block keeps its bytes and its token until the store has acknowledged it,
//! so that it counts once, however often it is sent. Blocks of a series go one
//! after the other.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::{Error, Result};
use sluice_schema::clickhouse::EXACTLY_ONCE_SETTINGS;
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

const FLUSH_EVERY: Duration = Duration::from_secs(5);
const INSERT_TIMEOUT: Duration = Duration::from_secs(30);

/// The blocks of a process for one table.
pub(super) struct Series {
    /// Unique among all processes; begins with what is counted.
    pub(super) source: String,
    insert: &'static str,
    next: u64,
    unacknowledged: Option<Block>,
}

#[derive(Clone)]
struct Block {
    number: u64,
    rows: Bytes,
}

impl Series {
    /// A series for what `insert` says, which takes rows of JSON.
    pub(super) fn new(name: &str, insert: &'static str) -> Self {
        Self {
            source: format!("{name}@{}", Uuid::new_v4()),
            insert,
            next: 0,
            unacknowledged: None,
        }
    }

    /// Takes the next block, whose rows are made of its number. Only after
    /// [`Series::send`] has succeeded.
    pub(super) fn push(&mut self, rows: impl FnOnce(&str, u64) -> Bytes) {
        let number = self.next;
        self.next += 1;
        let rows = rows(&self.source, number);
        self.unacknowledged = Some(Block { number, rows });
    }

    /// Sends the block that is not acknowledged, if there is one. Sent again it
    /// changes nothing that is there.
    pub(super) async fn send(&mut self, client: &Client) -> Result<()> {
        let Some(block) = self.unacknowledged.clone() else {
            return Ok(());
        };
        let token = format!("{}:{}", self.source, block.number);
        let insert = insert(client, self.insert, &token, block.rows);
        timeout(INSERT_TIMEOUT, insert)
            .await
            .unwrap_or(Err(Error::TimedOut))?;
        self.unacknowledged = None;
        Ok(())
    }

    /// The last block was not acknowledged after all.
    #[cfg(test)]
    pub(super) fn repeat(&mut self, number: u64, rows: Bytes) {
        self.unacknowledged = Some(Block { number, rows });
    }
}

/// Stores what was counted every few seconds, for ever. `what` waits meanwhile.
pub(super) async fn keep_storing<S>(what: &str, store: impl Fn() -> S)
where
    S: Future<Output = Result<()>>,
{
    let mut ticks = interval(FLUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = store().await {
            tracing::warn!(%error, what, "not stored yet");
        }
    }
}

async fn insert(client: &Client, insert: &str, token: &str, rows: Bytes) -> Result<()> {
    let mut insert = client
        .insert_formatted_with(insert)
        .with_setting("input_format_parallel_parsing", "0")
        .with_setting("insert_deduplication_token", token);
    for (name, value) in EXACTLY_ONCE_SETTINGS {
        insert = insert.with_setting(name, value);
    }
    insert.send(rows).await?;
    insert.end().await
}

/// Microseconds since 1970 as ClickHouse reads them: a text, because a number
/// would pass through a float.
pub(super) fn instant(at_us: i64) -> String {
    let (seconds, micros) = (at_us.div_euclid(1_000_000), at_us.rem_euclid(1_000_000));
    format!("{seconds}.{micros:06}")
}

/// A text of a device within a limit, as stored. Nearly all are as they came.
pub(super) fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    let kept = &text[..text.floor_char_boundary(max_bytes)];
    if kept.contains('\0') {
        return kept.replace('\0', "").into();
    }
    kept.into()
}
