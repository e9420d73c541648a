//! Appends: one message per frame, answered by its delivery report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message};

use super::keeper::Status;
use super::{KafkaConfig, MAX_MESSAGE_BYTES};
use crate::{AppendError, Appended, Completion, LogError, Record, metrics};

/// What waits or is under way: more than a committer ever has, less than hurts.
const QUEUE_KBYTES: u32 = 65_536;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A message under way.
pub(crate) struct UnderWay {
    // A mutex makes it shareable, which the library demands; there is one user.
    done: Mutex<Option<Completion>>,
    bytes: usize,
    since: Instant,
}

impl UnderWay {
    fn answer(self, fate: Result<Appended, AppendError>) {
        let done = self
            .done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = done {
            done(fate);
        }
    }
}

/// Receives the reports of one producer.
pub(crate) struct Reports {
    topic: String,
    status: Arc<Status>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.status.producer_is_dead(reason),
            Some(RDKafkaErrorCode::AllBrokersDown) => self.status.trouble("no broker answers"),
            _ => tracing::debug!(topic = self.topic, %error, reason, "trouble with Kafka"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        metrics::producer_queue(&self.topic, statistics.msg_size);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<UnderWay>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, under_way: Box<UnderWay>) {
        let fate = match delivered {
            Ok(message) => {
                self.status.delivered();
                metrics::appended(under_way.bytes, under_way.since.elapsed());
                Ok(Appended {
                    partition: message.partition() as u32,
                    offset: message.offset() as u64,
                })
            }
            Err((error, _)) => Err(fate_of(error)),
        };
        if let Err(AppendError::Unknown(reason) | AppendError::Rejected(reason)) = &fate {
            self.status.trouble(reason);
        }
        under_way.answer(fate);
    }
}

/// A client that appends to one topic.
pub(crate) struct Producer {
    topic: String,
    client: ThreadedProducer<Reports>,
}

impl Producer {
    pub(crate) fn new(config: &KafkaConfig, status: &Arc<Status>) -> Result<Self, LogError> {
        let reports = Reports {
            topic: config.topic.clone(),
            status: Arc::clone(status),
        };
        let client = settings(config)
            .create_with_context(reports)
            .map_err(|error| LogError::Fatal(error.to_string()))?;
        Ok(Self {
            topic: config.topic.clone(),
            client,
        })
    }

    pub(crate) fn send(&self, record: &Record, done: Completion) {
        let under_way = UnderWay {
            done: Mutex::new(Some(done)),
            bytes: record.bytes.len(),
            since: Instant::now(),
        };
        let message = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, Box::new(under_way))
            .partition(record.partition as i32)
            .payload(&record.bytes);
        if let Err((error, message)) = self.client.send(message) {
            message.delivery_opaque.answer(Err(refusal(&error)));
        }
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = config.client();
    settings
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        // The committer has compressed the frame.
        .set("compression.type", "none")
        .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
        .set(
            "message.timeout.ms",
            config.message_timeout.as_millis().to_string(),
        )
        .set("request.timeout.ms", "5000")
        .set("socket.timeout.ms", "6000")
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string())
        .set("statistics.interval.ms", "10000");
    settings
}

/// Why a message was not even queued: nothing was stored.
fn refusal(error: &KafkaError) -> AppendError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => AppendError::Busy {
            retry_after: RETRY_AFTER,
        },
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::TooLarge,
        _ => AppendError::Rejected(error.to_string()),
    }
}

/// What a failed delivery says of the message.
fn fate_of(error: &KafkaError) -> AppendError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => AppendError::TooLarge,
        Some(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PolicyViolation
            | Code::InvalidTopic
            | Code::InvalidRecord
            | Code::UnknownTopic
            | Code::UnknownPartition,
        ) => AppendError::Rejected(error.to_string()),
        _ => AppendError::Unknown(error.to_string()),
    }
}

/// The library's own messages, which are many when brokers come and go.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel as Level;
    match level {
        Level::Emerg | Level::Alert | Level::Critical => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        Level::Error | Level::Warning | Level::Notice | Level::Info | Level::Debug => {
            tracing::debug!(facility, "librdkafka: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: RDKafkaErrorCode) -> AppendError {
        fate_of(&KafkaError::MessageProduction(code))
    }

    #[test]
    fn what_timed_out_is_unknown_and_what_is_refused_is_not() {
        use RDKafkaErrorCode as Code;
        for code in [
            Code::MessageTimedOut,
            Code::NotEnoughReplicasAfterAppend,
            Code::PurgeInflight,
            Code::PurgeQueue,
            Code::Fatal,
        ] {
            assert!(matches!(failed(code), AppendError::Unknown(_)), "{code}");
        }
        for code in [
            Code::TopicAuthorizationFailed,
            Code::PolicyViolation,
            Code::UnknownTopic,
        ] {
            assert!(matches!(failed(code), AppendError::Rejected(_)), "{code}");
        }
        assert!(matches!(
            failed(Code::MessageSizeTooLarge),
            AppendError::TooLarge
        ));
    }

    #[test]
    fn a_full_queue_is_busy() {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert!(matches!(refusal(&full), AppendError::Busy { .. }));
    }
}
