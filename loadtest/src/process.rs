//! Programs under test: found beside this one, started, killed, measured.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::Error;

const STOP_WITHIN: Duration = Duration::from_mins(1);

/// The path of one of our other programs, which is built into the same directory.
pub fn beside_us(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let profile = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    Err(format!(
        "{} is missing: build it with `cargo build --workspace --bins{profile}`",
        path.display()
    )
    .into())
}

/// A running program; killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with its output into `log`.
    pub fn start(mut command: Command, log: &std::path::Path) -> Result<Self, Error> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self {
            child: command.spawn()?,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits until it is gone; whether it ended in time.
    pub fn stop(&mut self) -> bool {
        signal(self.pid(), Signal::TERM);
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A copy of this program that serves one variant of a benchmark. It says where
/// it listens in its first line, and ends when its standard input does.
pub struct Server {
    process: Process,
    /// Where it listens.
    pub base_url: String,
    _lives_as_long_as: Option<ChildStdin>,
    _output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `sluice-loadtest serve <arguments>`.
    pub fn start(arguments: &[&str]) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let process = Process { child };
        let mut line = String::new();
        output.read_line(&mut line)?;
        let base_url = line.trim().to_owned();
        if !base_url.starts_with("http://") {
            return Err(format!("the server {arguments:?} did not start").into());
        }
        Ok(Self {
            process,
            base_url,
            _lives_as_long_as: stdin,
            _output: output,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Sends a signal to a process that may be gone already.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// SIGKILL to a process that is not our child, and waits until it is gone.
pub fn kill_and_wait(pid: u32) {
    signal(pid, Signal::KILL);
    while is_running(pid) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether there is such a process that is not merely waiting to be reaped.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map(|(_, after_name)| after_name.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// CPU time that a process has used so far, its children apart.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks =
        cpu_ticks(&stat).ok_or_else(|| io::Error::other("unreadable process statistics"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// User and system time, fields 14 and 15. The name before them may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// What a process has in memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    resident_kib: u64,
    peak_kib: u64,
}

impl Memory {
    /// Of a running process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Self::read(&status).ok_or_else(|| io::Error::other("unreadable process status"))
    }

    fn read(status: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
        })
    }

    /// The most that was resident so far.
    pub fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }

    /// What is resident now above what was at `before`.
    pub fn kib_above(&self, before: &Self) -> f64 {
        self.resident_kib as f64 - before.resident_kib as f64
    }
}

/// Lets this process, and those that it starts from now on, have so many files
/// open, as far as the machine's administrator allows.
pub fn allow_open_files(wanted: u64) -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < wanted {
        return Err(format!(
            "{wanted} open files are needed, {most} are allowed: raise it with `ulimit -Hn {wanted}`"
        )
        .into());
    }
    let raised = Rlimit {
        current: limit.current.map(|now| now.max(wanted)),
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Children of a process whose environment holds `text`.
pub fn children_with(parent: u32, text: &str) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(text)
    };
    pids.filter(|pid| parent_of(*pid) == Some(parent))
        .filter(holds)
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(281));
    }

    #[test]
    fn memory_is_read_from_a_process_s_status() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let memory = Memory::read(status).unwrap();
        assert_eq!((memory.resident_kib, memory.peak_kib), (1024, 2048));
        assert!(Memory::of(std::process::id()).unwrap().peak_mib() > 1.0);
    }

    #[test]
    fn too_many_open_files_are_refused_with_what_to_do() {
        assert!(allow_open_files(64).is_ok());
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let text = allow_open_files(u64::MAX).unwrap_err().to_string();
            assert!(text.contains("ulimit"), "{text}");
        }
    }

    #[test]
    fn our_own_time_can_be_read() {
        let parent = parent_of(std::process::id()).unwrap();
        assert!(cpu_time(std::process::id()).is_ok());
        assert!(children_with(parent, "PATH=").contains(&std::process::id()));
    }

    #[test]
    fn a_killed_process_is_gone_also_when_nobody_has_reaped_it() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        assert!(is_running(child.id()));
        kill_and_wait(child.id());
        assert!(!is_running(child.id()));
        child.wait().unwrap();
    }

    #[test]
    fn a_missing_program_is_told_with_what_builds_it() {
        let text = beside_us("no-such-program").unwrap_err().to_string();
        assert!(text.contains("cargo build --workspace --bins"), "{text}");
    }
}
