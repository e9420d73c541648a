//! The ledger: every request that was answered 204, on disk before it counts.
//!
//! A text file. `run <id> <project>` begins a run; each line after it is the
//! number of an acknowledged request. A line is one write to a file opened for
//! appending, so a generator that is killed leaves at worst half a line at the
//! end, which is ignored; the requests whose lines are missing then were never
//! known to be acknowledged. A restarted generator appends a new run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::bodies::Run;

/// Appends to a ledger.
pub struct Ledger {
    file: File,
}

/// Acknowledged requests by run.
pub type Acknowledged = BTreeMap<Run, BTreeSet<u64>>;

impl Ledger {
    /// Opens a ledger, made if it is not there, and begins a run.
    pub fn begin(path: &Path, run: Run, project: &str) -> io::Result<Self> {
        let mut file = File::options().create(true).append(true).open(path)?;
        // The last run may have left half a line: `~` spoils it.
        file.write_all(format!("~\nrun {:08x} {project}\n", run.0).as_bytes())?;
        Ok(Self { file })
    }

    /// Records that a request was answered 204.
    pub fn acknowledge(&self, number: u64) -> io::Result<()> {
        (&self.file).write_all(format!("{number}\n").as_bytes())
    }
}

/// Reads a ledger.
pub fn read(path: &Path) -> io::Result<Acknowledged> {
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> io::Result<Acknowledged> {
    let mut all = Acknowledged::new();
    let mut current = None;
    for line in text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        if let Some(head) = line.strip_prefix("run ") {
            let id = head.split(' ').next().unwrap_or_default();
            let id = u32::from_str_radix(id, 16).map_err(io::Error::other)?;
            current = Some(all.entry(Run(id)).or_default());
        } else if let (Some(numbers), Ok(number)) = (&mut current, line.parse()) {
            numbers.insert(number);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_read_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let first = Ledger::begin(&path, Run(1), "p").unwrap();
        first.acknowledge(7).unwrap();
        first.acknowledge(3).unwrap();
        // Killed in the middle of a line.
        (&first.file).write_all(b"12").unwrap();
        let second = Ledger::begin(&path, Run(2), "p").unwrap();
        second.acknowledge(9).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read[&Run(2)], BTreeSet::from([9]));
        assert_eq!(read[&Run(1)], BTreeSet::from([3, 7]));
    }

    #[test]
    fn half_a_line_at_the_end_does_not_count() {
        let read = parse("run 0000000a p\n1\n2\n34").unwrap();
        assert_eq!(read[&Run(10)], BTreeSet::from([1, 2]));
    }
}
