//! The log on Kafka: one topic, read by a consumer group of static members.
//!
//! A log is made without a broker: a keeper thread finds the topic, creates it
//! if it is missing, and watches over it; until then [`EventLog::health`] says
//! why the log is not ready, and what is appended waits in a bounded queue.
//!
//! What always holds: a record is acknowledged only by its delivery report with
//! `acks=all`; every append is answered exactly once, within about
//! [`KafkaConfig::message_timeout`]; what timed out is unknown, not failed. Settings and their
//! measurements: docs/decisions/0020-kafka-settings.md.
//!
//! There is nothing to trim: the topic's retention does that.

mod keeper;
mod producer;
mod reader;
mod topic;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;

use self::keeper::{Keeper, Status};
use self::producer::Producer;
use self::reader::KafkaReader;
use self::topic::Topic;
use crate::{Completion, EventLog, Health, LogError, LogReader, Offset, Partition, Record};

/// Most partitions that a log may have: they have six bits in an event id.
pub const MAX_PARTITIONS: u32 = 64;
/// Largest record, with what Kafka adds: a request of 2 MiB in a frame of its own.
const MAX_MESSAGE_BYTES: u32 = 2_228_224;

/// A topic and how to reach it.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Comma-separated `host:port`.
    pub brokers: String,
    /// Name of the topic.
    pub topic: String,
    /// Partitions of the topic if it has to be created, 1 to 64.
    pub partitions: u32,
    /// Replicas of each partition if it has to be created; `None`: the broker's default.
    pub replication: Option<u16>,
    /// How long records are kept, read or not, if it has to be created.
    pub retention: Duration,
    /// An append is answered within about this.
    pub message_timeout: Duration,
    /// A reader that has been silent for this long loses its partitions.
    pub session_timeout: Duration,
    /// Name of this process in consumer groups, the same after a restart and
    /// unlike any other's. Without one a killed reader's partitions wait for
    /// its session to end.
    pub instance_id: Option<String>,
}

impl KafkaConfig {
    /// 12 partitions, the broker's replication, a week, answers within 10 s,
    /// sessions of 30 s, no instance id.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            partitions: 12,
            replication: None,
            retention: Duration::from_hours(7 * 24),
            message_timeout: Duration::from_secs(10),
            session_timeout: Duration::from_secs(30),
            instance_id: None,
        }
    }

    /// Settings that all clients share.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "sluice")
            .set("socket.keepalive.enable", "true")
            // Expired messages are reported when a broker's thread wakes for its next attempt.
            .set("reconnect.backoff.max.ms", "500")
            .set("allow.auto.create.topics", "false");
        client
    }
}

/// A log on one Kafka topic. See the module's description.
pub struct KafkaLog {
    config: KafkaConfig,
    status: Arc<Status>,
    producer: Arc<Mutex<Arc<Producer>>>,
    _keeper: Keeper,
}

impl KafkaLog {
    /// Makes the log; brokers need not be reachable.
    ///
    /// # Errors
    /// The configuration is no good.
    pub fn open(config: KafkaConfig) -> Result<Self, LogError> {
        if !(1..=MAX_PARTITIONS).contains(&config.partitions) {
            let message = format!("{} partitions: 1 to {MAX_PARTITIONS}", config.partitions);
            return Err(LogError::Fatal(message));
        }
        let status = Arc::new(Status::new(config.partitions));
        let producer = Producer::new(&config, &status)?;
        let producer = Arc::new(Mutex::new(Arc::new(producer)));
        let keeper = Keeper::start(config.clone(), Arc::clone(&status), Arc::clone(&producer))?;
        Ok(Self {
            config,
            status,
            producer,
            _keeper: keeper,
        })
    }

    fn topic(&self) -> Result<Topic, LogError> {
        let topic = topic::ensure(&self.config)
            .map_err(|error| LogError::Unavailable(format!("{}: {error}", self.config.topic)))?;
        self.status.found(&topic);
        Ok(topic)
    }
}

impl EventLog for KafkaLog {
    fn partitions(&self) -> u32 {
        self.status.partitions()
    }

    fn append(&self, record: Record, done: Completion) {
        let producer = {
            let current = self.producer.lock();
            Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
        };
        producer.send(&record, done);
    }

    fn reader(&self, group: &str) -> Result<Box<dyn LogReader>, LogError> {
        let topic = self.topic()?;
        Ok(Box::new(KafkaReader::new(&self.config, group, topic.id)?))
    }

    fn trim(&self, _partition: Partition, _upto: Offset) -> Result<(), LogError> {
        Ok(())
    }

    fn health(&self) -> Health {
        self.status.health()
    }
}

#[cfg(test)]
mod tests;
