//! What a failure of the client library means to a reader.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::{CommitError, LogError};

/// The brokers cannot be asked now.
pub(super) fn unavailable(error: &KafkaError) -> LogError {
    LogError::Unavailable(error.to_string())
}

/// Whether a commit that failed is worth repeating.
pub(super) fn commit_error(error: &KafkaError) -> CommitError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(
            Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::FencedInstanceId
            | Code::AssignmentLost,
        ) => CommitError::Lost,
        Some(Code::Fatal) => CommitError::Fatal(error.to_string()),
        _ => CommitError::Retry(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_a_lost_partition_is_told_from_one_to_repeat() {
        use RDKafkaErrorCode as Code;
        let failed = |code| commit_error(&KafkaError::ConsumerCommit(code));
        for code in [
            Code::IllegalGeneration,
            Code::UnknownMemberId,
            Code::FencedInstanceId,
        ] {
            assert!(matches!(failed(code), CommitError::Lost), "{code}");
        }
        for code in [
            Code::RebalanceInProgress,
            Code::CoordinatorNotAvailable,
            Code::NotCoordinator,
        ] {
            assert!(matches!(failed(code), CommitError::Retry(_)), "{code}");
        }
        assert!(matches!(failed(Code::Fatal), CommitError::Fatal(_)));
    }
}
