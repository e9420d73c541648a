//! The limit that `bench flags` is held to: hyper that reads the request and
//! sends bytes that were known before, a body to a POST and a 304 to a GET.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::Error;

const BODY: &str = "fixed-body";
const TAG: &str = "fixed-etag";

/// Leaves in `dir` what [`serve`] is to send.
pub fn prepare(dir: &Path, body: &[u8], etag: &str) -> Result<(), Error> {
    fs::write(dir.join(BODY), body)?;
    Ok(fs::write(dir.join(TAG), etag)?)
}

/// Serves for good what was left in `dir`.
pub(super) async fn serve(listener: TcpListener, dir: &Path) -> Result<(), Error> {
    let body = Bytes::from(fs::read(dir.join(BODY))?);
    let etag = HeaderValue::from_str(&fs::read_to_string(dir.join(TAG))?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (body, etag) = (body.clone(), etag.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (body, etag) = (body.clone(), etag.clone());
            async move { Ok::<_, Infallible>(answer(request, body, etag).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn answer(
    request: Request<Incoming>,
    body: Bytes,
    etag: HeaderValue,
) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        headers.insert(ETAG, etag);
        let revalidate = HeaderValue::from_static("private, max-age=0, must-revalidate");
        headers.insert(CACHE_CONTROL, revalidate);
        return response;
    }
    if request.into_body().collect().await.is_err() {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    let mut response = Response::new(Full::new(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
