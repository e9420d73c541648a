//! What is not the edge's goes elsewhere, without the edge's limits.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::{Request as HyperRequest, Response};
use sluice_ingest::{Limits, serve};
use sluice_service::proxies::TrustedProxies;
use sluice_service::serve::{Handler, Received, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::*;

/// Streams what it is told to; a sender that is dropped ends it.
struct Stream(mpsc::UnboundedReceiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }
}

/// Says how much was uploaded and by whom, then never ends.
struct Counting {
    streams: mpsc::UnboundedSender<mpsc::UnboundedSender<Bytes>>,
}

impl Handler for Counting {
    type Body = Stream;

    async fn call(&self, request: HyperRequest<Received>, client: SocketAddr) -> Response<Stream> {
        let mut body = request.into_body();
        let mut uploaded = 0;
        while let Some(frame) = body.frame().await {
            uploaded += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        sender
            .send(format!("{uploaded} {}\n", client.ip()).into())
            .unwrap();
        self.streams.send(sender).unwrap();
        Response::new(Stream(receiver))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_streams_outlive_the_edges_limits() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        timeouts: Timeouts {
            idle: short,
            head: short,
            body: short,
            drain: short,
        },
        proxies: TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]),
        ..Limits::default()
    };
    let world = World::start(Setting {
        limits,
        ..Setting::default()
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (streams, mut opened) = mpsc::unbounded_channel();
    let rest = Counting { streams };
    tokio::spawn(serve(
        listener,
        Arc::clone(&world.edge),
        rest,
        world.stop.clone(),
    ));

    let mut stream = TcpStream::connect(address).await.unwrap();
    let upload = vec![b'x'; 5_000_000];
    let request =
        Request::post("/v1/ota/assets", &upload).with("X-Forwarded-For", "9.9.9.9, 1.2.3.4");
    let request = request.bytes();
    // The edge's time-outs would cut it off between the two halves.
    stream.write_all(&request[..3_000_000]).await.unwrap();
    tokio::time::sleep(4 * short).await;
    stream.write_all(&request[3_000_000..]).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut read = String::new();
    while !read.contains("5000000 1.2.3.4") {
        read += &next_text(&mut stream).await;
    }
    tokio::time::sleep(4 * short).await;
    sender.send("later".into()).unwrap();
    assert!(next_text(&mut stream).await.contains("later"));
}

async fn next_text(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 4096];
    let bytes = stream.read(&mut buffer).await.unwrap();
    assert!(bytes > 0, "cut off");
    String::from_utf8_lossy(&buffer[..bytes]).into_owned()
}
