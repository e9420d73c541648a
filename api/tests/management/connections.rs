//! Over a socket, as clients see it.

use sluice_api::network::Listening;
use sluice_service::serve::{Limits, Only, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// Above the limit of JSON bodies, and more than sockets hold.
const TOO_LARGE_BYTES: usize = 6 * 1024 * 1024;

async fn listen(world: &World) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Only(Listening(sluice_api::router(world.state.clone())));
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, routes, Limits::default(), stop));
    TcpStream::connect(address).await.unwrap()
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut read = String::new();
    while !read.ends_with('}') && !read.ends_with(']') {
        let mut buffer = [0; 4096];
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "cut off after {read:?}");
        read += std::str::from_utf8(&buffer[..bytes]).unwrap();
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_can_be_sent_and_the_refusal_read() {
    let world = World::start().await;
    let mut stream = listen(&world).await;
    for (token, path, expected) in [
        ("ours-editor", "/v1/ota/branches", "HTTP/1.1 413"),
        ("nobody", "/v1/ota/branches", "HTTP/1.1 401"),
        ("nobody", "/v1/ota/nowhere", "HTTP/1.1 404"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {TOO_LARGE_BYTES}\r\n\
             content-type: application/json\r\nauthorization: Bearer {token}\r\nx-project: ours\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let body = vec![b' '; TOO_LARGE_BYTES];
        stream.write_all(&body).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with(expected), "{answer}");
        assert!(answer.contains(r#"{"error":""#), "{answer}");
    }
    let head = "GET /v1/ota/branches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ours-viewer\r\n\
                x-project: ours\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
