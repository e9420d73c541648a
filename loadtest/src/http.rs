//! The few HTTP calls that everything here makes.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::Error;

/// As long as the slowest answer that is still worth having.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of connections. It never sends a request twice: neither does the SDK.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// What came back.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Default for Client {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = Pool::builder(TokioExecutor::new());
        Self {
            pool: builder.retry_canceled_requests(false).build(connector),
        }
    }
}

impl Client {
    /// Posts JSON; the body of the answer is thrown away.
    pub async fn post_json(&self, url: &str, body: Bytes) -> Result<StatusCode, Error> {
        let request = Request::post(url).header(CONTENT_TYPE, "application/json");
        Ok(self.send(request.body(Full::new(body))?).await?.status)
    }

    /// Gets or posts whatever `request` says.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let exchange = async {
            let response = self.pool.request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, Error>(Answer { status, body })
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| "no answer within 30 s")?
    }

    /// Gets a URL.
    pub async fn get(&self, url: &str) -> Result<Answer, Error> {
        self.send(Request::get(url).body(Full::default())?).await
    }
}
