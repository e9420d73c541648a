//! What needs no broker. The rest is in `tests/`, over a mock cluster and a real one.

use super::*;

#[test]
fn a_log_opens_without_a_broker_and_says_why_it_is_not_ready() {
    let log = KafkaLog::open(KafkaConfig::new("127.0.0.1:1", "nowhere")).unwrap();
    assert_eq!(log.partitions(), 12);
    assert!(matches!(log.health(), Health::NotReady(_)));
    assert!(matches!(
        log.reader("g").err(),
        Some(LogError::Unavailable(_))
    ));
}

#[test]
fn partitions_must_fit_an_event_id() {
    for partitions in [0, 65] {
        let config = KafkaConfig {
            partitions,
            ..KafkaConfig::new("127.0.0.1:1", "nowhere")
        };
        assert!(matches!(
            KafkaLog::open(config).err(),
            Some(LogError::Fatal(_))
        ));
    }
}
