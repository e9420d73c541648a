//! The edge as it is, on embedded logs, for the one project of the recorded
//! bodies. There is no Postgres: it knows the project from its directory's copy.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use sluice_eventlog::committer::CommitterConfig;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_ingest::directory::Directory;
use sluice_ingest::{Edge, Limits, NotFound, Parts};
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Error, PROJECT};

/// Nobody asks there: the copy knows the project.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/nothing";

/// Serves for good, with its files in `dir`.
pub(super) async fn serve(listener: TcpListener, dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir)?;
    // Counting costs what it costs in service.
    sluice_service::metrics::install()?;
    let copy = dir.join("directory.json");
    fs::write(&copy, directory_copy())?;
    let open = |name| EmbeddedLog::open(&dir.join(name), EmbeddedConfig::default()).map(Arc::new);
    let directory = Directory::open(PgPoolOptions::new().connect_lazy(NOWHERE)?, Some(copy));
    if !directory.is_loaded() {
        return Err("the edge does not know its directory's copy".into());
    }
    let edge = Edge::start(Parts {
        directory: Arc::new(directory),
        health: open("health")?,
        evaluations: open("evaluations")?,
        committer: CommitterConfig {
            in_flight: 1,
            ..CommitterConfig::default()
        },
        limits: Limits::default(),
    })?;
    sluice_ingest::serve(listener, edge, NotFound, CancellationToken::new()).await;
    Ok(())
}

fn directory_copy() -> String {
    let project = json!({"id": 1, "uuid": uuid::Uuid::nil(), "slug": PROJECT});
    json!({"version": 1, "projects": [project], "keys": []}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bodies::{Bodies, Run};
    use crate::http::Client;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_takes_recorded_bodies_of_a_known_project() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!(
            "http://{}/v1/ota/health-metrics",
            listener.local_addr().unwrap()
        );
        let path = dir.path().to_owned();
        let serving = tokio::spawn(async move { serve(listener, &path).await });
        let body = Bodies::recorded(PROJECT).request(Run(1), 0);
        let status = Client::default().post_json(&url, body).await.unwrap();
        assert_eq!(status, 204);
        serving.abort();
        let _ = serving.await;
    }
}
