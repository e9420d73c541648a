//! The program as its users meet it: started on an empty directory, called over
//! HTTP, killed, started again.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The first start on a machine fetches its engines.
const START_WITHIN: Duration = Duration::from_mins(10);
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A running `sluice`; killed when dropped.
struct Sluice {
    child: Child,
    data_dir: PathBuf,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Sluice {
    async fn start(dir: &Path) -> Self {
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

    fn credentials(&self) -> Value {
        serde_json::from_slice(&fs::read(self.data_dir.join("credentials.json")).unwrap()).unwrap()
    }

    fn text(&self, field: &str) -> String {
        self.credentials()[field].as_str().unwrap().to_owned()
    }

    /// As a device sends it.
    async fn report(&self, device: &str, events: Value) -> StatusCode {
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

    /// With the demo project's key; the answer's body, null where it has none.
    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(format!("{}{path}", self.text("baseUrl")))
            .header("authorization", format!("Bearer {}", self.text("apiKey")))
            .header("x-project", self.text("projectSlug"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        assert!(response.status().is_success(), "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// With the demo project's key.
    async fn get(&self, path: &str) -> Value {
        let request = Request::get(format!("{}{path}", self.text("baseUrl")))
            .header("authorization", format!("Bearer {}", self.text("apiKey")))
            .header("x-project", self.text("projectSlug"))
            .body(Full::default())
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// Asks until the answer is what it will be in the end.
    async fn get_until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if holds(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} still answers {answer}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_errors(&self, errors: u64) {
        let path = "/v1/ota/telemetry/timeseries?days=2";
        let sum = |answer: &Value| -> u64 {
            let points = answer["data"].as_array().unwrap().iter();
            points.map(|point| point["errors"].as_u64().unwrap()).sum()
        };
        let answer = self.get_until(path, |answer| sum(answer) >= errors).await;
        assert_eq!(sum(&answer), errors);
    }

    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    fn kill(mut self) {
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
fn directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// Processes whose command line or environment names the directory.
fn processes_in(dir: &Path) -> BTreeSet<u32> {
    let name = dir.file_name().unwrap().as_encoded_bytes();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names = |file: String| {
        let text = fs::read(file).unwrap_or_default();
        text.windows(name.len()).any(|part| part == name)
    };
    pids.filter(|pid| {
        names(format!("/proc/{pid}/cmdline")) || names(format!("/proc/{pid}/environ"))
    })
    .collect()
}

async fn until_nothing_is_left_in(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !processes_in(dir).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_in(dir));
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_counted_once_also_through_kill_9() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let key = sluice.text("apiKey");
    let error =
        |message: &str| json!([{"type": "app_launch"}, {"type": "js_error", "message": message}]);
    assert_eq!(
        sluice.report("device-1", error("first")).await,
        StatusCode::NO_CONTENT
    );
    let seen = sluice
        .get_until("/v1/ota/observe/events", |answer| answer["total"] == 1)
        .await;
    assert_eq!(seen["events"][0]["eventMessage"], "first");
    sluice.until_errors(1).await;

    assert_eq!(
        sluice.report("device-2", error("second")).await,
        StatusCode::NO_CONTENT
    );
    sluice.kill();
    let sluice = Sluice::start(dir.path()).await;
    assert_eq!(sluice.text("apiKey"), key, "what was printed still works");
    sluice.until_errors(2).await;
    let seen = sluice.get("/v1/ota/observe/events").await;
    assert_eq!(seen["total"], 2);

    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

#[tokio::test]
async fn evaluations_are_counted_once_also_through_kill_9() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let flag = json!({"name": "Spine", "key": "spine"});
    let flag = sluice.post("/v1/ota/flags", &flag).await["id"].clone();
    let report = json!({
        "evaluations": [
            {"flagKey": "spine", "variationValue": true, "count": 2, "channel": "beta"},
            {"flagKey": "unknown", "variationValue": 1},
        ],
        "context": {"targetingKey": "spine-user"},
    });
    let counts = format!("/v1/ota/flags/{flag}/evaluations");
    let contexts = "/v1/ota/contexts?search=spine-user";
    sluice.post("/v1/ota/flag-evaluations", &report).await;
    sluice
        .get_until(&counts, |answer| answer["total"] == 2)
        .await;

    sluice.post("/v1/ota/flag-evaluations", &report).await;
    sluice.kill();
    let sluice = Sluice::start(dir.path()).await;
    let counted = |answer: &Value| answer["contexts"][0]["evaluationCount"] == 4;
    sluice.get_until(contexts, counted).await;
    let answer = sluice
        .get_until(&counts, |answer| answer["total"] == 4)
        .await;
    assert_eq!(answer["byVariation"][0]["total"], 4);
    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

#[tokio::test]
async fn a_dead_engine_is_started_again() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let mut errors = 0;
    for engine in ["ClickHouse", "PostgreSQL"] {
        let victim = engine_process(sluice.child.id(), engine);
        kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::KILL).unwrap();
        let message = json!([{"type": "js_error", "message": engine}]);
        assert_eq!(
            sluice.report("device", message).await,
            StatusCode::NO_CONTENT
        );
        errors += 1;
        until_ready(&sluice).await;
        sluice.until_errors(errors).await;
    }
    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

async fn until_ready(sluice: &Sluice) {
    let deadline = Instant::now() + PATIENCE;
    let url = format!("{}/readyz", sluice.text("adminUrl"));
    loop {
        // Looked at after the death has been noticed: the first look may be too early to tell.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let request = Request::get(&url).body(Full::default()).unwrap();
        if sluice
            .http
            .request(request)
            .await
            .unwrap()
            .status()
            .is_success()
        {
            return;
        }
        assert!(Instant::now() < deadline, "never ready again");
    }
}

/// The process that an engine runs under.
fn engine_process(parent: u32, engine: &str) -> u32 {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let role = format!("\"engine\":\"{engine}\"");
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of_ours = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok())
            == Some(parent);
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        of_ours && String::from_utf8_lossy(&environment).contains(&role)
    })
    .min()
    .unwrap()
}

#[test]
fn a_taken_port_is_told_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = directory();
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .env("SLUICE_DATA_DIR", dir.path().join("data"))
        .env("SLUICE_LISTEN", taken.local_addr().unwrap().to_string())
        .env("SLUICE_ADMIN_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("SLUICE_LISTEN"), "{said}");
    assert!(!dir.path().join("data").exists());
}
