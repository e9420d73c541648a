//! A member of a consumer group.
//!
//! A rebalance is announced by one poll and carried out by the next: between
//! the two the caller drops its buffers, or moves the start of a partition that
//! it was given. So nothing is fetched from the wrong place, and a partition is
//! given up only after its buffers are.
//!
//! What always holds: partitions start where the caller was told, or where it
//! sought to; a position that the topic no longer has is a gap if the topic has
//! moved past it, and a failure if the topic ends before it.

mod failures;
mod group;
mod positions;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use uuid::Uuid;

use self::failures::{commit_error, unavailable};
use self::group::{Change, Group};
use self::positions::{Misplaced, Positions};
use super::{KafkaConfig, wire};
use crate::{CommitError, LogError, LogReader, Offset, Partition, ReadEvent, Stored};

/// A question to the brokers.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// The lag is asked for often and is not worth a long wait.
const LAG_TIMEOUT: Duration = Duration::from_secs(1);
/// It is not asked for again so soon after it could not be had.
const LAG_PAUSE: Duration = Duration::from_secs(5);

/// A reader of one topic in a group.
pub(crate) struct KafkaReader {
    consumer: BaseConsumer<Group>,
    brokers: String,
    topic: String,
    incarnation: Uuid,
    positions: Positions,
    /// Announced, to be carried out by the next poll.
    announced: Option<Change>,
    /// A partition lost its place: find out which.
    misplaced: bool,
    ready: VecDeque<ReadEvent>,
    lag_again_at: Cell<Option<Instant>>,
}

impl KafkaReader {
    pub(crate) fn new(
        config: &KafkaConfig,
        group: &str,
        incarnation: Uuid,
    ) -> Result<Self, LogError> {
        let fatal = |error: KafkaError| LogError::Fatal(error.to_string());
        let settings = group::settings(config, group);
        let consumer: BaseConsumer<Group> = settings
            .create_with_context(Group::default())
            .map_err(fatal)?;
        consumer.subscribe(&[&config.topic]).map_err(fatal)?;
        Ok(Self {
            consumer,
            brokers: config.brokers.clone(),
            topic: config.topic.clone(),
            incarnation,
            positions: Positions::default(),
            announced: None,
            misplaced: false,
            ready: VecDeque::new(),
            lag_again_at: Cell::new(None),
        })
    }

