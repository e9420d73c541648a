//! The committed position of each group: one small file a group, replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Offset;

/// Positions of all groups of one log.
#[derive(Debug)]
pub(crate) struct Positions {
    dir: PathBuf,
    next: BTreeMap<String, Offset>,
}

impl Positions {
    /// Reads what was stored.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut next = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            if let Some(group) = name.and_then(|n| n.strip_suffix(".position")) {
                next.insert(group.to_owned(), read(&path)?);
            }
        }
        Ok(Self { dir, next })
    }

    /// The next offset that `group` reads.
    pub(crate) fn of(&self, group: &str) -> Option<Offset> {
        self.next.get(group).copied()
    }

    /// The lowest position of all groups: nothing below it is needed.
    pub(crate) fn lowest(&self) -> Option<Offset> {
        self.next.values().min().copied()
    }

    /// The highest position of all groups.
    pub(crate) fn highest(&self) -> Option<Offset> {
        self.next.values().max().copied()
    }

    /// Stores a position, durable on return.
    pub(crate) fn store(&mut self, group: &str, next: Offset) -> io::Result<()> {
        let path = self.dir.join(format!("{group}.position"));
        replace(&path, format!("{next}\n").as_bytes())?;
        self.next.insert(group.to_owned(), next);
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Offset> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| {
        let message = format!("{} does not hold an offset", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Writes a file as a whole or not at all, durable on return.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the creation, renaming or removal of a file in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
