//! The embedded log: one partition in a chain of append-only files.
//!
//! For one machine, and for the spool in front of Kafka. The format is
//! described in [`segment`]. A directory holds
//!
//! ```text
//! lock                       held while the log is open, with the process id
//! <first offset>.log         segments of about 64 MiB, the last one is written
//! positions/<group>.position next offset of a reader group
//! ```
//!
//! What always holds: a record is acknowledged only after one `fdatasync`;
//! what is read was acknowledged and passes its checksum; after a failed sync
//! the log refuses every append until it is opened anew, because the kernel may
//! have dropped the pages; nothing below a group's committed position is needed
//! and nothing above it is removed.

mod positions;
mod reader;
mod segment;
mod writer;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::positions::Positions;
use self::reader::EmbeddedReader;
use self::segment::{Incarnation, Segment, Tail};
use self::writer::Writer;
use crate::{
    AppendError, Appended, Completion, EventLog, Health, LogError, LogReader, Offset, Partition,
    Record, metrics,
};

/// Sizes of an embedded log.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedConfig {
    /// A segment is sealed when it has grown past this.
    pub segment_bytes: u64,
    /// The log refuses appends as busy when it holds this much.
    pub max_bytes: u64,
    /// It also refuses them while the disk has less than this left.
    pub reserve_bytes: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            max_bytes: 8 * 1024 * 1024 * 1024,
            reserve_bytes: 256 * 1024 * 1024,
        }
    }
}

/// What readers see: the sealed and the open segments with all durable records.
struct State {
    segments: VecDeque<Segment>,
    positions: Positions,
    poisoned: Option<String>,
}

impl State {
    fn next(&self) -> Offset {
        self.segments.back().map_or(0, Segment::next)
    }

    fn first(&self) -> Offset {
        self.segments.front().map_or(0, |s| s.first)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end).sum()
    }
}

struct Shared {
    dir: PathBuf,
    incarnation: Incarnation,
    state: Mutex<State>,
    appended: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log on local disk. See the module's description.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    /// Held for its lock.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, creating it if there is none. Cuts off the
    /// remains of an unacknowledged write.
    ///
    /// # Errors
    /// Another process has it open, the disk fails, or acknowledged records are damaged.
    pub fn open(dir: &Path, config: EmbeddedConfig) -> Result<Self, LogError> {
        let fatal = |e: io::Error| LogError::Fatal(format!("{}: {e}", dir.display()));
        fs::create_dir_all(dir).map_err(fatal)?;
        let lock = take_lock(dir)?;
        let positions = Positions::open(dir.join("positions")).map_err(fatal)?;
        let (incarnation, mut segments) = open_segments(dir)?;
        if segments.is_empty() {
            segments.push_back(writer::create_segment(dir, 0, &incarnation).map_err(fatal)?);
        }
        let state = State {
            segments,
            positions,
            poisoned: None,
        };
        check_positions(&state)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            incarnation,
            state: Mutex::new(state),
            appended: Condvar::new(),
        });
        Ok(Self {
            shared,
            writer: Mutex::new(Writer::new(config)),
            _lock: lock,
        })
    }

    /// Appends a record, durable on return.
    pub(crate) fn append_now(&self, record: &Record) -> Result<Appended, AppendError> {
        let started = Instant::now();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = writer.append(&self.shared, &record.bytes)?;
        metrics::appended(record.bytes.len(), started.elapsed());
        Ok(Appended {
            partition: 0,
            offset,
        })
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes()
    }
}

impl EventLog for EmbeddedLog {
    fn partitions(&self) -> u32 {
        1
    }

    fn append(&self, record: Record, done: Completion) {
        done(self.append_now(&record));
    }

    fn reader(&self, group: &str) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(EmbeddedReader::new(
            Arc::clone(&self.shared),
            group,
        )))
    }

    fn trim(&self, _partition: Partition, upto: Offset) -> Result<(), LogError> {
        let mut state = self.shared.lock();
        let upto = state
            .positions
            .lowest()
            .map_or(0, |lowest| lowest.min(upto));
        // The open segment stays: its name carries the next offset over a restart.
        while state.segments.len() > 1 && state.segments[0].next() <= upto {
            let path = segment_path(&self.shared.dir, state.segments[0].first);
            fs::remove_file(&path)
                .and_then(|()| positions::sync_dir(&self.shared.dir))
                .map_err(|e| LogError::Unavailable(format!("{}: {e}", path.display())))?;
            state.segments.pop_front();
        }
        metrics::backlog(state.bytes());
        Ok(())
    }

    fn health(&self) -> Health {
        match &self.shared.lock().poisoned {
            None => Health::Ready,
            Some(reason) => Health::NotReady(reason.clone()),
        }
    }
}

