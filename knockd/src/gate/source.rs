//! Where packets come from, as failures and bans count it.
//!
//! # Security considerations
//! - Behind a translator (NAT64, SIIT, 464XLAT) all of IPv4 is within one /64: counted as one source, a single host
//!   that fails would shut out all the others. Within a translator's prefix every address is a source of its own.
//! - An address within such a prefix stands for an IPv4 address, so that nobody has more of them than of those.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv6Net};

/// A source: an IPv4 address, or the /64 network of an IPv6 address, which is the least that one
/// subscriber has (RFC 6177), or one IPv6 address that stands for an IPv4 address. An IPv4-mapped address counts as
/// IPv4.
///
/// Held as its first address: of a network, its last 64 bits are zero; of one address, they aren't, for no host has
/// the IPv4 address 0.0.0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

/// The bits of an IPv6 address that tell its source: the first 64.
pub const IPV6_PREFIX: u8 = 64;

/// The prefixes that translators use anywhere: RFC 6052, section 2.1, and RFC 8215.
const WELL_KNOWN: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

impl Source {
    /// The source that an address belongs to, where no translator has a prefix of its own.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Translators::default().source_of(address)
    }

    /// The source whose first address this is.
    #[must_use]
    pub fn from_first(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    fn network_of(address: Ipv6Addr) -> Self {
        let [a, b, c, d, ..] = address.segments();
        Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
    }

    /// Its first address: of IPv4 the only one.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.0
    }

    /// Whether an address belongs to it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.network().contains(&address.to_canonical())
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
            IpAddr::V6(v6) if Self::network_of(v6) == self => {
                IpNet::V6(Ipv6Net::new_assert(v6, IPV6_PREFIX))
            }
            IpAddr::V6(v6) => IpNet::from(IpAddr::from(v6)),
        }
    }
}

/// The prefixes of translators in front of this host, beside those that are the same anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translators(Vec<Ipv6Net>);

/// A prefix within which addresses can't be told to stand for IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a translator's prefix has from 64 to 96 bits (RFC 6052, section 2.2)")]
pub struct InvalidTranslator;

impl Translators {
    /// Translators with these prefixes. Shorter ones than 64 bits aren't needed: with them each IPv4 address has a
    /// /64 of its own, or shares it with few.
    ///
    /// # Errors
    /// [`InvalidTranslator`] if one has fewer than 64 bits or more than 96.
    pub fn new(prefixes: Vec<Ipv6Net>) -> Result<Self, InvalidTranslator> {
        let is_valid = |prefix: &Ipv6Net| (IPV6_PREFIX..=96).contains(&prefix.prefix_len());
        if prefixes.iter().all(is_valid) { Ok(Self(prefixes)) } else { Err(InvalidTranslator) }
    }

    /// The prefixes that were given.
    #[must_use]
    pub fn prefixes(&self) -> &[Ipv6Net] {
        &self.0
    }

    /// The source that an address belongs to.
    #[must_use]
    pub fn source_of(&self, address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source(v4.into()),
            IpAddr::V6(v6) => {
                let mut prefixes = WELL_KNOWN.iter().chain(&self.0);
                match prefixes.any(|prefix| prefix.contains(&v6)) {
                    true => Source(v6.into()),
                    false => Source::network_of(v6),
                }
            }
        }
    }

    /// The prefix of these within which a source holds many others.
    #[must_use]
    pub fn split(&self, source: Source) -> Option<Ipv6Net> {
        let IpNet::V6(network) = source.network() else { return None };
        let is_within = |prefix: &&Ipv6Net| {
            network.prefix_len() == IPV6_PREFIX && network.contains(&prefix.network())
        };
        WELL_KNOWN.iter().chain(&self.0).find(is_within).copied()
    }
}

impl fmt::Display for Source {
    /// As an admin writes it: `192.0.2.7`, `2001:db8::/64`, `64:ff9b::c000:207/128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => f.pad(&v4.to_string()),
            IpAddr::V6(_) => f.pad(&self.network().to_string()),
        }
    }
}

/// A text that is no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source is an IPv4 address, an IPv6 address or a /64 network, as 192.0.2.7 or 2001:db8::/64, or one IPv6 address \
     behind a translator, as 2001:db8:64::c000:207/128"
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
        let sources = [Self::of(network.addr()), Self::from_first(network.addr())];
        let named = sources.into_iter().find(|source| source.network() == network.trunc());
        named.ok_or(InvalidSource)
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
        for text in
            ["192.0.2.0/24", "2001:db8::/48", "2001:db8::/128", "64:ff9b::/96", "press-17", ""]
        {
            assert_eq!(text.parse::<Source>(), Err(InvalidSource), "{text}");
        }
    }

    #[test]
    fn behind_a_translator_every_address_is_a_source_of_its_own() {
        let translators = Translators::new(vec!["2001:db8:64::/96".parse().unwrap()]).unwrap();
        for (address, source) in [
            ("64:ff9b::192.0.2.7", "64:ff9b::c000:207/128"),
            ("64:ff9b:1:2:3::192.0.2.7", "64:ff9b:1:2:3:0:c000:207/128"),
            ("2001:db8:64::192.0.2.7", "2001:db8:64::c000:207/128"),
            ("2001:db8:64:1::7", "2001:db8:64:1::/64"),
            ("192.0.2.7", "192.0.2.7"),
        ] {
            let address = address.parse().unwrap();
            let of = translators.source_of(address);
            assert_eq!(of.to_string(), source);
            assert_eq!(source.parse(), Ok(of));
            assert_eq!(Source::from_first(of.first()), of);
            assert!(of.contains(address));
        }
        let [one, other] = ["64:ff9b::192.0.2.7", "64:ff9b::192.0.2.8"];
        assert!(!Source::of(one.parse().unwrap()).contains(other.parse().unwrap()));
    }

    #[test]
    fn a_network_that_holds_a_translators_prefix_is_found_and_prefixes_of_other_lengths_are_refused()
     {
        let net = |text: &str| text.parse::<Ipv6Net>().unwrap();
        let translators = Translators::new(vec![net("2001:db8:64::/96")]).unwrap();
        for (source, prefix) in [
            ("2001:db8:64::/64", Some("2001:db8:64::/96")),
            ("64:ff9b::/64", Some("64:ff9b::/96")),
            ("2001:db8:64::7/128", None),
            ("2001:db8::/64", None),
            ("192.0.2.7", None),
        ] {
            let found = translators.split(source.parse().unwrap());
            assert_eq!(found, prefix.map(net), "{source}");
        }
        for prefix in ["2001:db8::/48", "2001:db8::/104"] {
            assert_eq!(Translators::new(vec![net(prefix)]), Err(InvalidTranslator), "{prefix}");
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
