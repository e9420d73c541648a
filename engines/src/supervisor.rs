//! Runs a program and stops it when the starter is gone: the life of a child
//! whose engine does not watch its starter itself.
//!
//! On Linux the program also ends when the supervisor itself is killed: it is
//! started by way of a copy of our executable, which asks the system for that
//! and then becomes it. A program started without that copy, because its user
//! may not execute our file, is ended by the next start on its directory.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::child::ROLE;
use crate::files;

/// The charge that a copy of our executable is to become, and whose it is.
const CHARGE: &str = "SLUICE_ENGINE_CHARGE";
/// Our executable, also for users who may not enter the directory that it is in.
const OURSELVES: &str = "/proc/self/exe";

/// A program under supervision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    /// User and group to run as.
    pub(crate) user: Option<(u32, u32)>,
    /// The signal that stops it in order.
    pub(crate) stop_signal: i32,
    /// How long it may take to stop.
    pub(crate) stop_within: Duration,
}

/// Returns when the program has ended.
pub(crate) fn run(charge: &Charge, pid_file: &Path) -> ExitCode {
    let mut engine = match start(charge) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("{}: {error}", charge.program.display());
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = std::fs::write(pid_file, engine.id().to_string()) {
        eprintln!("{}: {error}", pid_file.display());
    }
    let pid = engine.id();
    let (stop_signal, stop_within) = (charge.stop_signal, charge.stop_within);
    std::thread::spawn(move || {
        wait_for_end_of_input();
        stop(pid, stop_signal, stop_within);
    });
    let ended_well = engine.wait().is_ok_and(|status| status.success());
    let _ = std::fs::remove_file(pid_file);
    if ended_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn start(charge: &Charge) -> io::Result<Child> {
    let with_us = (std::process::id(), charge);
    let mut by_way_of_us = Command::new(OURSELVES);
    by_way_of_us.env(CHARGE, serde_json::to_string(&with_us)?);
    if cfg!(target_os = "linux")
        && let Ok(started) = spawn(by_way_of_us, charge)
    {
        return Ok(started);
    }
    spawn(command_of(charge), charge)
}

fn command_of(charge: &Charge) -> Command {
    let mut command = Command::new(&charge.program);
    command.args(&charge.arguments);
    command.envs(charge.environment.iter().cloned());
    command.env_remove(ROLE).env_remove(CHARGE);
    command
}

fn spawn(mut command: Command, charge: &Charge) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    if let Some((uid, gid)) = charge.user {
        command.uid(uid).gid(gid);
    }
    // Where it starts must be a place that its user may enter.
    command.stdin(Stdio::null()).current_dir("/").spawn()
}

/// Becomes a supervisor's program if this process was started for that, and
/// returns only if it cannot.
pub(crate) fn become_charge_if_asked() -> Option<io::Error> {
    let text = std::env::var(CHARGE).ok()?;
    Some(match serde_json::from_str::<(u32, Charge)>(&text) {
        Ok((supervisor, charge)) => become_charge(supervisor, &charge),
        Err(error) => error.into(),
    })
}

fn become_charge(supervisor: u32, charge: &Charge) -> io::Error {
    use std::os::unix::process::CommandExt;
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Signal::from_named_raw(charge.stop_signal))
    {
        return error.into();
    }
    if std::os::unix::process::parent_id() != supervisor {
        return io::Error::other("the supervisor has ended already");
    }
    command_of(charge).exec()
}

/// Returns when every process that holds the other end of our standard input is gone.
fn wait_for_end_of_input() {
    let mut byte = [0];
    while !matches!(io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
}

/// Ends the process of this supervisor's engine; the supervisor ends with it.
fn stop(pid: u32, stop_signal: i32, within: Duration) {
    if let Some(stop_signal) = Signal::from_named_raw(stop_signal) {
        signal(pid, stop_signal);
    }
    std::thread::sleep(within);
    signal(pid, Signal::KILL);
}

/// Sends a signal; that the process is gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends the engine of `dir` whose supervisor was killed, if there is one.
pub(crate) fn end_orphan(dir: &Path, pid_file: &Path, within: Duration) {
    let Some(pid) = files::read_number(pid_file) else {
        return;
    };
    let deadline = Instant::now() + within;
    while runs_on(pid, dir) {
        let late = Instant::now() > deadline;
        signal(pid, if late { Signal::KILL } else { Signal::INT });
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether process `pid` names `dir` in its command line: ids are used again.
fn runs_on(pid: u32, dir: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*dir.to_string_lossy())
}
