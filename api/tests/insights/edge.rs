//! The real edge in front of a world's log, for what a device posts.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SubsecRound as _, Utc};
use futures_util::{StreamExt as _, stream};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use sluice_eventlog::committer::CommitterConfig;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_ingest::directory::Directory;
use sluice_ingest::{Edge, Limits, NotFound, Parts, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::world::World;

/// Requests at a time.
const CONCURRENT: usize = 50;

pub(crate) struct Post {
    url: String,
    client: Client,
    _stop: DropGuard,
    _evaluations: TempDir,
}

impl World {
    /// An edge whose health events go into the log of this world.
    pub(crate) async fn edge(&self) -> Post {
        // A client wants to know its cryptography even where it needs none. Another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let evaluations = EmbeddedLog::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let stop = CancellationToken::new();
        let directory = Arc::new(Directory::open(self.pool.clone(), None));
        let (following, leave) = (directory.clone(), stop.clone());
        tokio::spawn(async move { following.follow(leave).await });
        // Before, it takes what anybody sends.
        while !directory.is_loaded() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let parts = Parts {
            directory,
            health: self.log.clone(),
            evaluations: Arc::new(evaluations),
            committer: CommitterConfig::default(),
            limits: Limits::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let edge = Edge::start(parts).unwrap();
        tokio::spawn(serve(listener, edge, NotFound, stop.clone()));
        Post {
            url,
            client: Client::new(),
            _stop: stop.drop_guard(),
            _evaluations: dir,
        }
    }

    /// Devices post these; then it is now, and everything is stored and folded.
    pub(crate) async fn post_and_settle(&mut self, edge: &Post, bodies: &[Value]) {
        let posts = stream::iter(bodies).map(|body| edge.json(body.to_string()));
        let answers: Vec<Response> = posts.buffer_unordered(CONCURRENT).collect().await;
        for answer in answers {
            assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        }
        self.now = Utc::now().trunc_subsecs(6);
        self.settle().await;
    }
}

impl Post {
    pub(crate) async fn send(&self, method: Method, media: &str, body: String) -> Response {
        let url = format!("{}/v1/ota/health-metrics", self.url);
        let request = self.client.request(method, url);
        let request = request.header("content-type", media).body(body);
        request.send().await.unwrap()
    }

    pub(crate) async fn json(&self, body: String) -> Response {
        self.send(Method::POST, "application/json", body).await
    }
}
