//! Which addresses a webhook may reach: public ones. Everything else is how a
//! stranger would look into the operator's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::Url;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a webhook that is being made waits for its name to be looked up.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(2);

/// The platform service of Azure: metadata at an address that looks public.
const AZURE_PLATFORM: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether a URL leads to addresses that are not public, as far as can be told
/// now: a name that cannot be looked up is judged when something is sent there.
pub(super) async fn leads_inside(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    if let Some(address) = literal(&url) {
        return !is_public(address);
    }
    let Some(name) = url.host_str() else {
        return false;
    };
    match timeout(LOOKUP_PATIENCE, lookup_host((name, 0))).await {
        Ok(Ok(mut found)) => !found.any(|found| is_public(found.ip())),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The address that a URL spells out in place of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Whether an address belongs to the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local() // the metadata services of clouds among them
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0 // this network
        || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || (a == 198 && (18..20).contains(&b)) // benchmarks
        || a >= 240 // reserved
        || address == AZURE_PLATFORM;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = embedded_v4(address) {
        return is_public_v4(v4);
    }
    let [a, b, ..] = address.segments();
    let is_global_unicast = a & 0xe000 == 0x2000;
    let special = match a {
        // Protocol assignments, Teredo among them; documentation.
        0x2001 => b < 0x200 || b == 0xdb8,
        // Documentation.
        0x3fff => b < 0x1000,
        _ => false,
    };
    is_global_unicast && !special
}

/// The IPv4 address that a translation mechanism would reach.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        // Mapped, compatible, and NAT64.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            (high, low)
        }
        // 6to4.
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for address in [
            "93.184.216.34",
            "8.8.8.8",
            "100.63.0.1",
            "168.63.129.17",
            "172.32.0.1",
            "2606:2800:220:1::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.88.99.1",
            "192.0.2.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "fd00:ec2::254",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "3fff::1",
            "64:ff9b:1::a00:1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_url_leads_inside_by_address_or_by_name() {
        for url in [
            "http://10.0.0.1/",
            "http://0x7f.1/",
            "http://[::ffff:7f00:1]/",
            "https://localhost/",
        ] {
            assert!(leads_inside(url).await, "{url}");
        }
        for url in [
            "http://8.8.8.8/",
            "http://[2606:2800:220:1::1]/",
            "http://no-such-name.invalid/",
        ] {
            assert!(!leads_inside(url).await, "{url}");
        }
    }
}
