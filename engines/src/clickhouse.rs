//! A ClickHouse server: the one on PATH, or the library of the npm package.

mod config;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache;
use crate::child::{Launch, Running, Work};
use crate::npm::NpmPackage;
use crate::supervisor::Charge;
use crate::{EngineError, file_error, files, http, occupancy, ports, tool};

const ENGINE: &str = "ClickHouse";
/// The user that may do everything.
const USER: &str = "sluice";
const START_WITHIN: Duration = Duration::from_mins(1);
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// `None`: nothing that can be verified is published for this platform.
const PACKAGE: Option<NpmPackage> = if cfg!(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_env = "gnu"
)) {
    Some(NpmPackage {
        engine: ENGINE,
        spec: "@chdb/lib-linux-x64-gnu@26.7.3-stable.1",
        integrity: "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
    })
} else {
    None
};

/// Opens the port, and keeps the library's session until its input ends.
const SERVE: &str = "--query=SYSTEM START LISTEN HTTP; \
     SELECT * FROM file('stdin','LineAsString','l String') FORMAT Null";

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct ClickHouse {
    http_port: u16,
    password: String,
    running: Running,
}

impl ClickHouse {
    /// Starts a server on `dir`, which keeps its data, its password and its port.
    pub fn start(dir: &Path) -> Result<Self, EngineError> {
        Self::start_removing(dir, None)
    }

    /// The same, and `remove` is deleted when the server has ended.
    pub(crate) fn start_removing(dir: &Path, remove: Option<PathBuf>) -> Result<Self, EngineError> {
        let dir = &occupancy::prepare(ENGINE, dir)?;
        let [http_port] = ports::keep(&dir.join("ports")).map_err(file_error(dir))?;
        let password = files::secret(&dir.join("password")).map_err(file_error(dir))?;
        let config = config::write(dir, http_port, &password).map_err(file_error(dir))?;
        let launch = Launch {
            engine: ENGINE,
            dir,
            remove,
            work: work(dir, &config)?,
            start_within: START_WITHIN,
            stop_within: STOP_WITHIN,
        };
        let running = launch.start(|| answers(http_port, &password))?;
        Ok(Self {
            http_port,
            password,
            running,
        })
    }

    /// Base address of its HTTP interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The user that may do everything.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// That user's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The process that serves.
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

    /// Runs one statement.
    pub(crate) fn execute(&self, sql: &str) -> Result<String, EngineError> {
        let failed = |reason: String| EngineError::Run {
            engine: ENGINE,
            reason,
        };
        match ask(self.http_port, &self.password, sql) {
            Ok((200, answer)) => Ok(answer),
            Ok((_, answer)) => Err(failed(answer)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Whether our user is let in: only our own server knows its password.
fn answers(port: u16, password: &str) -> bool {
    matches!(ask(port, password, "SELECT 1"), Ok((200, _)))
}

fn ask(port: u16, password: &str, sql: &str) -> std::io::Result<(u16, String)> {
    let headers = [("X-ClickHouse-User", USER), ("X-ClickHouse-Key", password)];
    http::post(port, &headers, sql)
}

fn work(dir: &Path, config: &Path) -> Result<Work, EngineError> {
    if let Some(program) = tool::on_path("clickhouse") {
        let arguments = [
            "server".to_owned(),
            format!("--config-file={}", config.display()),
        ];
        return Ok(Work::Supervise(Charge {
            program,
            arguments: arguments.map(Into::into).into(),
            // A second process that the supervisor would not know.
            environment: vec![("CLICKHOUSE_WATCHDOG_ENABLE".to_owned(), "0".to_owned())],
            user: None,
            stop_signal: rustix::process::Signal::TERM.as_raw(),
            stop_within: STOP_WITHIN,
        }));
    }
    let package = PACKAGE.ok_or(EngineError::MissingTool {
        engine: ENGINE,
        tool: "clickhouse",
        install: "ClickHouse 26.7 or newer, so that `clickhouse` is on PATH",
    })?;
    let unpacked = cache::directory("chdb-26.7.3", |dir| package.unpack_into(dir))?;
    let arguments = [
        "clickhouse".to_owned(),
        format!("--config-file={}", config.display()),
        format!("--path={}", dir.join("data").display()),
        // It does not heed the configuration in this.
        "--log-level=warning".to_owned(),
        SERVE.to_owned(),
    ];
    Ok(Work::Library {
        library: unpacked.join("package/libchdb.so"),
        arguments: arguments.into(),
    })
}
