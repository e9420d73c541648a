//! later
/// later
#[derive(Debug)]
pub struct Kafka;
