//! The least that could do the edge's job: the limits that the edge is held to.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::Error;

/// What a baseline does with a body before it answers 204.
#[derive(Clone)]
pub enum Baseline {
    /// Reads it.
    Bare,
    /// Parses it with simd-json.
    Json,
    /// Parses it and waits for a group's data sync.
    Fsync(Arc<GroupSync>),
}

impl Baseline {
    async fn take(&self, body: Bytes) -> StatusCode {
        let durable = match self {
            Self::Bare => true,
            Self::Json => is_json(&body),
            Self::Fsync(log) => is_json(&body) && log.append(&body).await,
        };
        if durable {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::BAD_REQUEST
        }
    }
}

#[derive(Default)]
struct Scratch {
    body: Vec<u8>,
    buffers: simd_json::Buffers,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn is_json(body: &[u8]) -> bool {
    SCRATCH.with_borrow_mut(
        |Scratch {
             body: copy,
             buffers,
         }| {
            copy.clear();
            copy.extend_from_slice(body);
            simd_json::to_tape_with_buffers(copy, buffers).is_ok()
        },
    )
}

/// Serves a baseline for good.
pub async fn serve(listener: TcpListener, baseline: Baseline) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let baseline = baseline.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let baseline = baseline.clone();
            async move { Ok::<_, Infallible>(answer(request, &baseline).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn answer(request: Request<Incoming>, baseline: &Baseline) -> Response<Empty<Bytes>> {
    let status = match request.into_body().collect().await {
        Ok(body) => baseline.take(body.to_bytes()).await,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// One file, one thread, one data sync for all that wait.
pub struct GroupSync {
    group: Mutex<Group>,
    arrived: Condvar,
}

impl GroupSync {
    /// Starts the thread that writes to `path`.
    pub fn start(path: &Path) -> Result<Arc<Self>, Error> {
        let file = File::create(path)?;
        let this = Arc::new(Self {
            group: Mutex::default(),
            arrived: Condvar::new(),
        });
        let of_thread = Arc::clone(&this);
        std::thread::spawn(move || {
            while let Err(error) = of_thread.write_groups(&file) {
                eprintln!("the baseline cannot write: {error}");
            }
        });
        Ok(this)
    }

    async fn append(&self, bytes: &[u8]) -> bool {
        let (sender, synced) = oneshot::channel();
        {
            let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            group.bytes.extend_from_slice(bytes);
            group.waiting.push(sender);
        }
        self.arrived.notify_one();
        synced.await.is_ok()
    }

    fn write_groups(&self, mut file: &File) -> std::io::Result<()> {
        loop {
            let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            let mut group = self
                .arrived
                .wait_while(group, |group| group.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let Group { bytes, waiting } = std::mem::take(&mut *group);
            drop(group);
            file.write_all(&bytes)?;
            file.sync_data()?;
            for waiter in waiting {
                // A client that is gone.
                let _ = waiter.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_means_that_the_body_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let fsync = Baseline::Fsync(GroupSync::start(&path).unwrap());
        assert_eq!(
            fsync.take(Bytes::from_static(b"{\"a\":1}")).await,
            StatusCode::NO_CONTENT
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"a\":1}");
        for parsing in [Baseline::Json, fsync] {
            assert_eq!(
                parsing.take(Bytes::from_static(b"{")).await,
                StatusCode::BAD_REQUEST
            );
        }
        assert_eq!(
            Baseline::Bare.take(Bytes::from_static(b"{")).await,
            StatusCode::NO_CONTENT
        );
    }
}