fn segment_path(dir: &Path, first: Offset) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

fn take_lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    let open = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = open.map_err(|e| LogError::Fatal(format!("{}: {e}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| LogError::Fatal(format!("{} is in use by another process", dir.display())))?;
    let written = file.set_len(0).and_then(|()| {
        use std::io::Write as _;
        writeln!(&file, "{}", std::process::id())
    });
    written.map_err(|e| LogError::Fatal(format!("{}: {e}", path.display())))?;
    Ok(file)
}

/// Opens every segment in order, checks every record, cuts a torn tail.
fn open_segments(dir: &Path) -> Result<(Incarnation, VecDeque<Segment>), LogError> {
    let fatal = |e: io::Error| LogError::Fatal(format!("{}: {e}", dir.display()));
    let mut firsts = segment_firsts(dir).map_err(fatal)?;
    firsts.sort_unstable();
    drop_unfinished_segment(dir, &mut firsts).map_err(fatal)?;
    let mut incarnation = None;
    let mut segments: VecDeque<Segment> = VecDeque::new();
    for (index, first) in firsts.iter().enumerate() {
        let last = index + 1 == firsts.len();
        let (found, segment) = open_segment(dir, *first, last)?;
        let follows = segments.back().is_none_or(|before| before.next() == *first);
        if !follows || *incarnation.get_or_insert(found) != found {
            return Err(damaged(
                dir,
                *first,
                "does not continue the segment before it",
            ));
        }
        segments.push_back(segment);
    }
    Ok((
        incarnation.unwrap_or_else(|| *uuid::Uuid::now_v7().as_bytes()),
        segments,
    ))
}

fn segment_firsts(dir: &Path) -> io::Result<Vec<Offset>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") {
            let stem = path.file_stem().and_then(|s| s.to_str());
            firsts.extend(stem.and_then(|s| s.parse::<Offset>().ok()));
        }
    }
    Ok(firsts)
}

/// A crash between creating a segment and writing its header leaves a file
/// that holds nothing: it never held a record.
fn drop_unfinished_segment(dir: &Path, firsts: &mut Vec<Offset>) -> io::Result<()> {
    let Some(last) = firsts.last().copied() else {
        return Ok(());
    };
    let path = segment_path(dir, last);
    if fs::metadata(&path)?.len() < segment::FILE_HEADER_BYTES {
        fs::remove_file(&path)?;
        positions::sync_dir(dir)?;
        firsts.pop();
        if firsts.is_empty() && last != 0 {
            return Err(io::Error::other("the only segment is cut short"));
        }
    }
    Ok(())
}

fn open_segment(dir: &Path, first: Offset, last: bool) -> Result<(Incarnation, Segment), LogError> {
    let path = segment_path(dir, first);
    let fatal = |e: io::Error| LogError::Fatal(format!("{}: {e}", path.display()));
    let bytes = fs::read(&path).map_err(fatal)?;
    let Some(incarnation) = segment::read_file_header(&bytes) else {
        return Err(damaged(dir, first, "has no valid header"));
    };
    let scan = segment::scan(&bytes, first);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(fatal)?;
    match scan.tail {
        Tail::Clean => {}
        Tail::Torn if last => {
            let cut = bytes.len() as u64 - scan.end;
            tracing::warn!(segment = %path.display(), bytes = cut, "cut an unfinished write off the log");
            file.set_len(scan.end)
                .and_then(|()| file.sync_all())
                .map_err(fatal)?;
        }
        Tail::Torn | Tail::Damaged => {
            return Err(damaged(dir, first, "holds damaged records"));
        }
    }
    let segment = Segment {
        first,
        file: Arc::new(file),
        positions: scan.positions,
        end: scan.end,
    };
    Ok((incarnation, segment))
}

fn damaged(dir: &Path, first: Offset, what: &str) -> LogError {
    let path = segment_path(dir, first);
    LogError::Fatal(format!(
        "{} {what}; restore it or move it away",
        path.display()
    ))
}

/// A position past the end means that records were lost: another disk, another log.
fn check_positions(state: &State) -> Result<(), LogError> {
    let highest = state.positions.highest();
    if highest.is_some_and(|position| position > state.next()) {
        let next = state.next();
        return Err(LogError::Fatal(format!(
            "a reader's position lies behind the log's end at {next}: acknowledged records are gone"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
