//! A ClickHouse server: the one on PATH, or the library of the npm package.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cache::{self, NpmPackage};
use crate::child::{self, Charge, Handle, Role};
use crate::{EngineError, file_error, files, ports};

const ENGINE: &str = "ClickHouse";
const USER: &str = "sluice";
const START_WITHIN: Duration = Duration::from_mins(1);
const STOP_WITHIN: Duration = Duration::from_secs(15);

#[cfg(target_arch = "x86_64")]
const PACKAGE: NpmPackage = NpmPackage {
    engine: ENGINE,
    spec: "@chdb/lib-linux-x64-gnu@26.7.3-stable.1",
    integrity: "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
};

/// Keeps the server alive: it listens until the end of its standard input.
const SERVE: &str = "--query=SYSTEM START LISTEN HTTP; \
     SELECT * FROM file('stdin','LineAsString','l String') FORMAT Null";

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct ClickHouse {
    dir: PathBuf,
    http_port: u16,
    password: String,
    handle: Handle,
}

impl ClickHouse {
    /// Starts a server on `dir`, which keeps its data, its password and its ports.
    pub fn start(dir: &Path) -> Result<Self, EngineError> {
        Self::start_removing(dir, None)
    }

    /// The same, and `remove` is deleted when the server has ended.
    pub(crate) fn start_removing(dir: &Path, remove: Option<PathBuf>) -> Result<Self, EngineError> {
        let dir = std::path::absolute(dir).map_err(file_error(dir))?;
        let dir = dir.as_path();
        fs::create_dir_all(dir).map_err(file_error(dir))?;
        let [http_port] = ports::keep(&dir.join("ports")).map_err(file_error(dir.join("ports")))?;
        let password =
            files::secret(&dir.join("password")).map_err(file_error(dir.join("password")))?;
        let config = write_config(dir, &password)?;
        let arguments = arguments(dir, &config, http_port);
        let role = role(dir, arguments, remove)?;
        let child = child::spawn(&role, &dir.join("server.log"))?;
        let mut server = Self {
            dir: dir.to_owned(),
            http_port,
            password,
            handle: Handle::new(child),
        };
        server.wait_until_ready()?;
        Ok(server)
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
        self.handle.pid()
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        self.handle.stop(STOP_WITHIN);
    }

    /// SIGKILL, as a fault drill does.
    pub fn kill(mut self) {
        self.handle.kill();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.handle.has_ended()
    }

    fn wait_until_ready(&mut self) -> Result<(), EngineError> {
        let deadline = Instant::now() + START_WITHIN;
        while !answers(self.http_port) {
            if self.handle.has_ended() || Instant::now() > deadline {
                let reason = files::tail(&self.dir.join("server.log"));
                return Err(EngineError::Run {
                    engine: ENGINE,
                    reason,
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Whether `GET /ping` says Ok.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 15];
    stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200 OK")
}

fn arguments(dir: &Path, config: &Path, http_port: u16) -> Vec<String> {
    vec![
        "clickhouse".to_owned(),
        format!("--config-file={}", config.display()),
        format!("--path={}", dir.join("data").display()),
        format!("--http_port={http_port}"),
        "--listen_host=127.0.0.1".to_owned(),
        SERVE.to_owned(),
    ]
}

fn role(dir: &Path, arguments: Vec<String>, remove: Option<PathBuf>) -> Result<Role, EngineError> {
    if let Some(program) = files::on_path("clickhouse") {
        return Ok(Role::Supervise(Charge {
            program: "/bin/sh".into(),
            arguments: shell_with_open_input(&program, &arguments),
            user: None,
            stop_signal: rustix::process::Signal::TERM.as_raw(),
            stop_within: STOP_WITHIN,
            log: dir.join("server.log"),
            pid_file: dir.join("server.pid"),
            remove,
        }));
    }
    let package = cache::directory("chdb-26.7.3", |dir| PACKAGE.unpack_into(dir))?;
    let library = package.join("package/libchdb.so");
    if !library.is_file() {
        let reason = format!(
            "{} is missing: remove {}",
            library.display(),
            package.display()
        );
        return Err(EngineError::Run {
            engine: ENGINE,
            reason,
        });
    }
    Ok(Role::ClickHouse {
        library,
        arguments,
        remove,
    })
}

/// Supervised programs get no input, but `clickhouse local` serves until its
/// input ends: give it one that never does.
fn shell_with_open_input(program: &Path, arguments: &[String]) -> Vec<std::ffi::OsString> {
    let script = r#"exec "$0" local "$@" < <(sleep infinity)"#;
    let mut all: Vec<std::ffi::OsString> = vec!["-c".into(), script.into(), program.into()];
    all.extend(arguments[1..].iter().map(Into::into));
    all
}

/// Half of the machine's memory, at most 4 GB (clickhouse.md, Memory).
fn memory_limit_bytes() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 = text
            .lines()
            .next()?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        Some(kib * 1024)
    });
    total.map_or(2_000_000_000, |bytes| (bytes / 2).min(4_000_000_000))
}

fn write_config(dir: &Path, password: &str) -> Result<PathBuf, EngineError> {
    let users = write_users(dir, password)?;
    let path = dir.join("config.xml");
    let memory = memory_limit_bytes();
    let config = format!(
        "<clickhouse>\n\
         <logger><level>warning</level><console>1</console></logger>\n\
         <max_server_memory_usage>{memory}</max_server_memory_usage>\n\
         <mark_cache_size>67108864</mark_cache_size>\n\
         <background_pool_size>2</background_pool_size>\n\
         <background_schedule_pool_size>4</background_schedule_pool_size>\n\
         <max_concurrent_queries>64</max_concurrent_queries>\n\
         <max_thread_pool_size>400</max_thread_pool_size>\n\
         <merge_tree>\n\
         <number_of_free_entries_in_pool_to_lower_max_size_of_merge>0</number_of_free_entries_in_pool_to_lower_max_size_of_merge>\n\
         <number_of_free_entries_in_pool_to_execute_mutation>0</number_of_free_entries_in_pool_to_execute_mutation>\n\
         <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>0</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>\n\
         </merge_tree>\n\
         <users_config>{}</users_config>\n\
         </clickhouse>\n",
        users.display()
    );
    files::write_private(&path, &config).map_err(file_error(&path))?;
    Ok(path)
}

/// The local session that keeps the server alive signs in as `default`, which
/// has no password, so that user may do nothing but this.
fn write_users(dir: &Path, password: &str) -> Result<PathBuf, EngineError> {
    let path = dir.join("users.xml");
    let common = "<profile>default</profile><quota>default</quota>\
                  <networks><ip>127.0.0.1</ip></networks>";
    let users = format!(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users>\n\
         <default><password></password>{common}<grants>\
         <query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT FILE ON *.*</query>\
         <query>GRANT CREATE TEMPORARY TABLE ON *.*</query></grants></default>\n\
         <{USER}><password>{password}</password>{common}\
         <access_management>1</access_management></{USER}>\n\
         </users></clickhouse>\n"
    );
    files::write_private(&path, &users).map_err(file_error(&path))?;
    Ok(path)
}
