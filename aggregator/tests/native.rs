//! Every column type of the encoder, through a real server and back.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::collections::BTreeMap;

use clickhouse::{Client, Row};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde::Deserialize;
use sluice_aggregator::native::{BlockEncoder, LowCardinality, Maps, Strings};
use support::{migrated, server};

#[derive(Clone, Debug, PartialEq, Row, Deserialize)]
struct Line {
    n: u32,
    at: i64,
    ratio: f64,
    flag: u8,
    place: u16,
    text: String,
    word: String,
    words: BTreeMap<String, String>,
    id: String,
    constant: u64,
    topic: String,
}

fn any_line(distinct: u32) -> impl Strategy<Value = Line> {
    let word = move || (0..distinct).prop_map(|n| format!("wörd {n}"));
    let pairs = proptest::collection::btree_map(word(), word(), 0..4);
    (
        -1_000_000_000_000_i64..4_000_000_000_000_000,
        -1e9..1e9,
        any::<u8>(),
        any::<u16>(),
        ".{0,200}",
        word(),
        pairs,
        any::<u128>(),
    )
        .prop_map(|(at, ratio, flag, place, text, word, words, id)| Line {
            n: 0,
            at,
            ratio,
            flag,
            place,
            text,
            word,
            words,
            id: uuid::Uuid::from_u128(id).to_string(),
            constant: 9,
            topic: "topic".to_owned(),
        })
}

fn encode(lines: &[Line]) -> bytes::Bytes {
    fn column<T>(lines: &[Line], value: impl Fn(&Line) -> T) -> Vec<T> {
        lines.iter().map(value).collect()
    }
    let (mut texts, mut words, mut maps) = (
        Strings::default(),
        LowCardinality::default(),
        Maps::default(),
    );
    for line in lines {
        texts.push(&line.text);
        let key = words.key(&line.word);
        words.push(key);
        maps.push(&line.words);
    }
    let id = |line: &Line| uuid::Uuid::parse_str(&line.id).unwrap().as_u128();
    let mut block = BlockEncoder::new(11, lines.len(), 0);
    block.fixed("n", "UInt32", &column(lines, |line| line.n));
    block.fixed("at", "DateTime64(6, 'UTC')", &column(lines, |line| line.at));
    block.fixed("ratio", "Float64", &column(lines, |line| line.ratio));
    block.fixed("flag", "UInt8", &column(lines, |line| line.flag));
    block.fixed("place", "UInt16", &column(lines, |line| line.place));
    block.strings("text", &texts);
    block.low_cardinality("word", &words);
    block.maps("words", &maps);
    block.uuids("id", &column(lines, id));
    block.constant("constant", "UInt64", 9_u64);
    block.constant_text("topic", "topic");
    block.finish()
}

async fn round_trip(client: &Client, lines: &[Line]) -> Vec<Line> {
    client
        .query("TRUNCATE TABLE lines")
        .execute()
        .await
        .unwrap();
    let mut insert = client.insert_formatted_with("INSERT INTO lines FORMAT Native");
    insert.send(encode(lines)).await.unwrap();
    insert.end().await.unwrap();
    let read = "SELECT n, toUnixTimestamp64Micro(at) AS at, ratio, flag, place, text, \
         toString(word) AS word, CAST(words, 'Map(String, String)') AS words, toString(id) AS id, \
         constant, toString(topic) AS topic FROM lines ORDER BY n";
    client.query(read).fetch_all().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encoded_is_what_the_server_reads() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = migrated(&server).await;
    let table = "CREATE TABLE lines (n UInt32, \
         at DateTime64(6, 'UTC'), ratio Float64, flag UInt8, place UInt16, text String, \
         word LowCardinality(String), words Map(LowCardinality(String), LowCardinality(String)), \
         id UUID, constant UInt64, topic LowCardinality(String)) ENGINE = Memory";
    client.query(table).execute().await.unwrap();
    let mut runner = TestRunner::deterministic();
    for (distinct, rows) in [(1, 1), (3, 40), (1_000, 200)] {
        let lines = proptest::collection::vec(any_line(distinct), rows);
        let mut lines = lines.new_tree(&mut runner).unwrap().current();
        for (n, line) in (0..).zip(&mut lines) {
            line.n = n;
        }
        assert_eq!(round_trip(&client, &lines).await, lines, "{distinct} words");
    }
    assert_eq!(round_trip(&client, &[]).await, [], "no rows");
    // The width of a dictionary's indices changes at 256 and 65,536 keys.
    let line = any_line(1).new_tree(&mut runner).unwrap().current();
    for distinct in [255, 256, 257, 65_536, 65_537] {
        let word = |n| Line {
            n,
            word: n.to_string(),
            ..line.clone()
        };
        let lines: Vec<Line> = (0..distinct).map(word).collect();
        assert!(
            round_trip(&client, &lines).await == lines,
            "{distinct} words"
        );
    }
}
