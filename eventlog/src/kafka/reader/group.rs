//! Membership of a consumer group, as the client library reports it.
//!
//! What always holds: what the group coordinator wants is taken down, in order,
//! and nothing else is done about it here.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::Partition;
use crate::kafka::KafkaConfig;
use crate::kafka::producer::log;

/// What the group coordinator wants.
#[derive(Debug)]
pub(super) enum Change {
    Assign(Vec<Partition>),
    Revoke {
        partitions: Vec<Partition>,
        lost: bool,
    },
}

#[derive(Default)]
pub(super) struct Wanted {
    /// Oldest first.
    pub(super) changes: VecDeque<Change>,
    /// The reader goes: nobody is left to announce anything to.
    pub(super) closing: bool,
}

/// Takes down what the group coordinator wants.
#[derive(Default)]
pub(super) struct Group {
    wanted: Mutex<Wanted>,
}

impl Group {
    pub(super) fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "trouble with Kafka");
    }
}

impl ConsumerContext for Group {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = list.elements().into_iter().map(|e| e.partition() as u32);
        let mut wanted = self.lock();
        if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            wanted
                .changes
                .push_back(Change::Assign(partitions.collect()));
        } else if wanted.closing {
            // Refused only where there is nothing to give up.
            let _ = consumer.incremental_unassign(list);
        } else {
            wanted.changes.push_back(Change::Revoke {
                partitions: partitions.collect(),
                lost: consumer.assignment_lost(),
            });
        }
    }
}

/// The settings of a member of a group.
pub(super) fn settings(config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut settings = config.client();
    settings
        // One group a topic: a process is one static member of each.
        .set("group.id", format!("{group}.{}", config.topic))
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set(
            "session.timeout.ms",
            config.session_timeout.as_millis().to_string(),
        )
        .set("heartbeat.interval.ms", "1000")
        .set("max.poll.interval.ms", "600000")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position outside the log is ours to judge.
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.min.bytes", "65536")
        .set("max.partition.fetch.bytes", "4194304")
        .set("queued.max.messages.kbytes", "65536")
        .set("queued.min.messages", "20000")
        .set("check.crcs", "true");
    if let Some(instance) = &config.instance_id {
        settings.set("group.instance.id", instance);
    }
    settings
}
