//! Every metric of the log, with its unit.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Registers help texts, so that each metric is visible, and explained, from the start.
pub fn describe() {
    describe_counter!("sluice_log_frames_total", "Frames cut by the committer");
    describe_counter!("sluice_log_requests_total", "Requests put into frames");
    describe_counter!(
        "sluice_log_bytes_total",
        "Bytes of frames appended, compressed"
    );
    describe_histogram!(
        "sluice_log_commit_seconds",
        "From the cut of a frame to its being durable"
    );
    describe_gauge!(
        "sluice_log_backlog_bytes",
        "Bytes of the embedded log on disk"
    );
    describe_gauge!(
        "sluice_log_poisoned",
        "1 after a failed write or sync: restart needed"
    );
    counter!("sluice_log_frames_total").absolute(0);
    counter!("sluice_log_requests_total").absolute(0);
    counter!("sluice_log_bytes_total").absolute(0);
    gauge!("sluice_log_poisoned").set(0.0);
}

pub(crate) fn frame_cut(requests: u32) {
    counter!("sluice_log_frames_total").increment(1);
    counter!("sluice_log_requests_total").increment(u64::from(requests));
}

pub(crate) fn appended(bytes: usize, took: Duration) {
    counter!("sluice_log_bytes_total").increment(bytes as u64);
    histogram!("sluice_log_commit_seconds").record(took);
}

pub(crate) fn backlog(bytes: u64) {
    gauge!("sluice_log_backlog_bytes").set(bytes as f64);
}

pub(crate) fn poisoned() {
    gauge!("sluice_log_poisoned").set(1.0);
}
