//! One attempt: a request to a checked address, and what it was answered with.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use tokio::net::lookup_host;

use super::{address, signature};

/// One attempt, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read and kept.
const MAX_RESPONSE_BYTES: usize = 4096;
const USER_AGENT: &str = concat!("Sluice/", env!("CARGO_PKG_VERSION"));
const NOT_PUBLIC: &str = "the address is not a public one";

/// Sends webhooks. Cloning shares its connections.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client,
    allow_private: bool,
}

/// What is sent, and where.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) id: i64,
    pub(super) url: &'a str,
    pub(super) event: &'a str,
    pub(super) body: &'a str,
    /// The newest first; none: unsigned.
    pub(super) secrets: &'a [&'a str],
    pub(super) at: DateTime<Utc>,
}

/// What came of an attempt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) http_status: Option<i32>,
    pub(super) response_body: Option<String>,
    /// None: it succeeded.
    pub(super) error: Option<String>,
}

impl Sender {
    /// A sender that reaches public addresses, or any if the operator says so.
    pub fn new(allow_private: bool) -> Result<Self, reqwest::Error> {
        // An error means that the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            // A proxy would look names up by itself, unchecked.
            .no_proxy()
            .dns_resolver(Arc::new(CheckedResolver { allow_private }))
            .build()?;
        Ok(Self {
            client,
            allow_private,
        })
    }

    pub(super) async fn send(&self, outgoing: &Outgoing<'_>) -> Outcome {
        match self.request(outgoing).await {
            Ok(response) => read(response).await,
            Err(error) => Outcome {
                error: Some(error),
                ..Outcome::default()
            },
        }
    }

    async fn request(&self, outgoing: &Outgoing<'_>) -> Result<Response, String> {
        let url = Url::parse(outgoing.url).map_err(|error| error.to_string())?;
        // An address that is spelled out is not looked up, so it is checked here.
        if !self.allow_private && address::literal(&url).is_some_and(|ip| !address::is_public(ip)) {
            return Err(NOT_PUBLIC.to_owned());
        }
        let request = self
            .client
            .post(url)
            .headers(headers(outgoing))
            .body(outgoing.body.to_owned());
        request.send().await.map_err(|error| describe(&error))
    }
}

fn headers(outgoing: &Outgoing<'_>) -> HeaderMap {
    let id = outgoing.id.to_string();
    let timestamp_s = outgoing.at.timestamp();
    let mut headers = vec![
        (CONTENT_TYPE.as_str(), "application/json".to_owned()),
        ("x-dispatch-event", outgoing.event.to_owned()),
        ("x-dispatch-delivery", id.clone()),
        ("webhook-timestamp", timestamp_s.to_string()),
    ];
    if let Some(newest) = outgoing.secrets.first() {
        let standard = signature::standard(outgoing.secrets, &id, timestamp_s, outgoing.body);
        headers.push((
            "x-dispatch-signature",
            signature::dispatch(newest, outgoing.body),
        ));
        headers.push(("webhook-signature", standard));
    }
    headers.push(("webhook-id", id));
    headers
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), ascii(value)))
        .collect()
}

fn ascii(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("numbers, names of events, hex and base64 are ASCII")
}

async fn read(mut response: Response) -> Outcome {
    let status = response.status();
    let mut body = Vec::new();
    // A body that breaks off is kept as far as it came: the status has decided.
    while body.len() < MAX_RESPONSE_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(MAX_RESPONSE_BYTES);
    body.truncate(whole_chars(&body));
    // Postgres takes no NUL in a text.
    let text = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
    Outcome {
        http_status: Some(i32::from(status.as_u16())),
        response_body: Some(text),
        error: (!status.is_success()).then(|| format!("HTTP {}", status.as_u16())),
    }
}

/// How much is left without a character that was cut in two.
fn whole_chars(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

/// The innermost reason, which is the one that helps.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Looks names up and leaves out what may not be reached. The connection goes
/// to what is left, so that a name cannot change its mind after the check.
#[derive(Debug)]
struct CheckedResolver {
    allow_private: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|found| allow_private || address::is_public(found.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(NOT_PUBLIC.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(url: &str) -> Outgoing<'_> {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Outgoing {
            id: 7,
            url,
            event: "branch.created",
            body: "{}",
            secrets: &[],
            at,
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_to_addresses_that_are_not_public() {
        let sender = Sender::new(false).unwrap();
        for url in [
            "http://127.0.0.1:9/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]:9/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://localhost:9/",
        ] {
            let outcome = sender.send(&outgoing(url)).await;
            assert_eq!(outcome.error.as_deref(), Some(NOT_PUBLIC), "{url}");
            assert_eq!(outcome.http_status, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_does_not_answer_is_given_ten_seconds() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let began = tokio::time::Instant::now();
        let outcome = Sender::new(true).unwrap().send(&outgoing(&url)).await;
        assert_eq!(outcome.error.as_deref(), Some("no answer within 10 s"));
        assert_eq!(began.elapsed().as_secs(), TIMEOUT.as_secs());
    }

    #[test]
    fn a_character_that_was_cut_in_two_is_left_out() {
        assert_eq!(whole_chars("aä".as_bytes()), 3);
        assert_eq!(whole_chars(&"aä".as_bytes()[..2]), 1);
        assert_eq!(whole_chars(b"a\xffb"), 3);
    }

    #[test]
    fn ids_and_time_are_sent_without_a_secret_and_signatures_are_not() {
        let headers = headers(&outgoing("http://example.test/"));
        assert_eq!(headers["webhook-id"], "7");
        assert_eq!(headers["webhook-timestamp"], "1700000000");
        assert_eq!(headers["content-type"], "application/json");
        assert!(!headers.contains_key("webhook-signature"));
        assert!(!headers.contains_key("x-dispatch-signature"));
    }
}
