//! What dashboards ask.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::task::JoinSet;

use crate::Error;
use crate::http::Client;
use crate::standalone::Credentials;

const BASE: &str = "/v1/ota";
/// How long the fixed answer is asked for.
const FIXED: Duration = Duration::from_secs(5);

/// A question.
pub(super) struct Question {
    pub(super) name: &'static str,
    /// `{flag}` is the id of a flag.
    path: &'static str,
    /// Whether its wait is held to a bar.
    pub(super) held: bool,
    /// What its answers are called in the metrics of the API.
    kind: &'static str,
}

const fn question(
    name: &'static str,
    path: &'static str,
    held: bool,
    kind: &'static str,
) -> Question {
    Question {
        name,
        path,
        held,
        kind,
    }
}

/// The four that are held to bars, and those that cost most.
pub(super) const QUESTIONS: [Question; 8] = [
    question(
        "time series, 30 days",
        "/telemetry/timeseries?days=30",
        true,
        "timeseries",
    ),
    question(
        "one flag's health, 24 h",
        "/flags/{flag}/health",
        true,
        "flags",
    ),
    question(
        "impacts, 7 days",
        "/telemetry/flag-impacts?days=7",
        true,
        "flags",
    ),
    question(
        "adoption, 90 days",
        "/insights/adoption?days=90",
        true,
        "adoption",
    ),
    question("impacts, 24 h", "/telemetry/flag-impacts", false, "flags"),
    question(
        "impacts, 7 days, by update",
        "/telemetry/flag-impacts?days=7&by=update",
        false,
        "flags",
    ),
    question(
        "time series, one channel",
        "/telemetry/timeseries?days=30&channel=production",
        false,
        "timeseries",
    ),
    question("downloads of all updates", "/insights", false, "downloads"),
];

/// How many of them are held to bars. They come first.
const HELD: usize = 4;
/// One question in so many is one of the others.
const SELDOM: usize = 10;

/// The place of a client's question with this number.
fn place(number: usize) -> usize {
    if number % SELDOM == SELDOM - 1 {
        HELD + number / SELDOM % (QUESTIONS.len() - HELD)
    } else {
        number % HELD
    }
}

/// One answer.
pub(super) struct Asked {
    pub(super) ms: f64,
    pub(super) bytes: usize,
}

/// Asks one installation, over connections that are kept.
#[derive(Clone)]
pub(super) struct Asker {
    client: Client,
    base_url: String,
    admin_url: String,
    project: String,
    api_key: String,
    urls: Vec<String>,
}

impl Asker {
    /// Of the project that the credentials are for, about one of its flags.
    pub(super) async fn new(credentials: &Credentials) -> Result<Self, Error> {
        let mut this = Self {
            client: Client::default(),
            base_url: format!("{}{BASE}", credentials.base_url),
            admin_url: credentials.admin_url.clone(),
            project: credentials.project_slug.clone(),
            api_key: credentials.api_key.clone(),
            urls: Vec::new(),
        };
        let flag = this.flag().await?;
        let url = |question: &Question| {
            let path = question.path.replace("{flag}", &flag);
            format!("{}{path}", this.base_url)
        };
        this.urls = QUESTIONS.iter().map(url).collect();
        Ok(this)
    }

    /// The id of the first of the flags that devices of the facts hold.
    async fn flag(&self) -> Result<String, Error> {
        let body = self.get(&format!("{}/flags", self.base_url)).await?;
        let flags: serde_json::Value = serde_json::from_slice(&body)?;
        let held = |flag: &&serde_json::Value| flag["key"] == "bench-flag-00";
        let flags = flags.as_array().ok_or("flags are no array")?;
        let flag = flags.iter().find(held).ok_or("the flags are not there")?;
        Ok(flag["id"].to_string())
    }

    async fn get(&self, url: &str) -> Result<Bytes, Error> {
        let request = Request::get(url)
            .header("x-project", &self.project)
            .header("authorization", format!("Bearer {}", self.api_key))
            .body(Full::default())?;
        let answer = self.client.send(request).await?;
        if !answer.status.is_success() {
            return Err(format!("{url} answered {}: {}", answer.status, answer.text()).into());
        }
        Ok(answer.body)
    }

    /// Asks the question at this place of [`QUESTIONS`].
    pub(super) async fn ask(&self, place: usize) -> Result<Asked, Error> {
        let started = Instant::now();
        let body = self.get(&self.urls[place]).await?;
        let ms = started.elapsed().as_secs_f64() * 1_000.0;
        let bytes = body.len();
        Ok(Asked { ms, bytes })
    }

    /// Asks what is none of the questions.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let url = format!("{}/telemetry/performance", self.base_url);
        self.get(&url).await.map(drop)
    }

    /// How often the API asked the store for an answer so far, by the kind of
    /// each of [`QUESTIONS`].
    pub(super) async fn asked_of_store(&self) -> Result<Vec<u64>, Error> {
        let text = self
            .client
            .get(&format!("{}/metrics", self.admin_url))
            .await?
            .text();
        let count = |question: &Question| {
            let name = format!(
                "sluice_api_answers_asked_total{{kind=\"{}\"}} ",
                question.kind
            );
            let value = text.lines().find_map(|line| line.strip_prefix(&name));
            value
                .and_then(|value| value.parse().ok())
                .unwrap_or_default()
        };
        Ok(QUESTIONS.iter().map(count).collect())
    }
}

/// So many clients ask the questions in turn for so long, those that are not held
/// to bars seldom; milliseconds by question. They do not begin with the same one.
pub(super) async fn ask_together(
    asker: &Asker,
    clients: usize,
    during: Duration,
) -> Result<Vec<Vec<f64>>, Error> {
    let until = Instant::now() + during;
    let mut asking = JoinSet::new();
    for first in 0..clients {
        let asker = asker.clone();
        asking.spawn(async move {
            let mut waits = vec![Vec::new(); QUESTIONS.len()];
            for number in first.. {
                if Instant::now() >= until {
                    break;
                }
                let place = place(number);
                waits[place].push(asker.ask(place).await?.ms);
            }
            Ok::<_, Error>(waits)
        });
    }
    let mut all = vec![Vec::new(); QUESTIONS.len()];
    while let Some(waits) = asking.join_next().await {
        for (all, waits) in all.iter_mut().zip(waits??) {
            all.extend(waits);
        }
    }
    Ok(all)
}

/// The 95th percentile, in milliseconds, of so many clients that ask for what is
/// always the same.
pub(super) async fn fixed(url: &str, clients: usize) -> Result<f64, Error> {
    let until = Instant::now() + FIXED;
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (client, url) = (Client::default(), url.to_owned());
        asking.spawn(async move {
            let mut waits = Vec::new();
            while Instant::now() < until {
                let started = Instant::now();
                client.post_json(&url, Bytes::new()).await?;
                waits.push(started.elapsed().as_secs_f64() * 1_000.0);
            }
            Ok::<_, Error>(waits)
        });
    }
    let mut all = Vec::new();
    while let Some(waits) = asking.join_next().await {
        all.extend(waits??);
    }
    Ok(super::percentile(&all, 0.95))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_questions_are_asked_and_nine_in_ten_are_held_to_bars() {
        let mut asked = [0; QUESTIONS.len()];
        (0..400).for_each(|number| asked[place(number)] += 1);
        for (question, asked) in QUESTIONS.iter().zip(asked) {
            let wanted = if question.held { 80..=100 } else { 10..=10 };
            assert!(wanted.contains(&asked), "{}: {asked}", question.name);
        }
    }
}
