//! The executable that becomes an engine's child: our own, or for a test the
//! small one of this package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// This executable calls [`crate::run_child_if_asked`].
pub(crate) fn is_this_one() {
    if let Ok(executable) = std::env::current_exe() {
        EXECUTABLE.get_or_init(|| executable);
    }
}

/// What to start.
pub(crate) fn path() -> &'static Path {
    EXECUTABLE.get_or_init(of_tests)
}

/// A test's executable has the harness's `main`, so tests use `sluice-engine`,
/// which is built beside them when it is missing or older than its source.
fn of_tests() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/<test>
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("."));
    let executable = profile.join("sluice-engine");
    if !is_current(&executable) {
        build(profile);
    }
    executable
}

fn is_current(executable: &Path) -> bool {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    modified(executable).is_some_and(|built| {
        built > newest(&package.join("src")) && Some(built) > modified(&package.join("Cargo.toml"))
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// When the youngest file below `dir` was written.
fn newest(dir: &Path) -> SystemTime {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let times = entries.map(|entry| match entry.path() {
        path if path.is_dir() => newest(&path),
        path => modified(&path).unwrap_or(SystemTime::UNIX_EPOCH),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn build(profile: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "sluice-engines"]);
    command.args(["--bin", "sluice-engine"]);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = profile.parent() {
        command.arg("--target-dir").arg(target);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    // If it fails, starting the executable will say what is missing.
    let _ = command.status();
}
