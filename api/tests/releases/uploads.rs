//! What streaming promises: nothing by halves, little memory, one object per
//! content.

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use sluice_api::storage::{Storage, StorageConfig};

use crate::world::{OURS, Part, THEIRS, World, form, form_end, form_request, part_head};

const MIB: usize = 1024 * 1024;

fn head_of_build() -> Vec<u8> {
    let mut body = form(&[
        Part::Text("runtimeVersion", "1.0.0"),
        Part::Text("platform", "ios"),
    ]);
    body.truncate(body.len() - form_end().len());
    body.extend(part_head(&Part::File("entry.hbc", "application/javascript", b"")).into_bytes());
    body
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let world = World::start().await;
    let chunks = [
        Ok(Bytes::from(head_of_build())),
        Ok(Bytes::from(vec![7; MIB])),
    ];
    let broken = stream::iter(chunks).chain(stream::iter([Err(std::io::Error::other("gone"))]));
    let request = form_request((OURS, "editor"), "/builds", Body::from_stream(broken));
    world.send(request).await.refused(400, "multipart");
    assert!(world.files("staging").is_empty() && world.files("assets").is_empty());
    assert_eq!(world.value("select count(*) from builds").await, json!(0));
    assert_eq!(
        world.value("select count(*) from unowned_objects").await,
        json!(0)
    );
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let world = World::start().await;
    let (sent, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let chunks = stream::iter([
        Ok(Bytes::from(head_of_build())),
        Ok(Bytes::from(vec![7; MIB])),
    ]);
    let silence = stream::once(async move {
        sent.send(()).unwrap();
        std::future::pending::<Result<Bytes, std::io::Error>>().await
    });
    let request = form_request(
        (OURS, "editor"),
        "/builds",
        Body::from_stream(chunks.chain(silence)),
    );
    tokio::select! {
        _ = world.send(request) => panic!("answered before the body ended"),
        _ = seen.recv() => {}
    }
    assert!(world.files("staging").is_empty() && world.files("assets").is_empty());
}

#[tokio::test]
async fn postgres_may_go_away_during_an_upload() {
    let world = World::start().await;
    let pool = world.pool.clone();
    let start = [head_of_build(), vec![7; MIB]].map(|bytes| Ok(Bytes::from(bytes)));
    let end = stream::once(async move {
        pool.close().await;
        Ok::<_, std::io::Error>(Bytes::from([b"\r\n".to_vec(), form_end()].concat()))
    });
    let body = Body::from_stream(stream::iter(start).chain(end));
    let answer = world
        .send(form_request((OURS, "editor"), "/builds", body))
        .await;
    answer.refused(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "2");
    assert!(world.files("staging").is_empty() && world.files("assets").is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_without_reading_and_while_reading() {
    let world = World::start().await;
    let request = form_request((OURS, "editor"), "/builds", Body::empty());
    let (mut parts, body) = request.into_parts();
    parts
        .headers
        .insert("content-length", "268435457".parse().unwrap());
    let announced = http::Request::from_parts(parts, body);
    world.send(announced).await.refused(413, "268435456");
    let chunk = Bytes::from(vec![0; MIB]);
    let endless = stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    let endless = stream::iter([Ok(Bytes::from(head_of_build()))]).chain(endless);
    let request = form_request((OURS, "editor"), "/builds", Body::from_stream(endless));
    world.send(request).await.refused(413, "268435456");
    assert!(world.files("staging").is_empty());
}

/// Peak resident memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_build_never_sits_in_memory() {
    const SIZE_MIB: usize = 200;
    let world = World::start().await;
    // A source that always has more: nothing but the handler holds it back.
    let chunks =
        (0..SIZE_MIB).map(|index| Ok::<_, std::io::Error>(Bytes::from(vec![index as u8; MIB])));
    let end = [Bytes::from_static(b"\r\n"), Bytes::from(form_end())].map(Ok);
    let body = stream::iter([Ok(Bytes::from(head_of_build()))])
        .chain(stream::iter(chunks))
        .chain(stream::iter(end));
    // The peak of this test, not of those before it.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_bytes();
    let request = form_request((OURS, "editor"), "/builds", Body::from_stream(body));
    world.send(request).await.of(201);
    // Tests of other files may run at the same time, so the bound is loose.
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < 80 * MIB, "{} MiB for {SIZE_MIB}", grown / MIB);
    let size = world.value("select max(size_bytes) from blobs").await;
    assert_eq!(size, json!(SIZE_MIB * MIB));
}

#[tokio::test]
async fn the_same_content_is_one_object_per_project() {
    let world = World::start().await;
    let first = world.asset("a.js", b"same", true).await;
    let again = world.asset("b.js", b"same", true).await;
    assert_eq!(first["s3Key"], again["s3Key"]);
    let theirs = world.asset_of(THEIRS, "a.js", b"same", true).await;
    assert_ne!(first["s3Key"], theirs["s3Key"]);
    assert_eq!(world.files("assets").len(), 2);
    let build = world.build(b"same").await;
    assert_eq!(
        world.files("assets").len(),
        3,
        "the bundle was there, the logo was not"
    );
    let referred = format!(
        "select count(*) from build_assets a join blobs b on b.id = a.blob_id
                            where a.build_id = {build} and b.storage_key = '{}'",
        first["s3Key"].as_str().unwrap()
    );
    assert_eq!(world.value(&referred).await, json!(1));
}

#[tokio::test]
async fn uploads_of_the_same_files_at_once_share_their_objects() {
    let world = World::start().await;
    let uploads = (0..40).map(|_| world.build(b"same bundle"));
    let ids = futures_util::future::join_all(uploads).await;
    assert_eq!(ids.len(), 40);
    assert_eq!(world.value("select count(*) from blobs").await, json!(2));
    assert_eq!(
        world.value("select count(*) from build_assets").await,
        json!(80)
    );
    assert!(world.files("staging").is_empty());
    // Whoever came second left an object that is still on the list.
    let owned = world
        .value("select count(*) from unowned_objects")
        .await
        .as_u64()
        .unwrap();
    assert_eq!(world.files("assets").len() as u64, 2 + owned);
}

#[tokio::test]
async fn leftovers_of_a_crash_are_gone_after_the_next_start() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = StorageConfig::local(dir.path());
    drop(Storage::open(&config).unwrap());
    let left = dir.path().join("staging").join("half-a-build");
    std::fs::write(&left, b"half").unwrap();
    let _storage = Storage::open(&config).unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn an_upload_that_was_given_up_meanwhile_owns_nothing() {
    let world = World::start().await;
    world
        .run(
            "create function doom() returns trigger language plpgsql as $$
             begin new.doomed := true; return new; end $$;
             create trigger doom before insert on unowned_objects
             for each row execute function doom()",
        )
        .await;
    let part = Part::File("a.js", "", b"a");
    let answer = world.upload("/assets/upload", &[part]).await;
    answer.refused(503, "unavailable");
    assert_eq!(world.value("select count(*) from blobs").await, json!(0));
}
