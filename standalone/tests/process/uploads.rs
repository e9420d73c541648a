//! What a large upload takes of the process that it goes through.

use std::fs;

use serde_json::Value;

use crate::crashes::Upload;
use crate::sluice::{Sluice, directory};

/// As large as a build may be, but for its form.
const BUILD_BYTES: usize = 255 * 1024 * 1024;

/// Since the last [`forget_peak`]: the most memory that was resident.
fn peak_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

async fn upload(sluice: &Sluice, byte: u8, bytes: usize, builds: usize) {
    let mut upload = Upload::begin(sluice, bytes).await;
    upload.send(byte, bytes).await;
    upload.end().await;
    let are_there = |answer: &Value| answer.as_array().unwrap().len() == builds;
    sluice.get_until("/v1/ota/builds", are_there).await;
}

#[tokio::test]
async fn a_large_build_never_sits_in_memory() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    upload(&sluice, 1, 1024, 1).await;
    let pid = sluice.child.id();
    forget_peak(pid);
    let before = peak_bytes(pid);
    upload(&sluice, 2, BUILD_BYTES, 2).await;
    let grown = peak_bytes(pid) - before;
    println!("{BUILD_BYTES} bytes took {grown} bytes of memory");
    assert!(grown < BUILD_BYTES / 8, "{grown} bytes");
    let usage = sluice.get("/v1/ota/gc").await;
    assert_eq!(usage["totalSizeBytes"], BUILD_BYTES + 1024);
}
