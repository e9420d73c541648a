//! Engines run under a copy of our own executable that dies with us.
//!
//! The copy holds the read end of a pipe as its standard input. Only we hold
//! the other end, so it closes when we are gone, however we went. A ClickHouse
//! child reads that pipe itself; other engines are stopped by a supervisor
//! that waits for its end.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{EngineError, chdb, file_error};

const ROLE: &str = "SLUICE_ENGINE_CHILD";

/// What a child is asked to be, as JSON in the environment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// The ClickHouse server in this library, with these arguments.
    ClickHouse {
        library: PathBuf,
        arguments: Vec<String>,
        remove: Option<PathBuf>,
    },
    /// Run a program and stop it when the starter is gone.
    Supervise(Charge),
}

/// A program under supervision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// User and group to run as.
    pub(crate) user: Option<(u32, u32)>,
    /// The signal that stops it in order.
    pub(crate) stop_signal: i32,
    /// How long it may take to stop.
    pub(crate) stop_within: Duration,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// Where the pid is written.
    pub(crate) pid_file: PathBuf,
    /// Removed when it has stopped.
    pub(crate) remove: Option<PathBuf>,
}

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// Becomes an engine if this process was started to be one, and never returns
/// then. Otherwise remembers that this executable can be an engine.
pub fn run_child_if_asked() {
    if let Some(role) = std::env::var_os(ROLE) {
        let role = serde_json::from_slice(role.as_encoded_bytes());
        let code = role.map_or(ExitCode::FAILURE, become_child);
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
    if let Ok(executable) = std::env::current_exe() {
        EXECUTABLE.get_or_init(|| executable);
    }
}

fn become_child(role: Role) -> ExitCode {
    let (code, remove) = match role {
        Role::ClickHouse {
            library,
            arguments,
            remove,
        } => (chdb::serve(&library, &arguments), remove),
        Role::Supervise(charge) => (supervise(&charge), charge.remove),
    };
    if let Some(dir) = remove {
        // Left behind at worst: a temporary directory of a test.
        let _ = std::fs::remove_dir_all(dir);
    }
    code
}

/// Starts a child. Its standard input is the pipe that tells it that we live.
pub(crate) fn spawn(role: &Role, log: &Path) -> Result<Child, EngineError> {
    let executable = EXECUTABLE.get_or_init(test_executable);
    let role = serde_json::to_string(role).map_err(|e| file_error(executable)(e.into()))?;
    let output = std::fs::File::create(log).map_err(file_error(log))?;
    let errors = output.try_clone().map_err(file_error(log))?;
    Command::new(executable)
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(file_error(executable))
}

/// A test's executable cannot be an engine, so tests use the small one of this
/// package, built on demand.
fn test_executable() -> PathBuf {
    let current = std::env::current_exe().unwrap_or_default();
    let profile = current
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("target/debug"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "sluice-engines",
        "--bin",
        "sluice-engine",
    ]);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = profile.parent() {
        command.arg("--target-dir").arg(target);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !command.status().is_ok_and(|status| status.success()) {
        tracing::warn!("cargo could not build sluice-engine");
    }
    profile.join("sluice-engine")
}

fn supervise(charge: &Charge) -> ExitCode {
    let Some(mut engine) = start(charge) else {
        return ExitCode::FAILURE;
    };
    let pid = Pid::from_child(&engine);
    let (signal, within) = (charge.stop_signal, charge.stop_within);
    std::thread::spawn(move || {
        wait_for_end_of_input();
        stop(pid, signal, within);
    });
    match engine.wait() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn start(charge: &Charge) -> Option<Child> {
    use std::os::unix::process::CommandExt;
    let log = std::fs::File::create(&charge.log).ok()?;
    let mut command = Command::new(&charge.program);
    command.args(&charge.arguments).stdin(Stdio::null());
    command.stdout(log.try_clone().ok()?).stderr(log);
    if let Some((uid, gid)) = charge.user {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").env_remove(ROLE);
    let engine = command.spawn().ok()?;
    std::fs::write(&charge.pid_file, engine.id().to_string()).ok()?;
    Some(engine)
}

/// Returns when every process that holds the other end of our standard input is gone.
pub(crate) fn wait_for_end_of_input() {
    let mut byte = [0];
    while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
}

fn stop(pid: Pid, signal: i32, within: Duration) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
    std::thread::sleep(within);
    let _ = kill_process(pid, Signal::KILL);
}

/// A running child of ours.
#[derive(Debug)]
pub(crate) struct Handle {
    child: Child,
}

impl Handle {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its standard input and waits; kills it when it takes longer.
    pub(crate) fn stop(&mut self, within: Duration) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + within;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
    }
}
