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
        "sluice_log_producer_queue_bytes",
        "Bytes that wait in a Kafka producer or are under way, by topic"
    );
    describe_counter!(
        "sluice_log_spooled_frames_total",
        "Frames written to the spool, because the primary log was late, failed or was away"
    );
    describe_counter!(
        "sluice_log_drained_frames_total",
        "Frames that left the spool because the primary log has them"
    );
    describe_gauge!(
        "sluice_log_spool_backlog_frames",
        "Frames in the spool that the primary log does not have yet"
    );
    describe_gauge!(
        "sluice_log_poisoned",
        "1 after a failed write or sync: restart needed"
    );
    counter!("sluice_log_frames_total").absolute(0);
    counter!("sluice_log_requests_total").absolute(0);
    counter!("sluice_log_bytes_total").absolute(0);
    gauge!("sluice_log_poisoned").set(0.0);
    for reason in crate::spool::REASONS {
        counter!("sluice_log_spooled_frames_total", "reason" => reason).absolute(0);
    }
    counter!("sluice_log_drained_frames_total").absolute(0);
    gauge!("sluice_log_spool_backlog_frames").set(0.0);
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

#[cfg(feature = "kafka")]
pub(crate) fn producer_queue(topic: &str, bytes: u64) {
    gauge!("sluice_log_producer_queue_bytes", "topic" => topic.to_owned()).set(bytes as f64);
}

pub(crate) fn spooled(reason: &'static str) {
    counter!("sluice_log_spooled_frames_total", "reason" => reason).increment(1);
}

pub(crate) fn drained(frames: u64) {
    counter!("sluice_log_drained_frames_total").increment(frames);
}

pub(crate) fn spool_backlog(frames: u64) {
    gauge!("sluice_log_spool_backlog_frames").set(frames as f64);
}
