//! The API's CPU per request on the two routes that devices call most, beside
//! a hyper server that sends the same bytes without knowing why.
//!
//! The API is the program that is deployed, in a process of its own, over a
//! real Postgres and ClickHouse: routing, request ids, metrics, spans, rates and
//! counts are on. The variants take turns, in short rounds under the same closed
//! loop; the first round warms up and is not counted.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use serde::Serialize;

use super::Measured;
use super::closed_loop::{self, Prepared};
use super::rounds::{self, Options, Rounds, VariantReport};
use crate::flag_api::definitions::{bulk_request, device_id};
use crate::flag_api::{FLAGS, FlagApi};
use crate::process::{Server, cpu_time};
use crate::serve::fixed;
use crate::{Error, PROJECT, workspace};

const BULK_PATH: &str = "/v1/ota/flag-evaluations-bulk";
/// Evaluating all flags may cost this much of a fixed body of the same size.
const BULK_LIMIT: f64 = 3.0;
/// A 304 may cost this much of a fixed 304.
const NOT_MODIFIED_LIMIT: f64 = 1.5;

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    bulk: Measured,
    not_modified: Measured,
    variants: Vec<VariantReport>,
}

/// What is asked.
#[derive(Clone)]
enum Ask {
    Bulk,
    Definitions(HeaderValue),
}

struct Variant {
    name: &'static str,
    ask: Ask,
    base_url: String,
    pid: u32,
    rounds: Rounds,
}

/// Measures, and returns the report; `say` gets a line for people now and then.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let dir = workspace::directory()?;
    say("starting Postgres, ClickHouse and the API");
    let api = FlagApi::start(dir.path()).await?;
    let measured = measure(&api, dir.path(), options, say).await;
    api.stop()?;
    workspace::remove(dir)?;
    measured
}

async fn measure(
    api: &FlagApi,
    dir: &Path,
    options: Options,
    say: impl Fn(&str),
) -> Result<Report, Error> {
    let (body, etag) = answers(api).await?;
    say(&format!(
        "{FLAGS} flags evaluate to {} bytes for the first device",
        body.len()
    ));
    fixed::prepare(dir, &body, &etag)?;
    let fixed = Server::start(&["fixed", "--dir", &dir.display().to_string()])?;
    let fixed = (fixed.base_url.clone(), fixed.pid(), fixed);
    let variant = |name, ask: &Ask, (base_url, pid): (&str, u32)| Variant {
        name,
        ask: ask.clone(),
        base_url: base_url.to_owned(),
        pid,
        rounds: Rounds::default(),
    };
    let definitions = Ask::Definitions(HeaderValue::from_str(&etag)?);
    let of_fixed = (fixed.0.as_str(), fixed.1);
    let of_api = (api.base_url(), api.pid());
    let mut variants = [
        variant("hyper, fixed body", &Ask::Bulk, of_fixed),
        variant("bulk evaluation", &Ask::Bulk, of_api),
        variant("hyper, fixed 304", &definitions, of_fixed),
        variant("definitions, 304", &definitions, of_api),
    ];
    for round in 0..=options.rounds {
        say(&format!("round {round} of {}", options.rounds));
        for variant in &mut variants {
            variant.measure(round, options).await?;
        }
    }
    Ok(conclude(variants.iter().map(Variant::report).collect()))
}

/// What the API answers to the first device's evaluation, and the tag of the definitions.
async fn answers(api: &FlagApi) -> Result<(Bytes, String), Error> {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Full<Bytes>>();
    let bulk = client.request(on(api, Ask::Bulk.request(0)?)?).await?;
    let body = bulk.into_body().collect().await?.to_bytes();
    let none = Ask::Definitions(HeaderValue::from_static("\"none\""));
    let definitions = client.request(on(api, none.request(0)?)?).await?;
    let etag = definitions.headers().get(ETAG).ok_or("no ETag")?;
    Ok((body, etag.to_str()?.to_owned()))
}

