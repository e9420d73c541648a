//! Devices that each keep a flag stream open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::flag_api::definitions::device_id;
use crate::flag_api::{COUNTER, FLAGS};
use crate::{Error, PROJECT};

/// Connections that are opened at once.
const OPENING: usize = 64;

/// When the devices got the value that is expected.
pub(super) struct Heard {
    expected: Mutex<(u64, Vec<Instant>)>,
    news: Notify,
}

impl Heard {
    pub(super) fn nothing() -> Arc<Self> {
        Arc::new(Self {
            expected: Mutex::new((u64::MAX, Vec::new())),
            news: Notify::new(),
        })
    }

    /// From now on devices are waited for to get this value.
    pub(super) fn expect(&self, value: u64) {
        *self.lock() = (value, Vec::new());
    }

    fn tell(&self, value: u64) {
        let mut expected = self.lock();
        if expected.0 == value {
            expected.1.push(Instant::now());
            self.news.notify_one();
        }
    }

    /// When devices got the value, in order: of `devices`, or of fewer when
    /// patience is over.
    pub(super) async fn wait_for(&self, devices: usize, patience: Duration) -> Vec<Instant> {
        let deadline = Instant::now() + patience;
        while self.lock().1.len() < devices {
            if timeout_at(deadline, self.news.notified()).await.is_err() {
                break;
            }
        }
        let mut times = std::mem::take(&mut self.lock().1);
        times.sort();
        times
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<Instant>)> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Open streams.
pub(super) struct Devices(Vec<JoinHandle<Result<(), Error>>>);

impl Devices {
    /// Opens `count` streams; each has had its first event when this returns.
    pub(super) async fn open(
        base_url: &str,
        count: usize,
        heard: &Arc<Heard>,
    ) -> Result<Self, Error> {
        let uri: Uri = base_url.parse()?;
        let authority = uri.authority().ok_or("no address")?.as_str();
        let opening = (0..count as u64).map(|number| Device::open(authority, number));
        let mut opening = stream::iter(opening).buffer_unordered(OPENING);
        let mut devices = Vec::with_capacity(count);
        while let Some(device) = opening.next().await {
            devices.push(tokio::spawn(device?.follow(Arc::clone(heard))));
        }
        Ok(Self(devices))
    }

    /// Closes all but `count`.
    pub(super) async fn keep(&mut self, count: usize) -> Result<(), Error> {
        self.check()?;
        let mut closing = JoinSet::new();
        for device in self.0.drain(count.min(self.0.len())..) {
            device.abort();
            closing.spawn(async { drop(device.await) });
        }
        closing.join_all().await;
        Ok(())
    }

    /// An error if a stream has ended, or a device was told something old.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.0.iter().filter(|device| device.is_finished()).count() {
            0 => Ok(()),
            ended => Err(format!("{ended} streams ended, or went back to an older state").into()),
        }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

struct Device {
    body: Incoming,
    /// What came of an event that has not ended yet.
    rest: String,
}

impl Device {
    async fn open(authority: &str, number: u64) -> Result<Self, Error> {
        let socket = TcpStream::connect(authority).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let query = format!(
            "channel=production&deviceId={}&targetingKey=user-{number}&platform=ios&runtimeVersion=1.4.2",
            device_id(number)
        );
        let request = Request::get(format!("/v1/ota/flag-stream/{PROJECT}?{query}"))
            .header("host", authority)
            .header("accept", "text/event-stream")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("a stream was answered {}", response.status()).into());
        }
        let (body, rest) = (response.into_body(), String::new());
        let mut device = Self { body, rest };
        device.read_first().await?;
        Ok(device)
    }

    /// The first event has all flags.
    async fn read_first(&mut self) -> Result<(), Error> {
        loop {
            for event in self.read().await? {
                if let Some(flags) = event["flags"].as_object() {
                    return match flags.len() {
                        FLAGS => Ok(()),
                        other => Err(format!("the first event has {other} flags").into()),
                    };
                }
            }
        }
    }

    /// Tells each value of the counter, once. It only ever grows.
    async fn follow(mut self, heard: Arc<Heard>) -> Result<(), Error> {
        let mut held = 0;
        loop {
            for event in self.read().await? {
                let of_all = &event["flags"][COUNTER]["value"];
                let of_one = match event["key"].as_str() {
                    Some(COUNTER) => &event["flag"]["value"],
                    _ => &Value::Null,
                };
                let Some(value) = of_all.as_u64().or_else(|| of_one.as_u64()) else {
                    continue;
                };
                if value < held {
                    return Err(format!("a device went back from {held} to {value}").into());
                }
                if value > held {
                    heard.tell(value);
                }
                held = value;
            }
        }
    }

    /// The data of the events that have come whole.
    async fn read(&mut self) -> Result<Vec<Value>, Error> {
        let frame = self.body.frame().await.ok_or("the stream ended")??;
        if let Ok(bytes) = frame.into_data() {
            self.rest.push_str(std::str::from_utf8(&bytes)?);
        }
        let Some(end) = self.rest.rfind("\n\n") else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 2);
        let whole = std::mem::replace(&mut self.rest, rest);
        let data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|json| Ok(serde_json::from_str(json)?)).collect()
    }
}
