//! A PostgreSQL server: the one of the system, or the npm package.
//!
//! It refuses to run as root. When we are root it runs as `postgres` or
//! `nobody`, who owns the directory `cluster` alone.

mod cluster;
mod programs;
mod user;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use self::programs::Programs;
use self::user::User;
use crate::child::{Launch, Running, Work};
use crate::supervisor::Charge;
use crate::{EngineError, file_error, files, occupancy, ports};

const ENGINE: &str = "PostgreSQL";
const USER: &str = "sluice";
/// The database that every cluster has.
const DATABASE: &str = "postgres";
const START_WITHIN: Duration = Duration::from_mins(1);
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How much a crash of the machine may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Commits are on disk.
    Full,
    /// Commits are not synced: for tests.
    None,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    password: String,
    running: Running,
}

impl Postgres {
    /// Starts a server on `dir`, which keeps its data, its password and its port.
    pub fn start(dir: &Path, durability: Durability) -> Result<Self, EngineError> {
        Self::start_removing(dir, durability, None)
    }

    /// The same, and `remove` is deleted when the server has ended.
    pub(crate) fn start_removing(
        dir: &Path,
        durability: Durability,
        remove: Option<PathBuf>,
    ) -> Result<Self, EngineError> {
        let dir = &occupancy::prepare(ENGINE, dir)?;
        let user = User::to_run_as();
        let programs = Programs::find()?;
        if let Some(user) = &user {
            user.check_way_to(dir, "SLUICE_DATA_DIR")?;
            user.check_way_to(&programs.bin, "SLUICE_CACHE_DIR")?;
        }
        let password = files::secret(&dir.join("password")).map_err(file_error(dir))?;
        let [port] = ports::keep(&dir.join("ports")).map_err(file_error(dir))?;
        let cluster = cluster::ensure(dir, &programs, user.as_ref(), &password)?;
        let launch = Launch {
            engine: ENGINE,
            dir,
            remove,
            work: Work::Supervise(Charge {
                program: programs.postgres(),
                arguments: arguments(&cluster, port, durability),
                environment: Vec::new(),
                user: user.map(|user| (user.uid, user.gid)),
                // The fast shutdown: open transactions are rolled back.
                stop_signal: Signal::INT.as_raw(),
                stop_within: STOP_WITHIN,
            }),
            start_within: START_WITHIN,
            stop_within: STOP_WITHIN,
        };
        let running = launch.start(|| accepts(port))?;
        Ok(Self {
            port,
            password,
            running,
        })
    }

    /// Address of the database that is there from the start, with user and password.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// Address of its database `name`, with user and password.
    pub fn url_of(&self, name: &str) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://{USER}:{password}@127.0.0.1:{port}/{name}")
    }

    /// The server's first process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        self.running.stop();
    }

    /// SIGKILL, as a fault drill does.
    pub fn kill(mut self) {
        self.running.kill();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }
}

/// Whether the server takes connections: it answers a start-up message by
/// asking for the password, and by an error while it still recovers.
fn accepts(port: u16) -> bool {
    let ask = || -> std::io::Result<[u8; 1]> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&startup_message())?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind)
    };
    ask().is_ok_and(|kind| &kind == b"R")
}

/// Length, protocol version 3.0, parameters.
fn startup_message() -> Vec<u8> {
    const VERSION: u32 = 3 << 16;
    let parameters = format!("user\0{USER}\0database\0{DATABASE}\0\0");
    let length = 8 + parameters.len() as u32;
    let mut message = [length.to_be_bytes(), VERSION.to_be_bytes()].concat();
    message.extend_from_slice(parameters.as_bytes());
    message
}

fn arguments(cluster: &Path, port: u16, durability: Durability) -> Vec<OsString> {
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        "max_connections=200".to_owned(),
        "shared_buffers=64MB".to_owned(),
        // No replicas: less to write, fewer processes.
        "wal_level=minimal".to_owned(),
        "max_wal_senders=0".to_owned(),
        "max_logical_replication_workers=0".to_owned(),
        "jit=off".to_owned(),
    ];
    if durability == Durability::None {
        settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
    }
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.into()];
    for setting in settings {
        arguments.extend(["-c".into(), setting.into()]);
    }
    arguments
}
