//! `sluice-api` as it is deployed, over engines of its own, with a project of
//! flags that are made as people make them: by the management routes.

pub mod definitions;

use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::{Value, json};
use sluice_aggregator::migrate;
use sluice_engines::postgres::Durability;
use sluice_engines::{ClickHouse, Postgres};
use tokio::task::block_in_place;

use crate::http::Client;
use crate::service::{Launch, Service};
use crate::{Error, PROJECT, workspace};

/// The flag that [`FlagApi::set_counter`] changes.
pub const COUNTER: &str = "counter";
/// Flags of the project, the counter among them.
pub const FLAGS: usize = 50;
const BASE_PATH: &str = "/v1/ota";
const DATABASE: &str = "sluice";
/// Rates that no benchmark reaches; the buckets are asked all the same.
const UNREACHED: &str = "1e9";

/// A running API with [`FLAGS`] flags of two rules each in the project [`PROJECT`].
pub struct FlagApi {
    service: Service,
    base_url: String,
    people: People,
    counter: i64,
    clickhouse: ClickHouse,
    _postgres: Postgres,
}

/// Somebody who may edit the project.
struct People {
    client: Client,
    base_url: String,
    token: String,
}

impl FlagApi {
    /// Starts engines and the API in `dir`, and makes the flags.
    pub async fn start(dir: &Path) -> Result<Self, Error> {
        let clickhouse = block_in_place(|| ClickHouse::start(&dir.join("clickhouse")))?;
        let postgres = block_in_place(|| Postgres::start(&dir.join("postgres"), Durability::Full))?;
        make_tables(&clickhouse).await?;
        let listen = workspace::free_address()?.to_string();
        let service = Service::start(launch(dir, &listen, &postgres, &clickhouse)).await?;
        let base_url = format!("http://{listen}");
        let people = People::register(&base_url).await?;
        let counter = people.make_flags().await?;
        Ok(Self {
            service,
            base_url,
            people,
            counter,
            clickhouse,
            _postgres: postgres,
        })
    }

    /// Where it listens.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The process id of `sluice-api`.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// Changes the value that every device gets of [`COUNTER`], by the
    /// management API; done when it has answered.
    pub async fn set_counter(&self, value: u64) -> Result<(), Error> {
        let path = format!("/flags/{}", self.counter);
        let body = json!({ "defaultValue": value });
        self.people.call(Method::PATCH, &path, &body).await?;
        Ok(())
    }

    /// Stops everything, in order.
    pub fn stop(self) -> Result<(), Error> {
        let stopped = self.service.stop();
        block_in_place(|| self.clickhouse.stop());
        stopped
    }
}

async fn make_tables(clickhouse: &ClickHouse) -> Result<(), Error> {
    let client = clickhouse::Client::default()
        .with_url(clickhouse.url())
        .with_user(clickhouse.user())
        .with_password(clickhouse.password());
    let statement = format!("CREATE DATABASE {DATABASE}");
    client.query(&statement).execute().await?;
    Ok(migrate::run_in(&client.with_database(DATABASE)).await?)
}

fn launch(dir: &Path, listen: &str, postgres: &Postgres, clickhouse: &ClickHouse) -> Launch {
    let storage = dir.join("storage").display().to_string();
    Launch {
        program: "sluice-api",
        environment: vec![
            ("SLUICE_LISTEN", listen.to_owned()),
            ("SLUICE_STORAGE_DIR", storage),
            ("SLUICE_POSTGRES_URL", postgres.url()),
            ("SLUICE_CLICKHOUSE_URL", clickhouse.url()),
            ("SLUICE_CLICKHOUSE_DATABASE", DATABASE.to_owned()),
            ("SLUICE_CLICKHOUSE_USER", clickhouse.user().to_owned()),
            (
                "SLUICE_CLICKHOUSE_PASSWORD",
                clickhouse.password().to_owned(),
            ),
            ("SLUICE_FLAGS_PROJECT_RATE", UNREACHED.to_owned()),
            ("SLUICE_FLAGS_DEVICE_RATE", UNREACHED.to_owned()),
            ("SLUICE_FLAGS_ADDRESS_RATE", UNREACHED.to_owned()),
        ],
        log: dir.join("api.log"),
    }
}

impl People {
    /// Makes an account with the project.
    async fn register(base_url: &str) -> Result<Self, Error> {
        let mut people = Self {
            client: Client::default(),
            base_url: base_url.to_owned(),
            token: String::new(),
        };
        let account = json!({
            "email": "bench@example.com", "name": "Bench", "password": "correct horse battery",
            "projectName": "My App", "projectSlug": PROJECT,
        });
        let answer = people
            .call(Method::POST, "/auth/register", &account)
            .await?;
        people.token = text(&answer, "token")?;
        Ok(people)
    }

    /// The id of the counter.
    async fn make_flags(&self) -> Result<i64, Error> {
        for segment in definitions::segments() {
            self.call(Method::POST, "/segments", &segment).await?;
        }
        for number in 1..FLAGS {
            self.make_flag(definitions::flag(number)).await?;
        }
        self.make_flag(definitions::counter()).await
    }

    async fn make_flag(&self, (flag, rules): (Value, Vec<Value>)) -> Result<i64, Error> {
        let flag = id(&self.call(Method::POST, "/flags", &flag).await?)?;
        let path = format!("/flags/{flag}/rules");
        for rule in rules {
            self.call(Method::POST, &path, &rule).await?;
        }
        Ok(flag)
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{BASE_PATH}{path}", self.base_url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("x-project", PROJECT)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = self.client.send(request).await?;
        if !answer.status.is_success() {
            return Err(format!("{path}: {} {}", answer.status, answer.text()).into());
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

fn text(answer: &Value, member: &str) -> Result<String, Error> {
    let text = answer[member].as_str();
    Ok(text.ok_or("an answer without its member")?.to_owned())
}

fn id(answer: &Value) -> Result<i64, Error> {
    Ok(answer["id"].as_i64().ok_or("an answer without an id")?)
}
