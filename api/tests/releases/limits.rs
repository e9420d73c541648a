//! What a hostile or careless client cannot have: all places, all disk, all
//! memory, all reads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use sluice_api::state::{AssetLimits, Policy, UploadLimits};
use tokio::sync::oneshot;

use crate::world::{Answer, OURS, Part, THEIRS, World, form, form_end, form_request};

const EDITOR: (&str, &str) = (OURS, "editor");

fn uploads(at_once: usize, project_at_once: usize, wait: Duration) -> Policy {
    let upload_limits = UploadLimits {
        at_once,
        project_at_once,
        wait,
    };
    Policy {
        upload_limits,
        ..Policy::default()
    }
}

/// A form of one file, and what ends it.
fn one_file() -> [Bytes; 2] {
    let mut start = form(&[Part::File("a.js", "", b"content")]);
    start.truncate(start.len() - form_end().len());
    [start.into(), form_end().into()]
}

/// A body that ends once `meanwhile` is over.
fn body_until<F>(meanwhile: F) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let [start, end] = one_file();
    let end = stream::once(async move {
        meanwhile.await;
        end
    });
    let chunks = stream::iter([start]).chain(end);
    Body::from_stream(chunks.map(Ok::<_, Infallible>))
}

async fn asset_of(world: &World, slug: &str) -> Answer {
    let part = Part::File("b.js", "", b"b");
    world
        .upload_as((slug, "editor"), "/assets/upload", &[part])
        .await
}

#[tokio::test]
async fn uploads_that_find_no_place_are_told_to_come_back() {
    for (at_once, theirs_expected) in [(2, 200), (1, 503)] {
        let world = World::with_policy(uploads(at_once, 1, Duration::ZERO)).await;
        let ((began, seen), (end, ended)) = (oneshot::channel(), oneshot::channel::<()>());
        let body = body_until(async move {
            began.send(()).unwrap();
            ended.await.unwrap();
        });
        let first = world.send(form_request(EDITOR, "/assets/upload", body));
        let others = async {
            seen.await.unwrap();
            let ours = asset_of(&world, OURS).await;
            ours.refused(503, "too many uploads");
            assert_eq!(ours.header("retry-after"), "10");
            // One project does not take the places of all others.
            let theirs = asset_of(&world, THEIRS).await;
            assert_eq!(theirs.status.as_u16(), theirs_expected, "of {at_once}");
            end.send(()).unwrap();
        };
        let (first, ()) = tokio::join!(first, others);
        first.of(200);
        asset_of(&world, OURS).await.of(200);
    }
}

#[tokio::test]
async fn uploads_wait_for_each_other() {
    let world = World::with_policy(uploads(2, 2, Duration::from_hours(1))).await;
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let uploads = (0..12).map(|_| {
        let (under_way, most) = (Arc::clone(&under_way), Arc::clone(&most));
        let body = body_until(async move {
            let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            under_way.fetch_sub(1, Ordering::SeqCst);
        });
        world.send(form_request(EDITOR, "/assets/upload", body))
    });
    for answer in join_all(uploads).await {
        answer.of(200);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_upload_that_ends_early_gives_its_place_back() {
    let world = World::with_policy(uploads(1, 1, Duration::ZERO)).await;
    for _ in 0..2 {
        let (began, seen) = oneshot::channel();
        let body = body_until(async move {
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            _ = world.send(form_request(EDITOR, "/assets/upload", body)) => panic!("answered"),
            seen = seen => seen.unwrap(),
        }
        assert!(world.files("staging").is_empty());
    }
    let unnamed = [Part::Text("files", "no filename")];
    world
        .upload("/assets/upload", &unnamed)
        .await
        .refused(400, "filename");
    asset_of(&world, OURS).await.of(200);
}

#[tokio::test]
async fn a_header_without_end_is_refused() {
    let world = World::start().await;
    let start = stream::iter([Bytes::from("--b0undary\r\ncontent-disposition: ")]);
    let endless = stream::repeat_with(|| Bytes::from(vec![b'a'; 4096])).take(1000);
    let body = Body::from_stream(start.chain(endless).map(Ok::<_, Infallible>));
    let answer = world.send(form_request(EDITOR, "/builds", body)).await;
    answer.refused(400, "header of a part");
}

#[tokio::test]
async fn a_project_that_goes_during_an_upload_is_not_found() {
    let world = World::start().await;
    let pool = world.pool.clone();
    let body = body_until(async move {
        let deleted = sqlx::query("delete from projects where slug = 'ours'");
        deleted.execute(&pool).await.unwrap();
    });
    let answer = world.send(form_request(EDITOR, "/assets/upload", body));
    answer.await.refused(404, "project");
    assert_eq!(world.value("select count(*) from blobs").await, json!(0));
    assert!(world.files("staging").is_empty());
    let listed = world.value("select count(*) from unowned_objects").await;
    assert_eq!(json!(world.files("assets").len()), listed);
}

async fn fetch_from(world: &World, address: &str, key: &str) -> Answer {
    let address: SocketAddr = address.parse().unwrap();
    let request = Request::get(format!("/v1/ota/assets/{key}"))
        .extension(ConnectInfo(address))
        .body(Body::empty());
    world.send(request.unwrap()).await
}

#[tokio::test]
async fn one_address_gets_so_many_files_a_second() {
    let world = World::with_policy(Policy {
        asset_limits: AssetLimits { address_per_s: 3.0 },
        ..Policy::default()
    })
    .await;
    let asset = world.asset("a.js", b"a", true).await;
    let key = asset["s3Key"].as_str().unwrap();
    let status = async |address: &str, key: &str| {
        let answer = fetch_from(&world, address, key).await;
        answer.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!(status("10.0.0.1:1", key).await, 200);
        assert_eq!(status("10.0.0.2:1", "assets/none").await, 404);
    }
    // Another port is the same address, and what is not there counts as well.
    let refused = fetch_from(&world, "10.0.0.1:2", key).await;
    refused.refused(429, "too many requests");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(status("10.0.0.2:1", key).await, 429);
    assert_eq!(status("10.0.0.3:1", key).await, 200);
    world.advance(TimeDelta::seconds(1));
    assert_eq!(status("10.0.0.1:1", key).await, 200);
}
