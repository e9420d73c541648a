//! Postgres goes away and comes back; what can be accepted is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sluice_engines::Postgres;
use sluice_engines::postgres::Durability;
use sluice_service::admin::Readiness;
use sluice_service::config::Secret;
use sluice_service::postgres;
use sqlx::{ConnectOptions as _, PgPool};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::*;

/// A directory that the server's own user may enter.
fn server_dir() -> tempfile::TempDir {
    let permissions = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new()
        .permissions(permissions)
        .tempdir()
        .unwrap()
}

async fn start(dir: &Path) -> Postgres {
    let dir = dir.to_owned();
    let started = tokio::task::spawn_blocking(move || Postgres::start(&dir, Durability::None));
    started.await.unwrap().unwrap()
}

fn pool(url: &str) -> PgPool {
    postgres::pool(&Secret::new(url.to_owned()), 5).unwrap()
}

async fn key(world: &World, key: &str) -> u16 {
    let bearer = format!("Bearer {key}");
    world.evaluate(&[("Authorization", &bearer)]).await.status
}

/// What holds while Postgres is away and the snapshot is there.
async fn assert_serves_from_its_snapshot(world: &World) {
    assert_eq!(world.post(launch()).await.status, 204);
    assert_eq!(key(world, KEY).await, 204);
    assert_eq!(key(world, "unknown").await, 503);
    // Not known here, so it is for somebody else to say.
    assert_eq!(
        world
            .post(launch().replace("my-app", "stranger"))
            .await
            .status,
        204
    );
    assert_eq!(
        world
            .post(launch().replace("my-app", "No Such!"))
            .await
            .status,
        404
    );
    let projects: Vec<_> = logged(&world.health)
        .into_iter()
        .map(|r| r.project)
        .collect();
    assert_eq!(projects, [Ok(1), Err("stranger".to_owned())]);
    let readiness = Readiness::new();
    world.edge.register(&readiness);
    assert!(readiness.reasons().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_serves_and_boots_while_postgres_is_away() {
    let (dir, own) = (server_dir(), tempfile::tempdir().unwrap());
    let server = start(dir.path()).await;
    let url = server.url();
    migrate(&pool(&url)).await;
    let copy = own.path().join("directory.json");
    let setting = || Setting {
        copy: Some(copy.clone()),
        ..Setting::default()
    };
    let world = World::with(pool(&url), setting()).await;
    eventually("the copy is written", async || copy.exists()).await;
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!fs::read_to_string(&copy).unwrap().contains(KEY));
    assert_eq!(key(&world, "unknown").await, 401);

    tokio::task::spawn_blocking(move || server.kill())
        .await
        .unwrap();
    eventually("it is noticed", async || !world.directory.is_current()).await;
    assert_serves_from_its_snapshot(&world).await;

    let booted = World::without_waiting(pool(&url), setting()).await;
    assert_serves_from_its_snapshot(&booted).await;

    let _server = start(dir.path()).await;
    eventually("it is back", async || booted.directory.is_current()).await;
    assert_eq!(key(&booted, "unknown").await, 401);
    assert_eq!(
        booted
            .post(launch().replace("my-app", "stranger"))
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_never_knew_anything_accepts_but_is_not_ready() {
    let world = World::without_waiting(
        pool("postgres://nobody@127.0.0.1:1/none"),
        Setting::default(),
    )
    .await;
    assert_eq!(world.post(launch()).await.status, 204);
    assert_eq!(logged(&world.health)[0].project, Err("my-app".to_owned()));
    assert_eq!(key(&world, KEY).await, 503);
    let readiness = Readiness::new();
    world.edge.register(&readiness);
    assert!(readiness.reasons().contains_key("directory"));
}

/// A way to a port of this machine that dies when it is told so: what is
/// connected then stays so, and is silent for ever. New connections work.
async fn way_to(target: u16) -> (u16, watch::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let death = watch::Sender::new(());
    let told = death.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut died = told.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = died.changed() => {
                        drop(server);
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    (port, death)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_network_is_not_waited_for() {
    let straight = database().await;
    let options = straight.connect_options().as_ref().clone();
    let (port, death) = way_to(options.get_port()).await;
    let url = Secret::new(options.port(port).to_url_lossy().to_string());
    let world = World::with(postgres::pool(&url, 2).unwrap(), Setting::default()).await;
    // It reads again, and what it waits for never comes.
    let mut holder = straight.begin().await.unwrap();
    sqlx::raw_sql("lock table api_keys in access exclusive mode")
        .execute(&mut *holder)
        .await
        .unwrap();
    sqlx::query("select pg_notify('sluice_directory', 'api_keys')")
        .execute(&straight)
        .await
        .unwrap();
    let waiting = "select count(*) from pg_stat_activity
                   where wait_event_type = 'Lock' and datname = current_database()";
    eventually("somebody waits", async || {
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&straight)
            .await
            .unwrap();
        waiting > 0
    })
    .await;
    death.send_replace(());
    holder.rollback().await.unwrap();
    eventually("it is noticed", async || !world.directory.is_current()).await;
    add_key(&straight, 1, "later", "editor").await;
    eventually("it is whole again", async || {
        key(&world, "later").await == 204
    })
    .await;
    eventually("and follows", async || world.directory.is_current()).await;
}
