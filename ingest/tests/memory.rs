//! Hostile bodies, again and again, leave memory as flat as the first of them did.
//!
//! A program of its own, because it looks at the memory of the whole process.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each used by some"
)]

#[path = "edge/support.rs"]
mod support;

use std::io::Write as _;

use serde_json::json;
use sluice_schema::wire::MAX_BODY_BYTES;
use sqlx::postgres::PgPoolOptions;
use support::*;

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// 100 MiB of spaces in a few kilobytes.
fn bombs() -> [(&'static str, Vec<u8>); 2] {
    let spaces = vec![b' '; 1024 * 1024];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..100 {
        gzip.write_all(&spaces).unwrap();
        zstd.write_all(&spaces).unwrap();
    }
    [
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd.finish().unwrap()),
    ]
}

async fn round(world: &World, bombs: &[(&str, Vec<u8>)]) {
    for (encoding, bomb) in bombs {
        let request = Request::post(HEALTH, bomb).with("Content-Encoding", encoding);
        assert_eq!(world.send(request).await.status, 413, "{encoding}");
    }
    let million = format!("[{}0]", "0,".repeat(1_000_000));
    let deep = "[".repeat(100_000);
    let events = "{\"type\":\"crash\"},".repeat(100_000);
    let many = body(&json!("E")).to_string();
    let many = many.replace("\"E\"", &format!("[{events}{{\"type\":\"crash\"}}]"));
    let over = vec![b' '; MAX_BODY_BYTES + 1];
    for (body, status) in [
        (million.as_bytes(), 400),
        (deep.as_bytes(), 400),
        (many.as_bytes(), 204),
        (&over, 413),
    ] {
        assert_eq!(world.post(body).await.status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat() {
    let nowhere = PgPoolOptions::new()
        .connect_lazy("postgres://nobody@127.0.0.1:1/none")
        .unwrap();
    let world = World::without_waiting(nowhere, Setting::default()).await;
    let bombs = bombs();
    for _ in 0..4 {
        round(&world, &bombs).await;
    }
    let warm = resident_bytes();
    for _ in 0..12 {
        round(&world, &bombs).await;
    }
    let grown = resident_bytes().saturating_sub(warm);
    // Each round would inflate to more than 200 MiB.
    assert!(grown < 64 * 1024 * 1024, "grew by {grown} bytes");
}
