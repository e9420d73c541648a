//! The same for `POST /flag-evaluations` (telemetry.md §3).

use sluice_schema::wire::evaluations::{self, Drop, EvaluationBatch};
use sluice_schema::wire::{Refusal, Scratch};

use super::tree::{self, Tree};
use super::{clean, judge};

const MAX_EVALUATIONS: usize = 1_000;

/// What a reader makes of a body.
#[derive(Debug, PartialEq)]
enum Reading {
    NotJson,
    Refused,
    Taken(Report),
}

#[derive(Debug, PartialEq)]
struct Report {
    /// Flag, value, count, channel.
    kept: Vec<(String, String, u32, String)>,
    drops: [u32; 2],
    context: Option<Context>,
}

/// Key, kind, name, attributes.
type Context = (String, String, Option<String>, String);

/// Asserts that the decoder makes of `body` what the rules say, and keeps the limits.
pub fn check(body: &[u8]) {
    let ours = match evaluations::decode(body, &mut Scratch::default()) {
        Err(Refusal::NotJson) => Reading::NotJson,
        Err(_) => Reading::Refused,
        Ok(batch) => Reading::Taken(copy(&batch)),
    };
    if let Reading::Taken(report) = &ours {
        assert_within_limits(report);
    }
    let theirs = judge(body).map(|tree| match tree {
        Err(_) => Reading::NotJson,
        Ok(tree) => report(&tree).map_or(Reading::Refused, Reading::Taken),
    });
    if let Some(theirs) = theirs {
        assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(body));
    }
}

fn copy(batch: &EvaluationBatch<'_>) -> Report {
    let kept = batch.evaluations().map(|entry| {
        let (flag, channel) = (entry.flag_key(), entry.channel());
        let value = entry.variation_json();
        (
            flag.into_owned(),
            value,
            entry.count(),
            channel.into_owned(),
        )
    });
    let context = batch.context().map(|context| {
        (
            context.targeting_key().into_owned(),
            context.kind().into_owned(),
            context.name().map(|name| name.into_owned()),
            context.attributes_json(),
        )
    });
    Report {
        kept: kept.collect(),
        drops: Drop::ALL.map(|reason| batch.drops().of(reason)),
        context,
    }
}

fn assert_within_limits(report: &Report) {
    assert!(report.kept.len() <= MAX_EVALUATIONS);
    for (flag, value, count, channel) in &report.kept {
        assert!(flag.len() <= 256 && channel.len() <= 256);
        assert!((1..=1_000_000_000).contains(count));
        assert!(tree::is_json(value), "{value}");
    }
    if let Some((key, kind, name, attributes)) = &report.context {
        assert!(key.len() <= 1024 && (1..=64).contains(&kind.len()));
        assert!(name.as_ref().is_none_or(|name| name.len() <= 256));
        assert!(attributes.starts_with('{') && attributes.len() <= 256 * 1024);
    }
}

fn report(body: &Tree) -> Option<Report> {
    let all = body.member("evaluations")?.as_list()?;
    let mut drops = [0, all.len().saturating_sub(MAX_EVALUATIONS) as u32];
    let mut kept = Vec::new();
    for entry in all.iter().take(MAX_EVALUATIONS) {
        let flag = clean(entry.member("flagKey")?.as_text()?, 256);
        let count = entry.member("count").map_or(Some(1.0), Tree::as_number)?;
        if count.round() < 1.0 {
            drops[0] += 1;
            continue;
        }
        let value = entry.member("variationValue");
        let value = value.map_or_else(|| "null".to_owned(), Tree::json);
        let channel = text(entry, "channel", 256).unwrap_or_default();
        kept.push((flag, value, count.round().min(1e9) as u32, channel));
    }
    Some(Report {
        kept,
        drops,
        context: body.member("context").map_or(Ok(None), context).ok()?,
    })
}

struct Refused;

/// `None` for a context that is ignored.
fn context(sent: &Tree) -> Result<Option<Context>, Refused> {
    let key = sent.member("targetingKey").and_then(Tree::as_text);
    let key = key.ok_or(Refused)?;
    if key.is_empty() {
        return Ok(None);
    }
    let kind = text(sent, "kind", 64).filter(|kind| !kind.is_empty());
    let attributes = sent.member("attributes");
    let attributes = attributes.filter(|value| matches!(value, Tree::Object(_)));
    let attributes = attributes
        .map(Tree::json)
        .filter(|json| json.len() <= 256 * 1024);
    Ok(Some((
        clean(key, 1024),
        kind.unwrap_or_else(|| "user".to_owned()),
        text(sent, "name", 256),
        attributes.unwrap_or_else(|| "{}".to_owned()),
    )))
}

fn text(of: &Tree, name: &str, limit: usize) -> Option<String> {
    of.member(name).map(|value| clean(&value.text(), limit))
}
