//! Where packets come from, as failures and bans count it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv6Net};

/// A source: an IPv4 address, or the /64 network of an IPv6 address, which is the least that one
/// subscriber has (RFC 6177). An IPv6 form of an IPv4 address counts as the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

/// The bits of an IPv6 address that tell its source: the first 64.
pub const IPV6_PREFIX: u8 = 64;

impl Source {
    /// The source that an address belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.into()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        }
    }

    /// Its first address: of IPv4 the only one.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.0
    }

    /// Whether an address belongs to it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::of(address) == self
    }

    /// Whether it and a network have an address in common.
    #[must_use]
    pub fn overlaps(self, network: &IpNet) -> bool {
        let own = self.network();
        own.contains(network) || network.contains(&own)
    }

    /// It as a network.
    #[must_use]
    pub fn network(self) -> IpNet {
        match self.0 {
            IpAddr::V4(v4) => IpNet::from(IpAddr::from(v4)),
            IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, IPV6_PREFIX)),
        }
    }
}

impl fmt::Display for Source {
    /// As an admin writes it: `192.0.2.7`, `2001:db8::/64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => f.pad(&v4.to_string()),
            IpAddr::V6(v6) => f.pad(&format!("{v6}/{IPV6_PREFIX}")),
        }
    }
}

/// A text that is no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source is an IPv4 address, an IPv6 address or a /64 network, as 192.0.2.7 or 2001:db8::/64"
)]
pub struct InvalidSource;

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::of(address));
        }
        // Not the whole by ipnet, which takes 010 for 10.
        let (address, length) = text.split_once('/').ok_or(InvalidSource)?;
        let address: IpAddr = address.parse().map_err(|_| InvalidSource)?;
        let length = length.parse().map_err(|_| InvalidSource)?;
        let network = IpNet::new(address, length).map_err(|_| InvalidSource)?;
        let source = Self::of(network.addr());
        if network.trunc() == source.network() { Ok(source) } else { Err(InvalidSource) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_counts_by_address_ipv6_by_the_first_64_bits_and_a_mapped_address_as_ipv4() {
        for (address, source) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            let of = Source::of(address.parse().unwrap());
            assert_eq!(of.to_string(), source);
            assert_eq!(source.parse(), Ok(of));
            assert_eq!(address.parse(), Ok(of));
        }
    }

    #[test]
    fn a_network_of_another_size_is_no_source() {
        for text in ["192.0.2.0/24", "2001:db8::/48", "2001:db8::/128", "press-17", ""] {
            assert_eq!(text.parse::<Source>(), Err(InvalidSource), "{text}");
        }
    }

    #[test]
    fn it_overlaps_every_network_that_lies_within_it_or_that_it_lies_within() {
        let source: Source = "2001:db8::/64".parse().unwrap();
        for (network, overlaps) in [
            ("2001:db8::/32", true),
            ("2001:db8::7/128", true),
            ("2001:db8:0:1::/64", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(source.overlaps(&network.parse().unwrap()), overlaps, "{network}");
        }
    }
}
