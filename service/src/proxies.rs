//! Whose word on a client's address counts.
//!
//! A proxy appends the address of its own peer to `X-Forwarded-For`. So the
//! list is read from its end, for as long as trusted proxies wrote it; what a
//! client wrote itself stands before that and is never looked at.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::HeaderMap;

use crate::config::ConfigReader;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether `address` is in it. An IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_prefix(
                u32::from(own).into(),
                u32::from(other).into(),
                32,
                self.prefix_bits,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_prefix(own.into(), other.into(), 128, self.prefix_bits)
            }
            _ => false,
        }
    }
}

fn same_prefix(one: u128, other: u128, width: u8, prefix_bits: u8) -> bool {
    let host_bits = u32::from(width - prefix_bits);
    // No shift by the whole width: then everything is the host's.
    (one ^ other).checked_shr(host_bits).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected addresses or networks, such as 10.0.0.0/8";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| EXPECTED)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| EXPECTED))?;
        if prefix_bits > width {
            return Err(EXPECTED);
        }
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The proxies whose `X-Forwarded-For` counts. None by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// Reads `SLUICE_TRUSTED_PROXIES`: a list of networks.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self(reader.list("SLUICE_TRUSTED_PROXIES"))
    }

    /// The proxies in `networks`.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Who sent a request that came from `peer`. Its port is only known, and
    /// else 0, where no proxy stands between.
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trusts(peer.ip()) {
            return peer;
        }
        let mut client = peer;
        for hop in hops(headers).rev() {
            // What cannot be read hides whatever stands before it.
            let Ok(address) = hop.parse::<IpAddr>() else {
                break;
            };
            client = SocketAddr::new(address.to_canonical(), 0);
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

/// All hops, over all headers of the name, in order.
fn hops(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &str> {
    let values = headers.get_all(FORWARDED_FOR).iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        let proxies = TrustedProxies::new(vec![network("10.0.0.0/8"), network("fd00::/8")]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        proxies.client(peer, &headers).ip().to_string()
    }

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
        assert_eq!(client("8.8.8.8", &["1.1.1.1"]), "8.8.8.8");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.2.3.4"]),
            "1.1.1.1"
        );
        assert_eq!(
            client("::ffff:10.0.0.1", &["6.6.6.6", "1.1.1.1, fd00::7"]),
            "1.1.1.1"
        );
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, rubbish, 10.2.3.4"]),
            "10.2.3.4"
        );
    }

    #[test]
    fn networks_are_read_and_refused() {
        assert!(network("0.0.0.0/0").contains([1, 2, 3, 4].into()));
        assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(network("::/0").contains("::1".parse().unwrap()));
        assert_eq!(network("172.16.0.0/12").to_string(), "172.16.0.0/12");
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "1.2.3.4/", "a/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_network_holds_what_shares_its_prefix(own: u32, other: u32, bits in 0_u8..=32) {
            let net = Network { address: IpAddr::V4(own.into()), prefix_bits: bits };
            let shared = (own ^ other).leading_zeros() >= u32::from(bits);
            prop_assert_eq!(net.contains(IpAddr::V4(other.into())), shared);
        }
    }
}