/// The request with the API's address.
fn on(api: &FlagApi, mut request: Prepared) -> Result<Prepared, Error> {
    *request.uri_mut() = format!("{}{}", api.base_url(), request.uri()).parse()?;
    Ok(request)
}

impl Ask {
    fn expected(&self) -> StatusCode {
        match self {
            Self::Bulk => StatusCode::OK,
            Self::Definitions(_) => StatusCode::NOT_MODIFIED,
        }
    }

    fn request(&self, number: u64) -> Result<Prepared, Error> {
        let request = match self {
            Self::Bulk => Request::post(BULK_PATH)
                .header("content-type", "application/json")
                .body(Full::from(bulk_request(number).to_string()))?,
            Self::Definitions(etag) => Request::get(format!(
                "/v1/ota/flag-definitions/{PROJECT}?channel=production&deviceId={}",
                device_id(number)
            ))
            .header(IF_NONE_MATCH, etag)
            .body(Full::default())?,
        };
        Ok(request)
    }
}

impl Variant {
    /// One round.
    async fn measure(&mut self, round: usize, options: Options) -> Result<(), Error> {
        let (ask, first) = (self.ask.clone(), (round as u64) << 32);
        let before = cpu_time(self.pid)?;
        let started = Instant::now();
        let make = move |number| ask.request(first + number);
        let requests =
            closed_loop::run(&self.base_url, options.load(), self.ask.expected(), make).await?;
        let took = started.elapsed();
        let cpu = cpu_time(self.pid)?.saturating_sub(before);
        self.rounds.add(requests, cpu, took);
        Ok(())
    }

    fn report(&self) -> VariantReport {
        self.rounds.report(self.name)
    }
}

fn conclude(variants: Vec<VariantReport>) -> Report {
    let [body, bulk, not_modified, definitions] =
        [0, 1, 2, 3].map(|i| variants[i].cpu_us_per_request);
    Report {
        bulk: rounds::measured(
            "bulk evaluation of 50 flags to a fixed body of the same size",
            bulk,
            body,
            BULK_LIMIT,
        ),
        not_modified: rounds::measured(
            "unchanged definitions to a fixed 304",
            definitions,
            not_modified,
            NOT_MODIFIED_LIMIT,
        ),
        variants,
    }
}

impl Report {
    fn bars(&self) -> [&Measured; 2] {
        [&self.bulk, &self.not_modified]
    }

    /// Whether both bars are met.
    pub fn is_met(&self) -> bool {
        rounds::are_met(self.bars())
    }

    /// For people.
    pub fn table(&self) -> String {
        rounds::printed(&self.variants, self.bars())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cpu: [f64; 4]) -> Report {
        let variants = cpu.map(|cpu_us_per_request| VariantReport {
            name: "x",
            cpu_us_per_request,
            requests_per_second: 1.0,
        });
        conclude(variants.into_iter().collect())
    }

    #[test]
    fn each_route_is_held_to_its_own_least() {
        let met = report([10.0, 30.0, 8.0, 12.0]);
        let json = serde_json::to_value(&met).unwrap();
        assert_eq!(json["bulk"]["ratio"], 3.0);
        assert_eq!(json["not_modified"]["ratio"], 1.5);
        assert!(met.is_met());
        assert!(!report([10.0, 31.0, 8.0, 12.0]).is_met());
        assert!(!report([10.0, 30.0, 8.0, 13.0]).is_met());
    }

    #[test]
    fn every_request_is_of_a_device_of_its_own() {
        let body = |number| Ask::Bulk.request(number).unwrap().into_body();
        assert_ne!(format!("{:?}", body(1)), format!("{:?}", body(2)));
        let known = Ask::Definitions(HeaderValue::from_static("\"x\""));
        let uri = |number| known.request(number).unwrap().uri().to_string();
        assert_ne!(uri(1), uri(2));
        assert_eq!(known.request(1).unwrap().headers()[IF_NONE_MATCH], "\"x\"");
    }
}
