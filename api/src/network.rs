//! Where a request comes from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use sluice_service::proxies::TrustedProxies;
use tower::Service;
use tower::layer::layer_fn;

/// `router`, for which a request comes from whom trusted proxies say. For a
/// server that does not resolve `X-Forwarded-For` itself.
pub fn behind(router: Router, proxies: TrustedProxies) -> Router {
    let proxies = Arc::new(proxies);
    router.layer(layer_fn(move |inner| Behind {
        inner,
        proxies: Arc::clone(&proxies),
    }))
}

#[derive(Clone)]
struct Behind<S> {
    inner: S,
    proxies: Arc<TrustedProxies>,
}

impl<S: Service<Request>> Service<Request> for Behind<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        if let Some(ConnectInfo(peer)) = peer.copied() {
            let client = self.proxies.client(peer, request.headers());
            if client != peer {
                request.extensions_mut().insert(ConnectInfo(client));
            }
        }
        self.inner.call(request)
    }
}

/// The client's address, if the server told. Behind a proxy it is the proxy's,
/// unless whoever serves the router has resolved `X-Forwarded-For` before and
/// put the result into [`ConnectInfo`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self(
            peer.map(|ConnectInfo(address)| address.ip().to_canonical()),
        ))
    }
}

/// What limits count as one: whoever has one IPv6 address has all of its /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn seen_from(peer: [u8; 4]) -> String {
        let echo = |ClientAddress(address): ClientAddress| async move { format!("{address:?}") };
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let router = behind(Router::new().route("/", get(echo)), proxies);
        let request = Request::get("/")
            .header("x-forwarded-for", "1.2.3.4")
            .extension(ConnectInfo(SocketAddr::from((peer, 1))))
            .body(Body::empty());
        let response = router.oneshot(request.unwrap()).await.unwrap();
        let body = to_bytes(response.into_body(), 100).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_trusted_proxy_says_who_sent_a_request_and_nobody_else_does() {
        assert_eq!(seen_from([10, 0, 0, 1]).await, "Some(1.2.3.4)");
        assert_eq!(seen_from([9, 0, 0, 1]).await, "Some(9.0.0.1)");
    }
}
