use std::io;

use axum::body::Body;
use axum::extract::{FromRequest as _, Request};
use futures_util::stream;

use super::super::UploadBody;
use super::*;
use crate::error::ApiResult;

const KIB: usize = 1024;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>> + Send>>;

/// A form whose chunks are counted, in bytes, as they are taken.
async fn form(chunks: Chunks) -> (UploadBody, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let chunks = chunks.inspect(move |chunk| {
        let bytes = chunk.as_ref().map_or(0, Bytes::len);
        counter.fetch_add(bytes, Ordering::Relaxed);
    });
    let request = Request::post("/")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(Body::from_stream(chunks))
        .unwrap();
    (UploadBody::from_request(request, &()).await.unwrap(), taken)
}

fn part(name: &str, content: &str) -> String {
    format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
}

/// The beginning of a part that goes on.
fn head() -> Bytes {
    let part = part("large", "");
    Bytes::from(part.trim_end_matches("\r\n").to_owned() + "\r\n\r\n")
}

fn chunks(first: Bytes, rest: impl Stream<Item = Bytes> + Send + 'static) -> Chunks {
    Box::pin(stream::iter([first]).chain(rest).map(Ok))
}

/// Content of all parts, in bytes.
async fn read(form: &mut UploadBody) -> ApiResult<usize> {
    let mut bytes = 0;
    while let Some(mut part) = form.tap.draw(form.parts.next_field()).await? {
        while let Some(chunk) = form.tap.draw(part.chunk()).await? {
            bytes += chunk.len();
        }
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_endless_header_is_refused_before_much_of_it_is_read() {
    let unfinished = Bytes::from("--b\r\ncontent-disposition: form-data; name=\"");
    for first in [unfinished, Bytes::from("no boundary at all")] {
        let endless = stream::repeat(Bytes::from(vec![b'a'; 4 * KIB])).take(1000);
        let (mut form, taken) = form(chunks(first, endless)).await;
        let refused = read(&mut form).await.unwrap_err();
        assert_eq!(refused.status(), 400);
        assert!(
            refused.message().contains("header of a part"),
            "{refused:?}"
        );
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken <= HELD_BYTES + 8 * KIB, "{taken} bytes");
    }
}

#[tokio::test]
async fn small_parts_do_not_let_a_large_one_into_memory() {
    let small: String = (0..100).map(|n| part(&n.to_string(), "small")).collect();
    let first = Bytes::from([small.as_bytes(), &head()].concat());
    let first_bytes = first.len();
    let rest = stream::repeat(Bytes::from(vec![0; 64 * KIB])).take(1000);
    let (mut form, taken) = form(chunks(first, rest)).await;
    for _ in 0..100 {
        let part = form.tap.draw(form.parts.next_field()).await.unwrap();
        let mut part = part.unwrap();
        while form.tap.draw(part.chunk()).await.unwrap().is_some() {}
    }
    assert_eq!(taken.load(Ordering::Relaxed), first_bytes);
}

#[tokio::test]
async fn parts_may_be_cut_anywhere() {
    let whole: String = (0..20).map(|n| part(&n.to_string(), "content")).collect();
    let whole = Bytes::from(whole + "--b--\r\n");
    for size in [1, 2, 7, 50, 1000, whole.len()] {
        let pieces: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        let (mut form, _) = form(chunks(Bytes::new(), stream::iter(pieces))).await;
        assert_eq!(
            read(&mut form).await.unwrap(),
            20 * "content".len(),
            "{size}"
        );
    }
}

/// So many bytes, so many times, each after so many seconds.
fn drops(bytes: usize, times: usize, every_s: u64) -> impl Stream<Item = Bytes> {
    stream::iter(0..times).then(move |_| async move {
        sleep(Duration::from_secs(every_s)).await;
        Bytes::from(vec![0; bytes])
    })
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_byte_now_and_then_is_given_up() {
    for (bytes, every_s) in [(1, 10), (1, 29), (1, 60), (64 * KIB, 8)] {
        let (mut form, _) = form(chunks(head(), drops(bytes, 1000, every_s))).await;
        let began = Instant::now();
        let refused = read(&mut form).await.unwrap_err();
        assert_eq!(refused.status(), 408, "{bytes} bytes every {every_s} s");
        assert!(refused.message().contains("too slowly"));
        assert!(began.elapsed() <= PATIENCE + Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_given_up() {
    let (mut form, _) = form(Box::pin(stream::pending())).await;
    assert_eq!(read(&mut form).await.unwrap_err().status(), 408);
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_that_keeps_the_pace_may_take_its_time() {
    let end = stream::iter([Bytes::from_static(b"\r\n--b--\r\n")]);
    let slow = drops(64 * KIB, 400, 7).chain(end);
    let (mut form, _) = form(chunks(head(), slow)).await;
    let began = Instant::now();
    assert_eq!(read(&mut form).await.unwrap(), 400 * 64 * KIB);
    assert!(began.elapsed() > Duration::from_mins(45));
}

#[tokio::test(start_paused = true)]
async fn time_that_we_need_is_not_the_clients() {
    let (mut form, _) = form(chunks(head(), drops(1, 20, 1))).await;
    let mut part = form
        .tap
        .draw(form.parts.next_field())
        .await
        .unwrap()
        .unwrap();
    for _ in 0..20 {
        sleep(Duration::from_mins(1)).await;
        assert!(form.tap.draw(part.chunk()).await.is_ok());
    }
}
