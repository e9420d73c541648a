//! The topic: found, or created by whoever comes first.

use std::fmt;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

pub(crate) use super::wire::Topic;
use super::{KafkaConfig, MAX_MESSAGE_BYTES, MAX_PARTITIONS, wire};

const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no usable topic.
#[derive(Debug)]
pub(crate) struct TopicError(String);

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The topic as it is; created if it is missing, also while others do the same.
/// Right after its creation it may take another call until a broker knows it.
pub(crate) fn ensure(config: &KafkaConfig) -> Result<Topic, TopicError> {
    let topic = if let Some(topic) = describe(config)? {
        topic
    } else {
        create(config).map_err(|error| TopicError(format!("not created: {error}")))?;
        let pending = || TopicError("just created, not served yet".to_owned());
        describe(config)?.ok_or_else(pending)?
    };
    if topic.partitions > MAX_PARTITIONS {
        let message = format!("has {} partitions, more than 64", topic.partitions);
        return Err(TopicError(message));
    }
    Ok(topic)
}

fn describe(config: &KafkaConfig) -> Result<Option<Topic>, TopicError> {
    wire::describe(&config.brokers, &config.topic).map_err(|error| TopicError(error.to_string()))
}

fn create(config: &KafkaConfig) -> Result<(), KafkaError> {
    let max_message_bytes = MAX_MESSAGE_BYTES.to_string();
    let retention_ms = config.retention.as_millis().to_string();
    let replication = TopicReplication::Fixed(config.replication.map_or(-1, i32::from));
    let topic = NewTopic::new(&config.topic, config.partitions as i32, replication)
        .set("max.message.bytes", &max_message_bytes)
        .set("cleanup.policy", "delete")
        .set("retention.ms", &retention_ms);
    let admin: AdminClient<DefaultClientContext> = config.client().create()?;
    let options = AdminOptions::new()
        .request_timeout(Some(CREATE_TIMEOUT))
        .operation_timeout(Some(CREATE_TIMEOUT));
    let created = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| KafkaError::AdminOpCreation(error.to_string()))?
        .block_on(admin.create_topics([&topic], &options))?;
    for result in created {
        match result {
            Ok(_) => tracing::info!(
                topic = config.topic,
                partitions = config.partitions,
                "created the topic"
            ),
            // Somebody else was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}
