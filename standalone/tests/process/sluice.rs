//! A running `sluice`, and what can be asked of it and done to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;

/// The first start on a machine fetches its engines.
const START_WITHIN: Duration = Duration::from_mins(10);
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// With this, webhooks may be sent to tests.
pub(crate) const INSIDE: [(&str, &str); 1] = [("SLUICE_WEBHOOKS_ALLOW_PRIVATE", "true")];

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Null where there is none.
    pub(crate) body: Value,
}

/// A running `sluice`; killed when dropped.
pub(crate) struct Sluice {
    pub(crate) child: Child,
    pub(crate) data_dir: PathBuf,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Sluice {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[]).await
    }

    /// With variables besides those that every test needs.
    pub(crate) async fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let data_dir = dir.join("data");
        let credentials = data_dir.join("credentials.json");
        let written = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let before = written(&credentials);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .env("SLUICE_DATA_DIR", &data_dir)
            .env("SLUICE_LISTEN", "127.0.0.1:0")
            .env("SLUICE_ADMIN_LISTEN", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self {
            child,
            data_dir,
            http: Client::builder(TokioExecutor::new()).build_http(),
        };
        let deadline = Instant::now() + START_WITHIN;
        while written(&credentials) == before {
            let ended = this.child.try_wait().unwrap();
            let log = || fs::read_to_string(dir.join("log")).unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}", log());
            tokio::time::sleep(POLL).await;
        }
        this
    }

    pub(crate) fn credentials(&self) -> Value {
        serde_json::from_slice(&fs::read(self.data_dir.join("credentials.json")).unwrap()).unwrap()
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.credentials()[field].as_str().unwrap().to_owned()
    }

    /// Its PostgreSQL, for what no route shows.
    pub(crate) async fn postgres(&self) -> PgPool {
        let credentials = self.credentials();
        let url = credentials["postgres"]["url"].as_str().unwrap();
        PgPool::connect(url).await.unwrap()
    }

    /// As a device sends it.
    pub(crate) async fn report(&self, device: &str, events: Value) -> StatusCode {
        let body = json!({
            "projectSlug": "my-app", "deviceId": device, "platform": "ios",
            "runtimeVersion": "1.0.0", "events": events,
        });
        let url = format!("{}/v1/ota/health-metrics", self.text("baseUrl"));
        let request = Request::post(url)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        self.http.request(request).await.unwrap().status()
    }

    /// As a client of its own sends it: `path` is the request's, and nothing is added.
    pub(crate) async fn send(&self, request: Builder, body: String) -> Response<Incoming> {
        let mut request = request.body(Full::from(body)).unwrap();
        let url = format!("{}{}", self.text("baseUrl"), request.uri());
        *request.uri_mut() = url.parse().unwrap();
        self.http.request(request).await.unwrap()
    }

    /// With the demo project's key. None: no answer, for want of a server.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.text("baseUrl")))
            .header("authorization", format!("Bearer {}", self.text("apiKey")))
            .header("x-project", self.text("projectSlug"))
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default().into())
            .unwrap();
        let (head, body) = self.http.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }

    /// With the demo project's key; the answer's body, null where it has none.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.try_call(Method::POST, path, Some(body)).await.unwrap();
        assert!(answer.status.is_success(), "{path}: {}", answer.body);
        answer.body
    }

    /// With the demo project's key.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.try_call(Method::GET, path, None).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        answer.body
    }

    /// Asks until the answer is what it will be in the end. An engine may be away
    /// meanwhile.
    pub(crate) async fn get_until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Answer { status, body, .. } = self.try_call(Method::GET, path, None).await.unwrap();
            if status == StatusCode::OK && holds(&body) {
                return body;
            }
            let is_usual = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            let is_early = Instant::now() < deadline;
            assert!(is_usual && is_early, "{path} answers {status} {body}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn until_errors(&self, errors: u64) {
        let path = "/v1/ota/telemetry/timeseries?days=2";
        let sum = |answer: &Value| -> u64 {
            let points = answer["data"].as_array().unwrap().iter();
            points.map(|point| point["errors"].as_u64().unwrap()).sum()
        };
        let answer = self.get_until(path, |answer| sum(answer) >= errors).await;
        assert_eq!(sum(&answer), errors);
    }

    /// Whether the admin port says that it can work.
    pub(crate) async fn is_ready(&self) -> bool {
        let url = format!("{}/readyz", self.text("adminUrl"));
        let request = Request::get(&url).body(Full::default()).unwrap();
        let answer = self.http.request(request).await.unwrap();
        answer.status().is_success()
    }

    pub(crate) async fn until_ready(&self, ready: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_ready().await != ready {
            assert!(Instant::now() < deadline, "ready is never {ready}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL's own user passes through it.
pub(crate) fn directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

fn all_processes() -> impl Iterator<Item = u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Processes whose command line or environment names the directory.
fn processes_in(dir: &Path) -> BTreeSet<u32> {
    let name = dir.file_name().unwrap().as_encoded_bytes();
    let names = |file: String| {
        let text = fs::read(file).unwrap_or_default();
        text.windows(name.len()).any(|part| part == name)
    };
    all_processes()
        .filter(|pid| {
            names(format!("/proc/{pid}/cmdline")) || names(format!("/proc/{pid}/environ"))
        })
        .collect()
}

pub(crate) async fn until_nothing_is_left_in(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !processes_in(dir).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_in(dir));
        tokio::time::sleep(POLL).await;
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The process that an engine runs under.
pub(crate) fn engine_process(parent: u32, engine: &str) -> u32 {
    running_engine(parent, engine).unwrap()
}

/// The same, if the engine runs.
pub(crate) fn running_engine(parent: u32, engine: &str) -> Option<u32> {
    let role = format!("\"engine\":\"{engine}\"");
    all_processes()
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            parent_of(*pid) == Some(parent) && String::from_utf8_lossy(&environment).contains(&role)
        })
        .min()
}

/// The engine's own processes, below the one that it runs under.
pub(crate) fn processes_below(ancestor: u32) -> Vec<u32> {
    let descends = |pid: &u32| {
        let mut above = parent_of(*pid);
        while above.is_some_and(|pid| pid != ancestor) {
            above = above.and_then(parent_of);
        }
        above == Some(ancestor)
    };
    all_processes().filter(descends).collect()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    // Gone already is as good.
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}