    fn list(&self, of: impl IntoIterator<Item = (Partition, KafkaOffset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in of {
            list.add_partition_offset(&self.topic, partition as i32, offset)
                .expect("every offset here has a raw form");
        }
        list
    }

    /// Carries out what the last poll announced.
    fn carry_out(&mut self) -> Result<(), LogError> {
        match self.announced.take() {
            None => Ok(()),
            Some(Change::Assign(partitions)) => {
                for gap in self.positions.begin(&partitions)? {
                    self.ready.push_back(gap);
                }
                let starts = partitions.iter().map(|p| (*p, self.positions.next(*p)));
                let starts = starts.map(|(p, next)| (p, KafkaOffset::Offset(next as i64)));
                let done = self.consumer.incremental_assign(&self.list(starts));
                done.map_err(|error| LogError::Fatal(format!("partitions not taken: {error}")))
            }
            Some(Change::Revoke { partitions, .. }) => {
                let given_up = partitions.iter().map(|p| (*p, KafkaOffset::Invalid));
                let done = self.consumer.incremental_unassign(&self.list(given_up));
                done.map_err(|error| LogError::Fatal(format!("partitions not given up: {error}")))
            }
        }
    }

    /// Announces the next thing that the coordinator wants. It stays wanted
    /// until all that is needed to announce it is known.
    fn announce(&mut self) -> Result<Option<ReadEvent>, LogError> {
        let Some(change) = self.consumer.context().lock().changes.pop_front() else {
            return Ok(None);
        };
        match change {
            Change::Revoke { partitions, lost } => Ok(self.announce_revoked(partitions, lost)),
            Change::Assign(partitions) => match self.announce_assigned(&partitions) {
                Ok(event) => {
                    self.announced = Some(Change::Assign(partitions));
                    Ok(event)
                }
                Err(error) => {
                    let mut wanted = self.consumer.context().lock();
                    wanted.changes.push_front(Change::Assign(partitions));
                    drop(wanted);
                    Err(error)
                }
            },
        }
    }

    fn announce_revoked(&mut self, partitions: Vec<Partition>, lost: bool) -> Option<ReadEvent> {
        self.ready.retain(|event| match event {
            ReadEvent::Records { partition, .. } | ReadEvent::Gap { partition, .. } => {
                !partitions.contains(partition)
            }
            _ => true,
        });
        self.positions.forget(&partitions);
        let event = (!partitions.is_empty()).then(|| ReadEvent::Revoked {
            partitions: partitions.clone(),
            lost,
        });
        self.announced = Some(Change::Revoke { partitions, lost });
        event
    }

    fn announce_assigned(&mut self, of: &[Partition]) -> Result<Option<ReadEvent>, LogError> {
        if of.is_empty() {
            return Ok(None);
        }
        self.check_incarnation()?;
        let first = self.ask(of, KafkaOffset::Beginning, ASK_TIMEOUT)?;
        let end = self.ask(of, KafkaOffset::End, ASK_TIMEOUT)?;
        let committed = self.committed(of)?;
        let mut assigned = Vec::with_capacity(of.len());
        for partition in of {
            let (Some(first), Some(end)) = (first.get(partition), end.get(partition)) else {
                let message = format!("partition {partition} does not say what it holds");
                return Err(LogError::Unavailable(message));
            };
            let next = committed.get(partition).unwrap_or(first);
            self.positions.assign(*partition, *next, *first, *end);
            assigned.push((*partition, *next));
        }
        Ok(Some(ReadEvent::Assigned(assigned)))
    }

    /// Offsets of another topic of the same name would not fit.
    fn check_incarnation(&self) -> Result<(), LogError> {
        let unavailable = |what: String| LogError::Unavailable(format!("{}: {what}", self.topic));
        let topic = wire::describe(&self.brokers, &self.topic)
            .map_err(|error| unavailable(error.to_string()))?
            .ok_or_else(|| unavailable("the topic is gone".to_owned()))?;
        if topic.id == self.incarnation {
            return Ok(());
        }
        let message = format!("{} was created anew: restart needed", self.topic);
        Err(LogError::Fatal(message))
    }

    /// First or end offsets, of those partitions that answer.
    fn ask(
        &self,
        of: &[Partition],
        what: KafkaOffset,
        timeout: Duration,
    ) -> Result<BTreeMap<Partition, Offset>, LogError> {
        // The two logical offsets are what the protocol asks with in place of a time.
        let questions = self.list(of.iter().map(|partition| (*partition, what)));
        let answers = self.consumer.offsets_for_times(questions, timeout);
        answers
            .map(|list| known(&list))
            .map_err(|error| unavailable(&error))
    }

    fn committed(&self, of: &[Partition]) -> Result<BTreeMap<Partition, Offset>, LogError> {
        let questions = self.list(of.iter().map(|p| (*p, KafkaOffset::Invalid)));
        let answers = self.consumer.committed_offsets(questions, ASK_TIMEOUT);
        let answers = answers.map_err(|error| unavailable(&error))?;
        for answer in answers.elements() {
            answer.error().map_err(|error| unavailable(&error))?;
        }
        Ok(known(&answers))
    }

    /// Takes in records until `max_bytes` are there, none is left, or the group changes.
    fn fetch(&mut self, max_bytes: usize, max_wait: Duration) -> Result<(), LogError> {
        let mut fetched: BTreeMap<Partition, Vec<Stored>> = BTreeMap::new();
        let mut bytes = 0;
        let mut wait = max_wait;
        let mut failed = Ok(());
        while bytes < max_bytes && self.consumer.context().lock().changes.is_empty() {
            let polled = self
                .consumer
                .poll(wait)
                .map(|polled| polled.map(|m| owned(&m)));
            match polled {
                None => break,
                Some(Ok((partition, record))) => {
                    if self.positions.take(partition, record.offset) {
                        bytes += record.bytes.len();
                        fetched.entry(partition).or_default().push(record);
                    }
                }
                Some(Err(error)) => {
                    failed = self.judge(&error);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        for (partition, records) in fetched {
            let next = records.last().map_or(0, |record| record.offset + 1);
            self.ready.push_back(ReadEvent::Records {
                partition,
                records,
                next,
            });
        }
        failed
    }

    fn judge(&mut self, error: &KafkaError) -> Result<(), LogError> {
        use RDKafkaErrorCode as Code;
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(LogError::Fatal(error.to_string())),
            KafkaError::MessageConsumption(Code::AutoOffsetReset) => {
                self.misplaced = true;
                Ok(())
            }
            KafkaError::MessageConsumption(
                Code::AllBrokersDown
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::InvalidSessionTimeout
                | Code::Authentication,
            ) => Err(LogError::Unavailable(error.to_string())),
            // One broker of several, or a passing state: the library goes on by itself.
            _ => {
                tracing::debug!(%error, "trouble with Kafka");
                Ok(())
            }
        }
    }

    /// Finds the partitions whose position is not in the log, and moves them.
    fn find_misplaced(&mut self) -> Result<(), LogError> {
        self.check_incarnation()?;
        let assigned = self.positions.partitions();
        let first = self.ask(&assigned, KafkaOffset::Beginning, ASK_TIMEOUT)?;
        let end = self.ask(&assigned, KafkaOffset::End, ASK_TIMEOUT)?;
        for partition in assigned {
            let (Some(first), Some(end)) = (first.get(&partition), end.get(&partition)) else {
                let message = format!("partition {partition} does not say what it holds");
                return Err(LogError::Unavailable(message));
            };
            let next = self.positions.next(partition);
            match positions::judge(partition, next, *first, *end) {
                Misplaced::Nowhere => self.fetch_from(partition, next)?,
                Misplaced::Before(gap) => {
                    self.fetch_from(partition, *first)?;
                    self.positions.seek(partition, *first);
                    self.ready.push_back(gap);
                }
                Misplaced::Behind(failure) => return Err(failure),
            }
        }
        self.misplaced = false;
        Ok(())
    }

    /// Fetches a partition from another place. It is handed back and taken
    /// anew: the library's own seek refuses one whose position was not in the log.
    fn fetch_from(&self, partition: Partition, at: Offset) -> Result<(), LogError> {
        let place = self.list([(partition, KafkaOffset::Offset(at as i64))]);
        let handed_back = self.consumer.incremental_unassign(&place);
        let taken = handed_back.and_then(|()| self.consumer.incremental_assign(&place));
        taken.map_err(|error| LogError::Fatal(format!("partition {partition} not moved: {error}")))
    }
}

impl LogReader for KafkaReader {
    fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<ReadEvent, LogError> {
        self.carry_out()?;
        if self.misplaced {
            self.find_misplaced()?;
        }
        if let Some(event) = self.announce()? {
            return Ok(event);
        }
        if self.ready.is_empty() {
            self.fetch(max_bytes, max_wait)?;
        }
        Ok(self.ready.pop_front().unwrap_or(ReadEvent::Idle))
    }

    fn seek(&mut self, partition: Partition, at: Offset) -> Result<(), LogError> {
        if !matches!(&self.announced, Some(Change::Assign(new)) if new.contains(&partition)) {
            self.fetch_from(partition, at)?;
        }
        self.ready.retain(
            |event| !matches!(event, ReadEvent::Records { partition: of, .. } if *of == partition),
        );
        self.positions.seek(partition, at);
        Ok(())
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) -> Result<(), CommitError> {
        let offsets = next
            .iter()
            .map(|(p, at)| (*p, KafkaOffset::Offset(*at as i64)));
        let committed = self.consumer.commit(&self.list(offsets), CommitMode::Sync);
        committed.map_err(|error| commit_error(&error))
    }

    fn lag(&self) -> Vec<(Partition, u64)> {
        if self
            .lag_again_at
            .get()
            .is_some_and(|at| Instant::now() < at)
        {
            return Vec::new();
        }
        let assigned = self.positions.partitions();
        if assigned.is_empty() {
            return Vec::new();
        }
        let Ok(ends) = self.ask(&assigned, KafkaOffset::End, LAG_TIMEOUT) else {
            self.lag_again_at.set(Some(Instant::now() + LAG_PAUSE));
            return Vec::new();
        };
        self.lag_again_at.set(None);
        let lag = ends.into_iter();
        lag.map(|(p, end)| (p, end.saturating_sub(self.unread(p))))
            .collect()
    }

    fn incarnation(&self) -> String {
        self.incarnation.simple().to_string()
    }
}

impl KafkaReader {
    /// The first offset that no poll has returned.
    fn unread(&self, partition: Partition) -> Offset {
        let waiting = self.ready.iter().find_map(|event| match event {
            ReadEvent::Records {
                partition: of,
                records,
                ..
            } if *of == partition => records.first().map(|record| record.offset),
            _ => None,
        });
        waiting.unwrap_or_else(|| self.positions.next(partition))
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.consumer.context().lock().closing = true;
        // The group waits for an answer to what was announced, or not even that.
        let changes = std::mem::take(&mut self.consumer.context().lock().changes);
        for change in self.announced.take().into_iter().chain(changes) {
            let (Change::Assign(partitions) | Change::Revoke { partitions, .. }) = &change;
            let list = self.list(partitions.iter().map(|p| (*p, KafkaOffset::Invalid)));
            // What fails here is not needed any more.
            let _ = match change {
                Change::Assign(_) => self.consumer.incremental_assign(&list),
                Change::Revoke { .. } => self.consumer.incremental_unassign(&list),
            };
        }
    }
}

fn owned(message: &BorrowedMessage<'_>) -> (Partition, Stored) {
    let stored = Stored {
        offset: message.offset() as u64,
        bytes: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    };
    (message.partition() as u32, stored)
}

/// Absolute offsets of those partitions that have one.
fn known(list: &TopicPartitionList) -> BTreeMap<Partition, Offset> {
    let elements = list.elements();
    let known = elements.iter().filter(|e| e.error().is_ok());
    known
        .filter_map(|e| match e.offset() {
            KafkaOffset::Offset(at) => Some((e.partition() as u32, at as u64)),
            _ => None,
        })
        .collect()
}
