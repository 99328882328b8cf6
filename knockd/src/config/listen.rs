//! Where the daemon listens for knocks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use super::{field::Field, keys::LISTEN, section::Section, source::Wrong};

/// The port that knocks go to by default.
const DEFAULT_PORT: NonZeroU16 = match NonZeroU16::new(62201) {
    Some(port) => port,
    None => NonZeroU16::MAX,
};

/// The addresses that knocks are received at: at least one, all of one port, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    addresses: Vec<SocketAddr>,
    port: NonZeroU16,
    said: Said,
}

/// Where that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    ByDefault,
    InConfiguration,
}

impl Listen {
    /// The addresses, in the order of the configuration; never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The one UDP port of them all.
    #[must_use]
    pub const fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// Whether the configuration doesn't say.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.said == Said::ByDefault
    }

    /// What "every address" is on a kernel without IPv6; `None` if it says something else.
    #[must_use]
    pub fn every_ipv4(&self) -> Option<Self> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port.get());
        let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port.get());
        (self.addresses == [any]).then(|| Self { addresses: vec![ipv4], ..*self })
    }

    /// What the section says; `None` if it is wrong.
    pub(super) fn read(section: &mut Section<'_, '_, '_>) -> Option<Self> {
        let list = match section.texts(&LISTEN, parse_address) {
            Field::Absent => return Some(Self::default()),
            Field::Wrong => return None,
            Field::Is(list) => list,
        };
        let mut ports = list.value.iter().map(|address| address.value.1);
        let Some(port) = ports.next() else {
            section.wrong(&LISTEN, list.at, Wrong::new("is empty"));
            return None;
        };
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(list.value.len());
        let mut wrong = None;
        for address in &list.value {
            let (socket, its_port) = address.value;
            if its_port != port {
                let what = format!("has the ports {port} and {its_port}");
                wrong = Some((address.at, Wrong::with(what, "write one port for all addresses")));
            } else if addresses.contains(&socket) {
                let what = format!("has {socket} twice");
                wrong = Some((address.at, Wrong::with(what, "write it once")));
            }
            addresses.push(socket);
        }
        match wrong {
            None => Some(Self { addresses, port, said: Said::InConfiguration }),
            Some((at, wrong)) => {
                section.wrong(&LISTEN, at, wrong);
                None
            }
        }
    }
}

impl Default for Listen {
    /// Every address of this host, IPv4 and IPv6.
    fn default() -> Self {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT.get());
        Self { addresses: vec![any], port: DEFAULT_PORT, said: Said::ByDefault }
    }
}

fn parse_address(text: &str) -> Result<(SocketAddr, NonZeroU16), Wrong> {
    let Ok(socket) = text.parse::<SocketAddr>() else {
        return Err(Wrong::new("has something in it that isn't an address with a port"));
    };
    let Some(port) = NonZeroU16::new(socket.port()) else {
        return Err(Wrong::new(format!("has {socket} in it, and 0 is no port")));
    };
    if socket.ip().to_canonical().is_multicast() {
        return Err(Wrong::with(
            format!("has {socket} in it, a multicast address, and knocks to one stay unanswered"),
            "write an address of this host",
        ));
    }
    Ok((socket, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_every_ipv4_address_where_there_is_no_ipv6_and_a_list_is_what_it_says() {
        let default = Listen::default();
        let ipv4 = default.every_ipv4().unwrap();
        assert_eq!(ipv4.addresses(), ["0.0.0.0:62201".parse().unwrap()]);
        assert!(default.is_default() && ipv4.port() == default.port());
        let addresses = vec!["[2001:db8::1]:62201".parse().unwrap()];
        let listed = Listen { addresses, port: DEFAULT_PORT, said: Said::InConfiguration };
        assert!(listed.every_ipv4().is_none() && !listed.is_default());
    }
}
