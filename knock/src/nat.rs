//! Sees, before anything is sent, that a router is going to put another address in place of this device's own.
//!
//! A door that opens strictly for the address in the packet refuses one that comes from elsewhere (PROTOCOL.md,
//! step 8), and in silence. So whoever knocks from behind network address translation with the local address
//! would never learn why nothing opens.
//!
//! It is a guess, and ends nothing: a tunnel to the server's host may well carry a private address unchanged to a
//! public one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::ClientAddress;

use crate::send::Route;

/// What makes it likely that the server sees another address than the packet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translation {
    /// The packet names an address that isn't routed on the internet, and the server's is.
    Private,
    /// The server's address stands for an IPv4 address behind a NAT64 (RFC 6052).
    Nat64,
}

/// Whether the packet for `address` is likely to come from another one by the time it is at `to`. A packet that
/// leaves the address to the server can't.
pub(crate) fn translation(address: ClientAddress, to: IpAddr) -> Option<Translation> {
    let ClientAddress::Literal(own) = address else { return None };
    let to = to.to_canonical();
    if is_behind_nat64(to) {
        Some(Translation::Nat64)
    } else if is_private(own.ip().to_canonical()) && is_public(to) {
        Some(Translation::Private)
    } else {
        None
    }
}

/// The address that packets leave from, where it isn't the one that was configured and no router can be meant that
/// translates one to one: this device had it once.
fn gone(own: IpAddr, local: IpAddr) -> bool {
    let (own, local) = (own.to_canonical(), local.to_canonical());
    let is_translated = is_private(local) && !is_private(own);
    local != own && !is_translated && !local.is_loopback()
}

/// What to tell the user of a route whose packets are likely to be refused for their address.
pub(crate) fn warning(route: &Route) -> Option<String> {
    let ClientAddress::Literal(own) = route.address else { return None };
    let to = route.to.ip();
    if let Some(local) = route.local().filter(|local| gone(own.ip(), *local)) {
        return Some(format!(
            "no interface of this device has {own}, which the packet to {to} names: it leaves from {local}, and the server refuses it (address-mismatch): write address = \"auto\", or the address that this device has now"
        ));
    }
    let why = match translation(route.address, to)? {
        Translation::Private => {
            format!("the packet to {to} names {own}, a private address, and the server's is public")
        }
        Translation::Nat64 => {
            format!("the packet to {to}, an IPv4 address behind NAT64, names {own}")
        }
    };
    Some(format!(
        "{why}: a router that translates addresses makes the server see another one and refuse it; where the client's entry there has address = \"observed\", put the same into the profile, or give --address observed"
    ))
}

/// Not routed on the internet: RFC 1918, RFC 6598 (carriers' own translation), RFC 7335 (what 464XLAT gives a
/// phone), RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            address.is_private()
                || (a == 100 && b & 0xc0 == 64)
                || (a, b, c, d & 0xf8) == (192, 0, 0, 0)
        }
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Reached over the internet. Addresses for documentation count as such: nobody has them, and examples do.
fn is_public(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::BROADCAST,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local
        || is_private(address)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast())
}

/// The well-known prefix 64:ff9b::/96 (RFC 6052, section 2.1); a network's own prefix can't be told.
fn is_behind_nat64(address: IpAddr) -> bool {
    const PREFIX: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => Ipv6Addr::segments(&address).starts_with(&PREFIX),
    }
}

#[cfg(test)]
mod tests {
    use common::UnicastAddress;

    use super::*;

    fn of(own: &str, to: &str) -> Option<Translation> {
        let own: IpAddr = own.parse().unwrap();
        let own = ClientAddress::Literal(UnicastAddress::try_from(own).unwrap());
        translation(own, to.parse().unwrap())
    }

    #[test]
    fn a_private_address_towards_a_public_server_is_going_to_be_translated() {
        for own in
            ["10.3.0.1", "172.16.0.1", "172.31.9.9", "192.168.7.11", "100.64.0.1", "192.0.0.4"]
        {
            assert_eq!(of(own, "203.0.113.7"), Some(Translation::Private), "{own}");
            assert_eq!(of(own, "::ffff:203.0.113.7"), Some(Translation::Private), "{own}");
        }
        assert_eq!(of("fd77::2", "2001:db8::7"), Some(Translation::Private));
    }

    #[test]
    fn within_a_private_network_and_between_public_addresses_nothing_is_said() {
        for (own, to) in [
            ("10.3.0.1", "10.9.0.1"),
            ("192.168.7.11", "172.16.0.1"),
            ("10.3.0.1", "100.127.255.255"),
            ("10.3.0.1", "169.254.7.7"),
            ("10.3.0.1", "127.0.0.1"),
            ("fd77::2", "fd78::1"),
            ("fd77::2", "fe80::1"),
            ("198.51.100.1", "203.0.113.7"),
            ("100.128.0.1", "203.0.113.7"),
            ("172.32.0.1", "203.0.113.7"),
            ("192.0.0.8", "203.0.113.7"),
            ("198.51.100.1", "10.3.0.1"),
            ("2001:db8::2", "2001:db8::7"),
        ] {
            assert_eq!(of(own, to), None, "{own} to {to}");
        }
    }

    #[test]
    fn whatever_goes_through_a_nat64_is_translated() {
        assert_eq!(of("2001:db8::2", "64:ff9b::cb00:7107"), Some(Translation::Nat64));
        assert_eq!(of("2001:db8::2", "64:ff9b:1::cb00:7107"), None);
    }

    #[test]
    fn an_address_that_this_device_has_no_more_is_told_unless_a_router_may_translate_to_it() {
        for (own, local, expected) in [
            ("10.0.1.2", "10.0.1.3", true),
            ("10.0.1.2", "198.51.100.7", true),
            ("198.51.100.8", "198.51.100.7", true),
            ("2001:db8::2", "2001:db8::3", true),
            ("198.51.100.8", "10.0.1.3", false),
            ("10.0.1.2", "10.0.1.2", false),
            ("192.0.2.1", "127.0.0.1", false),
        ] {
            assert_eq!(
                gone(own.parse().unwrap(), local.parse().unwrap()),
                expected,
                "{own} {local}"
            );
        }
    }

    #[test]
    fn who_leaves_the_address_to_the_server_needs_no_warning() {
        for to in ["203.0.113.7", "64:ff9b::cb00:7107"] {
            assert_eq!(translation(ClientAddress::Observed, to.parse().unwrap()), None);
        }
    }
}
