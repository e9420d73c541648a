//! A log of several partitions whose members take them from each other, as a
//! consumer group does: a partition is given up by one before another has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_eventlog::embedded::EmbeddedLog;
use sluice_eventlog::{
    CommitError, Completion, EventLog, Health, LogError, LogReader, Offset, Partition, ReadEvent,
    Record,
};

type Member = usize;

#[derive(Default)]
struct Group {
    wanted: BTreeMap<Partition, Member>,
    held: BTreeMap<Partition, Member>,
}

/// The partitions and who has them.
#[derive(Clone)]
pub struct Partitions {
    logs: Arc<Vec<Arc<EmbeddedLog>>>,
    group: Arc<Mutex<Group>>,
}

impl Partitions {
    pub fn new(logs: Vec<Arc<EmbeddedLog>>) -> Self {
        Self {
            logs: Arc::new(logs),
            group: Arc::default(),
        }
    }

    /// From now on `partition` is to be read by `member`.
    pub fn assign(&self, partition: Partition, member: Member) {
        self.group.lock().unwrap().wanted.insert(partition, member);
    }

    /// The log as `member` sees it.
    pub fn member(&self, member: Member) -> Arc<dyn EventLog> {
        Arc::new(MemberLog {
            partitions: self.clone(),
            member,
        })
    }
}

struct MemberLog {
    partitions: Partitions,
    member: Member,
}

impl EventLog for MemberLog {
    fn partitions(&self) -> u32 {
        self.partitions.logs.len() as u32
    }

    fn append(&self, record: Record, done: Completion) {
        self.partitions.logs[record.partition as usize].append(record, done);
    }

    fn reader(&self, group: &str) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(MemberReader {
            partitions: self.partitions.clone(),
            member: self.member,
            group: group.to_owned(),
            readers: BTreeMap::new(),
            turn: 0,
        }))
    }

    fn trim(&self, partition: Partition, upto: Offset) -> Result<(), LogError> {
        self.partitions.logs[partition as usize].trim(0, upto)
    }

    fn health(&self) -> Health {
        Health::Ready
    }
}

struct MemberReader {
    partitions: Partitions,
    member: Member,
    group: String,
    readers: BTreeMap<Partition, Box<dyn LogReader>>,
    turn: u32,
}

impl MemberReader {
    fn give_up(&mut self) -> Vec<Partition> {
        let mut group = self.partitions.group.lock().unwrap();
        let of_others = |p: &Partition| group.wanted.get(p) != Some(&self.member);
        let lost: Vec<Partition> = self.readers.keys().copied().filter(of_others).collect();
        for partition in &lost {
            self.readers.remove(partition);
            group.held.remove(partition);
        }
        lost
    }

    fn take(&mut self) -> Vec<Partition> {
        let mut group = self.partitions.group.lock().unwrap();
        let wanted = group.wanted.iter().filter(|(_, m)| **m == self.member);
        let free = wanted.filter(|(p, _)| !group.held.contains_key(p));
        let taken: Vec<Partition> = free.map(|(p, _)| *p).collect();
        for partition in &taken {
            group.held.insert(*partition, self.member);
        }
        taken
    }

    fn open(&mut self, partition: Partition) -> Result<(Partition, Offset), LogError> {
        let log = &self.partitions.logs[partition as usize];
        let mut reader = log.reader(&self.group)?;
        let ReadEvent::Assigned(positions) = reader.poll(0, Duration::ZERO)? else {
            return Err(LogError::Fatal("no assignment".to_owned()));
        };
        self.readers.insert(partition, reader);
        Ok((partition, positions[0].1))
    }
}

impl LogReader for MemberReader {
    fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<ReadEvent, LogError> {
        let lost = self.give_up();
        if !lost.is_empty() {
            return Ok(ReadEvent::Revoked {
                partitions: lost,
                lost: false,
            });
        }
        let taken = self.take();
        if !taken.is_empty() {
            let opened = taken.into_iter().map(|partition| self.open(partition));
            return Ok(ReadEvent::Assigned(opened.collect::<Result<_, _>>()?));
        }
        self.turn += 1;
        let count = self.readers.len().max(1);
        let turn = self.turn as usize % count;
        match self.readers.iter_mut().nth(turn) {
            None => {
                std::thread::sleep(max_wait);
                Ok(ReadEvent::Idle)
            }
            Some((partition, reader)) => Ok(match reader.poll(max_bytes, max_wait / 8)? {
                ReadEvent::Records { records, next, .. } => ReadEvent::Records {
                    partition: *partition,
                    records,
                    next,
                },
                other => other,
            }),
        }
    }

    fn seek(&mut self, partition: Partition, at: Offset) -> Result<(), LogError> {
        self.readers.get_mut(&partition).unwrap().seek(0, at)
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) -> Result<(), CommitError> {
        for (partition, offset) in next {
            let reader = self.readers.get_mut(partition).ok_or(CommitError::Lost)?;
            reader.commit(&[(0, *offset)])?;
        }
        Ok(())
    }

    fn lag(&self) -> Vec<(Partition, u64)> {
        let lags = self
            .readers
            .iter()
            .map(|(p, reader)| (*p, reader.lag()[0].1));
        lags.collect()
    }

    fn incarnation(&self) -> String {
        "group".to_owned()
    }
}
