//! From the server's name to the addresses that are knocked at.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use crate::{
    endpoint::{AddressChoice, Server},
    exit::Error,
    plan::Families,
};

/// All addresses of the server that the flags and the client's own address leave, each once, in the
/// resolver's order.
pub(crate) fn addresses(
    server: &Server,
    families: Families,
    address: AddressChoice,
) -> Result<Vec<SocketAddr>, Error> {
    let host = server.host();
    let resolved = (host, server.port().get()).to_socket_addrs().map_err(|error| {
        Error::NoHost(format!(
            "{host} has no address: {error}: check the name, and this device's DNS"
        ))
    })?;
    choose(host, resolved, families, address)
}

fn choose(
    host: &str,
    resolved: impl Iterator<Item = SocketAddr>,
    families: Families,
    address: AddressChoice,
) -> Result<Vec<SocketAddr>, Error> {
    let mut chosen = Vec::new();
    for mut to in resolved {
        to.set_ip(to.ip().to_canonical());
        if families.include(to.ip()) && !chosen.contains(&to) {
            chosen.push(to);
        }
    }
    if chosen.is_empty() {
        return Err(Error::NoHost(match families {
            Families::Both => format!("{host} has no address: check the name"),
            Families::Ipv4 => format!("{host} has no IPv4 address: leave -4 out"),
            Families::Ipv6 => format!("{host} has no IPv6 address: leave -6 out"),
        }));
    }
    if let AddressChoice::Literal(own) = address {
        chosen.retain(|to| to.is_ipv4() == own.ip().is_ipv4());
        if chosen.is_empty() {
            return Err(Error::NoHost(format!(
                "the door can't open for {own} at {host}, which has no address of the same family: give --address another one, or auto"
            )));
        }
    }
    Ok(chosen)
}

impl Families {
    const fn include(self, address: IpAddr) -> bool {
        match self {
            Self::Both => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        resolved: &[&str],
        families: Families,
        address: &str,
    ) -> Result<Vec<String>, (u8, String)> {
        let resolved = resolved.iter().map(|to| to.parse().unwrap());
        choose("broker", resolved, families, address.parse().unwrap())
            .map(|chosen| chosen.iter().map(ToString::to_string).collect())
            .map_err(|error| (error.code().number(), error.to_string()))
    }

    const BOTH: [&str; 2] = ["192.0.2.7:62201", "[2001:db8::7]:62201"];

    #[test]
    fn every_address_is_chosen_once_whatever_its_form() {
        let resolved = ["192.0.2.7:1", "[2001:db8::7]:1", "192.0.2.7:1", "[::ffff:192.0.2.7]:1"];
        assert_eq!(
            chosen(&resolved, Families::Both, "auto").unwrap(),
            ["192.0.2.7:1", "[2001:db8::7]:1"]
        );
    }

    #[test]
    fn the_flags_4_and_6_leave_one_family() {
        assert_eq!(chosen(&BOTH, Families::Ipv4, "observed").unwrap(), BOTH[..1]);
        assert_eq!(chosen(&BOTH, Families::Ipv6, "observed").unwrap(), BOTH[1..]);
        let (code, text) = chosen(&BOTH[..1], Families::Ipv6, "auto").unwrap_err();
        assert_eq!((code, text.as_str()), (68, "broker has no IPv6 address: leave -6 out"));
    }

    #[test]
    fn a_literal_address_leaves_its_own_family_and_without_one_the_error_says_so() {
        assert_eq!(chosen(&BOTH, Families::Both, "10.0.0.1").unwrap(), BOTH[..1]);
        assert_eq!(chosen(&BOTH, Families::Both, "2001:db8::1").unwrap(), BOTH[1..]);
        let (code, text) = chosen(&BOTH[..1], Families::Both, "2001:db8::1").unwrap_err();
        assert_eq!(code, 68);
        assert!(text.contains("2001:db8::1") && text.contains("same family"), "{text}");
    }
}
