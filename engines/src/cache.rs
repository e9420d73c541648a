//! What was fetched: verified once, moved into place whole, used ever after.
//!
//! A directory of the cache holds its files and an inventory of their sizes.
//! It appears by a rename when it is complete. One whose files no longer
//! match the inventory is removed and fetched again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{EngineError, file_error};

const INVENTORY: &str = "inventory.json";
/// Where the cache of root is: its home is closed to the unprivileged user
/// that PostgreSQL runs as.
const OF_ROOT: &str = "/var/cache/sluice";

/// Where fetched engines are kept: `SLUICE_CACHE_DIR`, else `sluice` in the
/// user's cache directory.
pub fn cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let of_system = rustix::process::geteuid()
        .is_root()
        .then(|| PathBuf::from(OF_ROOT));
    variable("SLUICE_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("sluice")))
        .or(of_system)
        .or_else(|| variable("HOME").map(|dir| PathBuf::from(dir).join(".cache/sluice")))
        .unwrap_or_else(|| std::env::temp_dir().join("sluice-cache"))
}

/// The directory `name` of the cache, filled by `fill` if it is not there or
/// not whole. Two processes take turns.
pub(crate) fn directory(
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<PathBuf, EngineError> {
    directory_in(&cache_dir(), name, fill)
}

fn directory_in(
    cache: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<PathBuf, EngineError> {
    let cache = &std::path::absolute(cache).map_err(file_error(cache))?;
    fs::create_dir_all(cache).map_err(file_error(cache))?;
    let target = cache.join(name);
    let _turn = wait_for_turn(&cache.join(format!("{name}.lock")))?;
    if is_whole(&target) {
        return Ok(target);
    }
    remove_remains(cache, name).map_err(file_error(cache))?;
    let fresh = tempfile::Builder::new()
        .prefix(&format!("{name}."))
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(cache)
        .map_err(file_error(cache))?;
    fill(fresh.path())?;
    replace(fresh.path(), &target).map_err(file_error(&target))?;
    Ok(target)
}

/// Removes what a fetch of `name` left that was killed. We have the turn, so
/// there is no other.
fn remove_remains(cache: &Path, name: &str) -> io::Result<()> {
    let prefix = format!("{name}.");
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let is_of_name = entry.file_name().to_string_lossy().starts_with(&prefix);
        if is_of_name && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The lock is held until the file is dropped.
fn wait_for_turn(path: &Path) -> Result<File, EngineError> {
    let file = File::create(path).map_err(file_error(path))?;
    file.lock().map_err(file_error(path))?;
    Ok(file)
}

fn replace(fresh: &Path, target: &Path) -> io::Result<()> {
    let inventory = serde_json::to_vec(&take_inventory(fresh)?)?;
    fs::write(fresh.join(INVENTORY), inventory)?;
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::rename(fresh, target)
}

/// Size in bytes of each file, by its path.
type Inventory = BTreeMap<PathBuf, u64>;

fn is_whole(dir: &Path) -> bool {
    let stored = fs::read(dir.join(INVENTORY)).ok();
    let stored: Option<Inventory> = stored.and_then(|text| serde_json::from_slice(&text).ok());
    stored.is_some() && stored == take_inventory(dir).ok()
}

fn take_inventory(dir: &Path) -> io::Result<Inventory> {
    let mut inventory = Inventory::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if entry.path() != dir.join(INVENTORY) {
                let path = entry.path();
                let path = path.strip_prefix(dir).unwrap_or(&path).to_owned();
                inventory.insert(path, metadata.len());
            }
        }
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(cache: &Path, calls: &mut u32) -> PathBuf {
        let fill = |dir: &Path| {
            *calls += 1;
            fs::create_dir(dir.join("bin")).map_err(file_error(dir))?;
            fs::write(dir.join("bin/engine"), "engine").map_err(file_error(dir))
        };
        directory_in(cache, "engine-1", fill).unwrap()
    }

    #[test]
    fn what_is_whole_is_fetched_once() {
        let cache = tempfile::tempdir().unwrap();
        let mut calls = 0;
        let first = fetch(cache.path(), &mut calls);
        assert_eq!(fetch(cache.path(), &mut calls), first);
        assert_eq!(calls, 1);
        assert!(first.join("bin/engine").is_file());
    }

    #[test]
    fn what_is_damaged_is_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let mut calls = 0;
        let dir = fetch(cache.path(), &mut calls);
        fs::write(dir.join("bin/engine"), "eng").unwrap();
        fetch(cache.path(), &mut calls);
        assert_eq!(fs::read(dir.join("bin/engine")).unwrap(), b"engine");
        fs::remove_file(dir.join("bin/engine")).unwrap();
        fetch(cache.path(), &mut calls);
        fs::write(dir.join(INVENTORY), "{").unwrap();
        fetch(cache.path(), &mut calls);
        assert_eq!(calls, 4);
    }

    #[test]
    fn a_fetch_that_broke_off_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let broken = directory_in(cache.path(), "engine-1", |dir| {
            fs::write(dir.join("half"), "").map_err(file_error(dir))?;
            Err(crate::tool::fetch_error("engine", "the network went away"))
        });
        assert!(broken.is_err());
        let left: Vec<_> = fs::read_dir(cache.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        fetch(cache.path(), &mut 0);
    }

    #[test]
    fn remains_of_a_killed_fetch_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join("engine-1.x8Yz")).unwrap();
        fs::create_dir(cache.path().join("engine-12.x8Yz")).unwrap();
        fetch(cache.path(), &mut 0);
        assert!(!cache.path().join("engine-1.x8Yz").exists());
        assert!(cache.path().join("engine-12.x8Yz").exists(), "another's");
    }

    #[test]
    fn two_at_once_take_turns() {
        let cache = tempfile::tempdir().unwrap();
        let calls = std::sync::atomic::AtomicU32::new(0);
        let fetch = || {
            directory_in(cache.path(), "engine-1", |dir| {
                calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                fs::write(dir.join("engine"), "engine").map_err(file_error(dir))
            })
            .unwrap()
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(fetch);
            }
        });
        assert_eq!(calls.into_inner(), 1);
    }
}
