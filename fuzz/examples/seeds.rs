//! Writes what the fuzz targets start from: the recorded bodies, and frames of
//! them. A seed's file name is its number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request};
use sluice_schema::id::{FrameId, ProjectId};

const RECORDED: &str = include_str!("../../schema/fixtures/sdk-health-bodies.jsonl");
const BODIES_PER_FRAME: usize = 4;

/// What the recorded bodies have nothing of.
const ODD: [&str; 6] = [
    r#"{"type":"perf_sample","name":"a.b","count":2,"tags":{"duration_ms":"1.5e2"}}"#,
    r#"{"type":"crash","message":{"a":[1,-2.5,null,true]},"isFatal":null,"count":1e3}"#,
    r#"{"type":"custom","name":7,"type":"js_error","flagStates":{"b":1,"a":{"x":"\u0000"},"b":"\ud83d"}}"#,
    r#"{"type":"x","count":-1,"tags":[]}"#,
    r#"{"type":"custom","count":18446744073709551616,"tags":{"k":{},"k":"\ud83d\ude00"}}"#,
    r#"{"type":"app_launch","count":0.5,"flagStates":"no"}"#,
];

/// Reports of flag evaluations; there are no recorded ones.
const REPORTS: [&str; 3] = [
    r#"{"evaluations":[{"flagKey":"a","variationValue":true,"count":3,"channel":null},{"flagKey":"b","count":-1}]}"#,
    r#"{"evaluations":[],"context":{"targetingKey":"k","kind":null,"name":"n","attributes":{"plan":"pro","n":[1.5]}}}"#,
    r#"{"evaluations":[{"flagKey":"c","variationValue":{"x":null},"channel":"beta"}],"context":{"targetingKey":""}}"#,
];

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let odd = ODD.map(|event| {
        format!(
            "\u{feff}{{\"projectSlug\":\"p\",\"deviceId\":\"\",\"platform\":\"web\",\
             \"runtimeVersion\":\"1\",\"channel\":\"\",\"events\":[{event},{{\"type\":\"crash\"}}]}}"
        )
    });
    let bodies: Vec<&str> = RECORDED
        .lines()
        .chain(odd.iter().map(String::as_str))
        .collect();
    write(
        &corpus.join("health"),
        bodies.iter().map(|body| body.as_bytes().to_vec()),
    )?;
    write(
        &corpus.join("frame"),
        bodies.chunks(BODIES_PER_FRAME).map(frame),
    )
}

fn write(dir: &PathBuf, seeds: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (number, seed) in seeds.enumerate() {
        fs::write(dir.join(number.to_string()), seed)?;
    }
    Ok(())
}

fn frame(bodies: &[&str]) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for (number, body) in bodies.iter().enumerate() {
        let request = Request {
            project: match number % 2 {
                0 => ProjectRef::Id(ProjectId(number as i64)),
                _ => ProjectRef::Slug("my-app"),
            },
            received_at_us: 1,
            kind: ContentKind::Health,
            payload: body.as_bytes(),
        };
        builder.push(&request, 1);
    }
    builder.finish(FrameId::new()).to_vec()
}
