//! The network between the API and Postgres dies: what was sent on a connection
//! never comes back, and nobody closes it. Whoever waits is told so, and the pool
//! is whole again as soon as there is a way.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Method;
use futures_util::future::join_all;
use sluice_api::config::PostgresConfig;
use sluice_api::state::Policy;
use sluice_api::{ApiState, service};
use sluice_engines::testing::machine_time;
use sluice_service::admin::Readiness;
use sluice_service::config::Secret;
use sqlx::ConnectOptions as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::world::{World, request, with_body};

/// In machine time.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
const CONNECTIONS: u32 = 2;

/// A way to a port of this machine.
struct Way {
    port: u16,
    deaths: watch::Sender<u32>,
}

impl Way {
    async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let deaths = watch::Sender::new(0);
        let told = deaths.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, target, told.subscribe()));
            }
        });
        Self { port, deaths }
    }

    /// What is connected stays so, and is silent for ever. New connections work.
    fn die(&self) {
        self.deaths.send_modify(|deaths| *deaths += 1);
    }
}

async fn carry(mut client: TcpStream, target: u16, mut died: watch::Receiver<u32>) {
    let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = died.changed() => {
            // Postgres notices, as it would in the end; we never do.
            drop(server);
            std::future::pending::<()>().await;
        }
    }
}

async fn list(router: &Router) -> (u16, Duration) {
    let request = request(Method::GET, "/branches")
        .header("authorization", "Bearer ours-viewer")
        .header("x-project", "ours");
    let request = with_body(request, None);
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), machine_time())
}

#[tokio::test]
async fn a_dead_network_is_noticed_and_takes_no_connection_with_it() {
    let world = World::start().await;
    let options = world.pool.connect_options().as_ref().clone();
    let way = Way::to(options.get_port()).await;
    let url = options.port(way.port).to_url_lossy().to_string();
    let config = PostgresConfig {
        url: Secret::new(url),
        max_connections: CONNECTIONS,
    };
    let pool = config.pool().unwrap();
    let state = ApiState::new(pool, clickhouse::Client::default(), Policy::default());
    let router = sluice_api::router(state.clone());
    let readiness = Readiness::new();
    let workers = tokio::spawn({
        let readiness = readiness.clone();
        async move { service::run_workers(state, &readiness).await }
    });
    // As often as there are connections: if each time took one, none would be left.
    for _ in 0..CONNECTIONS {
        until_whole(&router, &readiness).await;
        let mut holder = world.pool.begin().await.unwrap();
        sqlx::raw_sql("lock table branches in access exclusive mode")
            .execute(&mut *holder)
            .await
            .unwrap();
        let waiting = "select count(*) from pg_stat_activity
                       where wait_event_type = 'Lock' and datname = current_database()";
        let die = async {
            let deadline = Instant::now() + WHOLE_WITHIN;
            while world.number(waiting).await == 0 {
                assert!(Instant::now() < deadline, "nobody waits");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            way.die();
            machine_time()
        };
        let (first, second, died) = tokio::join!(list(&router), list(&router), die);
        for (status, at) in [first, second] {
            assert_eq!(status, 503);
            // Whoever got no connection was told even before.
            let took = at.saturating_sub(died);
            assert!(took <= TOLD_WITHIN, "{took:?}");
        }
        holder.rollback().await.unwrap();
    }
    until_whole(&router, &readiness).await;
    workers.abort();
}

/// As many requests at once as there may be connections, and all are answered.
async fn until_whole(router: &Router, readiness: &Readiness) {
    let deadline = Instant::now() + WHOLE_WITHIN;
    loop {
        let all = join_all((0..CONNECTIONS).map(|_| list(router))).await;
        let is_whole = all.iter().all(|(status, _)| *status == 200);
        if is_whole && readiness.reasons().is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{all:?} {:?}",
            readiness.reasons()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
