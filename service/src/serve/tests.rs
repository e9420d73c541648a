use std::io;

use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;

/// More than sockets hold, less than what is drained.
const LARGE_BYTES: usize = 6 * 1024 * 1024;

/// Refuses without a look at the body, but for `/read`.
struct Door;

impl Handler for Door {
    type Body = Full<Bytes>;

    async fn call(&self, request: Request<Received>, client: SocketAddr) -> Response<Full<Bytes>> {
        if request.uri() == "/read" {
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            assert!(body.is_end_stream());
            return Response::new(format!("{bytes} of {}\n", client.ip()).into());
        }
        Response::new("refused\n".into())
    }
}

struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn listen(limits: Limits) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, Only(Door), limits, stop.clone()));
    Listening {
        address,
        stop,
        serving,
    }
}

fn head(path: &str, body_bytes: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {body_bytes}\r\n\r\n")
}

/// Reads until the answer ends with a line of this kind.
async fn answer(stream: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(&format!("{end}\n")) {
        let mut buffer = [0; 1024];
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "cut off after {read:?}");
        read += std::str::from_utf8(&buffer[..bytes]).unwrap();
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_early_sends_all_of_it_and_reads_why() {
    let listening = listen(Limits::default()).await;
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    for _ in 0..2 {
        let head = head("/refused", LARGE_BYTES);
        stream.write_all(head.as_bytes()).await.unwrap();
        // Sent whole before anything is read, as simple clients do.
        stream.write_all(&vec![b'x'; LARGE_BYTES]).await.unwrap();
        let answer = answer(&mut stream, "refused").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // And the connection goes on.
    stream.write_all(head("/read", 3).as_bytes()).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    answer(&mut stream, "3 of 127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drained_is_bounded_in_bytes_and_in_time() {
    let limits = Limits {
        timeouts: Timeouts {
            drain: Duration::from_millis(50),
            ..Timeouts::default()
        },
        ..Limits::default()
    };
    let listening = listen(limits).await;
    // Nothing more comes.
    let mut slow = TcpStream::connect(listening.address).await.unwrap();
    slow.write_all(head("/refused", 10).as_bytes())
        .await
        .unwrap();
    let mut all = String::new();
    slow.read_to_string(&mut all).await.unwrap();
    assert!(all.ends_with("refused\n"), "{all}");
    // It never ends.
    let mut endless = TcpStream::connect(listening.address).await.unwrap();
    let head = head("/refused", 1 << 40);
    endless.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    while endless.write_all(&piece).await.is_ok() {
        sent += 1;
        assert!(sent < 1024, "still read after a gigabyte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_comes_in_time_and_an_answer_may_take_its_own() {
    let short = Duration::from_millis(50);
    let timeouts = Timeouts {
        idle: short,
        head: short,
        body: short,
        drain: short,
    };
    let limits = Limits {
        timeouts,
        ..Limits::default()
    };
    let listening = listen(limits).await;
    for begun in ["", "GET / HT"] {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all).await;
        let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        assert!(ended.as_ref().is_ok_and(|n| *n == 0) || ended.is_err_and(|e| reset(&e)));
    }
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    stream.write_all(head("/read", 2).as_bytes()).await.unwrap();
    tokio::time::sleep(4 * short).await;
    stream.write_all(b"ab").await.unwrap();
    answer(&mut stream, "2 of 127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_answers_what_is_in_flight() {
    let listening = listen(Limits::default()).await;
    let _idle = TcpStream::connect(listening.address).await.unwrap();
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    stream.write_all(head("/read", 4).as_bytes()).await.unwrap();
    stream.write_all(b"ab").await.unwrap();
    // Once this one is answered, the others are accepted.
    let mut other = TcpStream::connect(listening.address).await.unwrap();
    other.write_all(head("/read", 0).as_bytes()).await.unwrap();
    answer(&mut other, "0 of 127.0.0.1").await;
    listening.stop.cancel();
    stream.write_all(b"cd").await.unwrap();
    answer(&mut stream, "4 of 127.0.0.1").await;
    listening.serving.await.unwrap();
    assert!(TcpStream::connect(listening.address).await.is_err());
}

#[tokio::test]
async fn answers_are_not_held_back_for_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, _peer) = tokio::join!(accept(&listener), TcpStream::connect(address));
    assert!(accepted.0.nodelay().unwrap());
}
