use serde_json::json;

use crate::world::{Part, World};

const SCRIPT: &[u8] = b"console.log(\"hi\")\n";

#[tokio::test]
async fn an_upload_says_what_it_stored() {
    let world = World::start().await;
    let parts = [
        Part::File("static/hi.js", "application/javascript", SCRIPT),
        Part::File("empty", "", b""),
    ];
    let assets = world.upload("/assets/upload", &parts).await.of(200);
    let key = assets[0]["s3Key"].as_str().unwrap();
    assert!(key.starts_with("assets/"), "{key}");
    let expected = json!({
        "s3Key": key, "hashSha256": "jo7h_rwU2GFOH4v2OEo2Qd4wF_pDrQYA1kPSkbFKQrE",
        "hashMd5": "570b41ba61ade63987d318b0c08e4fa4", "contentType": "application/javascript",
        "fileExtension": ".js", "fileSize": 18,
    });
    assert_eq!(assets[0], expected);
    assert_eq!(assets[1]["contentType"], "application/octet-stream");
    assert_eq!(
        assets[1]["hashSha256"],
        "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    );
    assert_eq!(
        (&assets[1]["fileExtension"], &assets[1]["fileSize"]),
        (&json!(""), &json!(0))
    );
}

#[tokio::test]
async fn an_upload_needs_files_with_names() {
    let world = World::start().await;
    world.upload("/assets/upload", &[]).await.refused(400, "");
    let unnamed = [Part::Text("files", "content")];
    world
        .upload("/assets/upload", &unnamed)
        .await
        .refused(400, "filename");
    world
        .post("/assets/upload", json!({}))
        .await
        .refused(415, "multipart");
}

#[tokio::test]
async fn devices_get_the_bytes_and_keep_them() {
    let world = World::start().await;
    let asset = world.asset("hi.js", SCRIPT, true).await;
    let key = asset["s3Key"].as_str().unwrap();
    let whole = world.fetch("GET", key, &[]).await;
    assert_eq!(
        (whole.status.as_u16(), whole.bytes.as_slice()),
        (200, SCRIPT)
    );
    assert_eq!(whole.header("content-type"), "application/javascript");
    assert_eq!(
        whole.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-length"), "18");
    // In a browser, what an editor uploaded stays a file.
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let policy = whole.header("content-security-policy");
    assert!(policy.contains("sandbox") && policy.contains("default-src 'none'"));
    let etag = whole.header("etag");
    assert!(etag.starts_with("\"8e8ee1fe") && etag.len() == 66, "{etag}");
    let same = world.fetch("GET", key, &[("if-none-match", etag)]).await;
    assert_eq!((same.status.as_u16(), same.bytes.len()), (304, 0));
    assert_eq!(same.header("etag"), etag);
    let head = world.fetch("HEAD", key, &[]).await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.header("content-length"), "18");
    let empty = world.asset("empty.js", b"", true).await;
    let empty = world
        .fetch("GET", empty["s3Key"].as_str().unwrap(), &[])
        .await;
    assert_eq!((empty.status.as_u16(), empty.bytes.len()), (200, 0));
}

#[tokio::test]
async fn devices_get_parts() {
    let world = World::start().await;
    let asset = world.asset("hi.js", SCRIPT, true).await;
    let key = asset["s3Key"].as_str().unwrap();
    let part = world
        .fetch(
            "GET",
            key,
            &[("range", "bytes=8-10"), ("accept-encoding", "gzip")],
        )
        .await;
    assert_eq!(
        (part.status.as_u16(), part.bytes.as_slice()),
        (206, &b"log"[..])
    );
    assert_eq!(part.header("content-range"), "bytes 8-10/18");
    let beyond = world.fetch("GET", key, &[("range", "bytes=18-")]).await;
    beyond.refused(416, "range");
    assert_eq!(beyond.header("content-range"), "bytes */18");
}

#[tokio::test]
async fn text_is_compressed_for_those_who_ask() {
    let world = World::start().await;
    let text = "let x = 1;\n".repeat(1000);
    let asset = world.asset("x.js", text.as_bytes(), true).await;
    let key = asset["s3Key"].as_str().unwrap();
    let plain = world.fetch("GET", key, &[]).await;
    assert_eq!(
        (plain.bytes.len(), plain.header("content-encoding")),
        (11_000, "")
    );
    let packed = world
        .fetch("GET", key, &[("accept-encoding", "gzip")])
        .await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(packed.header("vary").to_lowercase(), "accept-encoding");
    assert!(packed.bytes.len() < 1000);
}

#[tokio::test]
async fn only_what_is_recorded_is_served() {
    let world = World::start().await;
    std::fs::create_dir_all(world.dir.path().join("assets/9")).unwrap();
    std::fs::write(world.dir.path().join("assets/9/unrecorded"), b"secret").unwrap();
    world
        .fetch("GET", "assets/9/unrecorded", &[])
        .await
        .refused(404, "Asset not found");
    world
        .fetch("GET", "lock", &[])
        .await
        .refused(404, "Asset not found");
    world
        .fetch("GET", "assets/%2e%2e/lock", &[])
        .await
        .refused(400, "key");
    world
        .fetch("GET", "assets%5C..%5Clock", &[])
        .await
        .refused(400, "key");
    world
        .fetch("POST", "assets/9/unrecorded", &[])
        .await
        .refused(405, "method");
}

#[tokio::test]
async fn files_that_were_asked_for_are_served_while_postgres_is_away() {
    let world = World::start().await;
    let asset = world.asset("hi.js", SCRIPT, true).await;
    let other = world.asset("other.js", b"other", true).await;
    let key = asset["s3Key"].as_str().unwrap();
    world.fetch("GET", key, &[]).await;
    world.pool.close().await;
    assert_eq!(world.fetch("GET", key, &[]).await.bytes, SCRIPT);
    let unknown = world
        .fetch("GET", other["s3Key"].as_str().unwrap(), &[])
        .await;
    unknown.refused(503, "unavailable");
    assert_eq!(unknown.header("retry-after"), "2");
}
