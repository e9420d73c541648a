//! An endpoint that webhooks are sent to: it keeps what it is sent and answers
//! as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Until when something must have arrived.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16, String),
    Redirect(String),
    /// None, ever.
    Silence,
    /// A failure, once it is let go.
    Held(Arc<Notify>),
}

#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    received: UnboundedReceiver<Received>,
    replies: Arc<Mutex<Replies>>,
    server: JoinHandle<()>,
}

struct Replies {
    next: VecDeque<Reply>,
    then: Reply,
}

type Shared = (UnboundedSender<Received>, Arc<Mutex<Replies>>);

impl Receiver {
    /// Answers 200, until it is told otherwise.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, received) = unbounded_channel();
        let replies = Arc::new(Mutex::new(Replies {
            next: VecDeque::new(),
            then: Reply::Status(200, "thanks".to_owned()),
        }));
        let app = Router::new()
            .fallback(receive)
            .with_state((sender, Arc::clone(&replies)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            received,
            replies,
            server,
        }
    }

    /// From now on, it answers so.
    pub(crate) fn always(&self, reply: Reply) {
        self.replies.lock().unwrap().then = reply;
    }

    pub(crate) fn fail(&self) {
        self.always(Reply::Status(503, "down".to_owned()));
    }

    /// The next request is answered so.
    pub(crate) fn once(&self, reply: Reply) {
        self.replies.lock().unwrap().next.push_back(reply);
    }

    /// A request that has arrived already.
    pub(crate) fn arrived(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }

    /// All requests that have arrived already.
    pub(crate) fn all(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.arrived()).collect()
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Received {
        let next = timeout(PATIENCE, self.received.recv()).await;
        next.expect("a request should have arrived").unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    State((sender, replies)): State<Shared>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let reply = {
        let mut replies = replies.lock().unwrap();
        let next = replies.next.pop_front();
        next.unwrap_or_else(|| replies.then.clone())
    };
    // Nobody may be interested any more.
    let _ = sender.send(Received { headers, body });
    match reply {
        Reply::Status(status, body) => {
            (StatusCode::from_u16(status).unwrap(), body).into_response()
        }
        Reply::Redirect(to) => (StatusCode::FOUND, [(LOCATION, to)]).into_response(),
        Reply::Held(letting_go) => {
            letting_go.notified().await;
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Reply::Silence => std::future::pending().await,
    }
}

/// HMAC-SHA256 by its definition (RFC 2104), so that signatures are not
/// verified by what made them.
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner);
    outer.finalize().to_vec()
}
