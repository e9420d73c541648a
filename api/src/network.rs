//! Where a request comes from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Request, Response};
use sluice_service::serve::{Handler, Received};
use tower::ServiceExt as _;

/// Routes behind a listener, which says where requests come from.
#[derive(Clone, Debug)]
pub struct Listening(pub Router);

impl Handler for Listening {
    type Body = Body;

    async fn call(&self, request: Request<Received>, client: SocketAddr) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(client));
        let Ok(response) = self.0.clone().oneshot(request).await;
        response
    }
}

/// The client's address, if the server told: the peer's, or what a trusted proxy
/// said of it.
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
