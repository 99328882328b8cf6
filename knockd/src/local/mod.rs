//! The addresses that must never be banned, whoever fails from them: this host's own, its gateways and its
//! resolvers.
//!
//! # Security considerations
//! - The source of a datagram is forgeable: without this, a stranger could have the host cut itself off from
//!   its own network by failing in the gateway's name.
//! - Nothing is left out silently: what the kernel doesn't tell is an error, and whoever asked keeps what was known
//!   before. A file of resolvers that can't be read is named beside what could be read: gateways stay protected.
//! - The kernel lists all routes, and of each only the gateways are kept, every one once: what is held doesn't
//!   grow with the number of routes.

pub mod rtnetlink;

mod resolvers;

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    net::IpAddr,
};

use ipnet::IpNet;

use self::{
    resolvers::Resolvers,
    rtnetlink::{Listing, Netlink},
};

/// Where resolvers stand: resolv.conf(5), and systemd-resolved.service(8), whose stub the first names.
pub static RESOLV_CONFS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What an address is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its own, on one of its interfaces.
    Own,
    /// The next hop of one of its routes.
    Gateway,
    /// Where it looks names up.
    Resolver,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "an address of this host",
            Self::Gateway => "a gateway of this host",
            Self::Resolver => "a resolver of this host",
        })
    }
}

/// The addresses that must never be banned, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeverBanned {
    addresses: BTreeMap<IpAddr, Role>,
    unread: Vec<String>,
}

impl NeverBanned {
    /// Reads them, in this process's network namespace. Takes 30 microseconds with ten routes and three
    /// milliseconds with ten thousand, about as long for each: not to be called for every packet.
    ///
    /// # Errors
    /// If the kernel doesn't tell them. A file of resolvers that isn't there names none, and one that can't be read
    /// at once is among [`NeverBanned::unread`].
    pub fn look() -> io::Result<Self> {
        let mut kernel = Netlink::open()?;
        let mut found = Self::default();
        for (listing, role) in [
            (Listing::Addresses, Role::Own),
            (Listing::Routes, Role::Gateway),
            (Listing::NextHops, Role::Gateway),
        ] {
            kernel.list(listing, |address| found.add(address, role))?;
        }
        for resolvers in resolvers::read_all(&RESOLV_CONFS) {
            match resolvers {
                Resolvers::Named(addresses) => {
                    addresses.into_iter().for_each(|address| found.add(address, Role::Resolver));
                }
                Resolvers::Unread(why) => found.unread.push(why),
            }
        }
        Ok(found)
    }

    /// The files of resolvers that could not be read, each with the reason.
    #[must_use]
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// The first of these addresses in a network, such as the /64 that a ban of an IPv6 address is for.
    #[must_use]
    pub fn within(&self, network: IpNet) -> Option<(IpAddr, Role)> {
        // The kernel takes all of 127.0.0.0/8 for its own, of which an interface has one address.
        if network.addr().is_loopback() {
            return Some((network.addr(), Role::Own));
        }
        let mut inside = self.addresses.range(network.network()..=network.broadcast());
        inside.next().map(|(address, role)| (*address, *role))
    }

    /// All of them, each with what it is to this host.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (IpAddr, Role)> {
        self.addresses.iter().map(|(address, role)| (*address, *role))
    }

    /// What an address already is, it stays: a resolver on this very host is its own.
    fn add(&mut self, address: IpAddr, role: Role) {
        let address = address.to_canonical();
        if !address.is_unspecified() {
            self.addresses.entry(address).or_insert(role);
        }
    }
}

impl FromIterator<(IpAddr, Role)> for NeverBanned {
    fn from_iter<T: IntoIterator<Item = (IpAddr, Role)>>(all: T) -> Self {
        let mut found = Self::default();
        all.into_iter().for_each(|(address, role)| found.add(address, role));
        found
    }
}

/// The addresses of this host's interfaces, in this process's network namespace.
///
/// # Errors
/// If they can't be read.
pub fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let mut own = HashSet::new();
    Netlink::open()?.list(Listing::Addresses, |address| {
        own.insert(address.to_canonical());
    })?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[(&str, Role)]) -> NeverBanned {
        let mut found = NeverBanned::default();
        for (address, role) in addresses {
            found.add(address.parse().unwrap(), *role);
        }
        found
    }

    fn net(network: &str) -> IpNet {
        network.parse().unwrap()
    }

    #[test]
    fn a_network_with_one_of_them_in_it_is_never_banned_and_its_neighbour_can_be() {
        let found = found(&[("10.77.0.1", Role::Gateway), ("fd77:0:0:1::53", Role::Resolver)]);
        let gateway = Some(("10.77.0.1".parse().unwrap(), Role::Gateway));
        let resolver = Some(("fd77:0:0:1::53".parse().unwrap(), Role::Resolver));
        for (network, expected) in [
            ("10.77.0.1/32", gateway),
            ("10.77.0.0/24", gateway),
            ("10.77.0.2/32", None),
            ("fd77:0:0:1::/64", resolver),
            ("fd77:0:0:1:ffff::9/64", resolver),
            ("fd77::/64", None),
            ("fd77:0:0:2::/64", None),
            ("::/0", resolver),
        ] {
            assert_eq!(found.within(net(network)), expected, "{network}");
        }
    }

    #[test]
    fn loopback_is_never_banned_whatever_was_found() {
        for network in ["127.0.0.1/32", "127.255.0.9/32", "::1/128"] {
            let role = NeverBanned::default().within(net(network)).map(|(_, role)| role);
            assert_eq!(role, Some(Role::Own), "{network}");
        }
    }

    #[test]
    fn an_address_is_held_in_its_one_form_once_and_an_unspecified_one_never() {
        let found = found(&[
            ("10.77.0.1", Role::Own),
            ("::ffff:10.77.0.1", Role::Resolver),
            ("::", Role::Gateway),
            ("0.0.0.0", Role::Gateway),
        ]);
        let all: Vec<_> = found.iter().collect();
        assert_eq!(all, [("10.77.0.1".parse().unwrap(), Role::Own)]);
    }
}
