//! Engines run under a copy of our own executable that dies with us.
//!
//! The copy holds the read end of a pipe as its standard input. Only we hold
//! the other end, so it closes when we are gone, however we went. A ClickHouse
//! child reads that pipe itself; other engines are stopped by a [`supervisor`]
//! that waits for its end. The copy also holds the directory's
//! [`occupancy`] for as long as the engine runs, so that a next start waits
//! for the end of this one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::supervisor::{self, Charge};
use crate::{EngineError, chdb, executable, file_error, files, occupancy};

pub(crate) const ROLE: &str = "SLUICE_ENGINE_CHILD";
const POLL_EVERY: Duration = Duration::from_millis(10);
/// What a child may take beyond its engine's time to stop.
const LEEWAY: Duration = Duration::from_secs(2);

/// What a child is asked to be, as JSON in its environment.
#[derive(Debug, Serialize, Deserialize)]
struct Role {
    /// Names the engine, for those who look for its process.
    engine: String,
    /// The directory that the engine occupies.
    dir: PathBuf,
    /// Removed when the engine has ended.
    remove: Option<PathBuf>,
    work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// The ClickHouse server in this library, with these arguments.
    Library {
        library: PathBuf,
        arguments: Vec<String>,
    },
    /// Run a program and stop it when the starter is gone.
    Supervise(Charge),
}

/// Becomes an engine if this process was started to be one, and never returns
/// then. Otherwise remembers that this executable can be an engine.
pub fn run_child_if_asked() {
    if let Some(error) = supervisor::become_charge_if_asked() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    if let Some(role) = std::env::var_os(ROLE) {
        let code = match serde_json::from_slice(role.as_encoded_bytes()) {
            Ok(role) => become_child(&role),
            Err(_) => ExitCode::FAILURE,
        };
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
    executable::is_this_one();
}

fn become_child(role: &Role) -> ExitCode {
    let Ok(_occupancy) = occupancy::take(&role.dir) else {
        eprintln!("{} is in use", role.dir.display());
        return ExitCode::FAILURE;
    };
    let code = match &role.work {
        Work::Library { library, arguments } => chdb::serve(library, arguments),
        Work::Supervise(charge) => supervisor::run(charge, &pid_file(&role.dir)),
    };
    if let Some(dir) = &role.remove {
        // Left behind at worst: a temporary directory of a test.
        let _ = std::fs::remove_dir_all(dir);
    }
    code
}

fn pid_file(dir: &Path) -> PathBuf {
    dir.join("server.pid")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

/// An engine about to be started.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) engine: &'static str,
    pub(crate) dir: &'a Path,
    /// Removed when the engine has ended.
    pub(crate) remove: Option<PathBuf>,
    pub(crate) work: Work,
    pub(crate) start_within: Duration,
    pub(crate) stop_within: Duration,
}

impl Launch<'_> {
    /// Starts the engine and waits until it is `ready`.
    pub(crate) fn start(self, mut ready: impl FnMut() -> bool) -> Result<Running, EngineError> {
        let (engine, dir) = (self.engine, self.dir);
        let deadline = Instant::now() + self.start_within;
        let mut running = self.spawn()?;
        while !ready() {
            if running.has_ended() || Instant::now() > deadline {
                let reason = files::tail(&log_file(dir));
                return Err(EngineError::Run { engine, reason });
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(running)
    }

    fn spawn(self) -> Result<Running, EngineError> {
        use std::os::unix::process::CommandExt;
        let dir = self.dir;
        let log = log_file(dir);
        let supervised = matches!(self.work, Work::Supervise(_));
        let role = Role {
            engine: self.engine.to_owned(),
            dir: dir.to_owned(),
            remove: self.remove,
            work: self.work,
        };
        let role = serde_json::to_string(&role).map_err(|e| file_error(dir)(e.into()))?;
        let output = std::fs::File::create(&log).map_err(file_error(&log))?;
        let errors = output.try_clone().map_err(file_error(&log))?;
        let executable = executable::path();
        let child = Command::new(executable)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // A terminal's Ctrl-C is for us; we stop our engines in order.
            .process_group(0)
            .spawn()
            .map_err(file_error(executable))?;
        Ok(Running {
            child,
            pid_file: supervised.then(|| pid_file(dir)),
            stop_within: self.stop_within + LEEWAY,
        })
    }
}

/// A running engine. Dropping it stops it, in order, and waits for its end.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Where a supervisor wrote the engine's process id.
    pid_file: Option<PathBuf>,
    stop_within: Duration,
}

impl Running {
    /// The engine's own process.
    pub(crate) fn pid(&self) -> u32 {
        let supervised = self.pid_file.as_deref().and_then(files::read_number);
        supervised.unwrap_or_else(|| self.child.id())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its standard input and waits; kills it when it takes too long.
    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
        if !self.ends_within(self.stop_within) {
            self.kill();
        }
    }

    /// SIGKILL to the engine, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if !self.has_ended() {
            supervisor::signal(self.pid(), rustix::process::Signal::KILL);
        }
        if !self.ends_within(LEEWAY) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(POLL_EVERY);
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
