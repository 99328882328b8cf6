//! Where to knock, what to probe, and on whose behalf: the values that a profile and the command line
//! both hold, parsed once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use common::{InvalidAddress, UnicastAddress};

/// The port that `knockd` listens on unless it is told otherwise.
const DEFAULT_KNOCK_PORT: NonZeroU16 = match NonZeroU16::new(62201) {
    Some(port) => port,
    None => NonZeroU16::MIN,
};

/// Longest name of a host in the text form of RFC 1035, section 3.1.
const HOST_MAX: usize = 253;

/// The daemon's host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, or an address without brackets.
    host: String,
    port: NonZeroU16,
}

/// Something else than a host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    /// Neither a name nor an address.
    #[error(
        "a server is HOST or HOST:PORT, such as broker.example.com:62201, 192.0.2.7 or [2001:db8::7]:62201"
    )]
    Form,
    /// Numbers that some programs read as another address than others do.
    #[error(transparent)]
    Numbers(#[from] AmbiguousAddress),
    /// An IPv6 address without brackets: its last group could as well be the port.
    #[error("an IPv6 address stands in brackets here, such as [2001:db8::7]:62201")]
    Brackets,
    /// The part behind the last colon.
    #[error("the server's port is a number from 1 to 65535")]
    Port,
}

/// An IPv4 address as inet_aton(3) takes it and nobody means it: a number with a leading zero is octal there, one behind
/// 0x hexadecimal, and what is missing is made up. RFC 6943, section 3.1.1, says what came of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousAddress {
    /// What it looks like, where it has four decimal numbers.
    meant: Option<Ipv4Addr>,
}

impl fmt::Display for AmbiguousAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an IPv4 address is four decimal numbers from 0 to 255 without leading zeros, which some programs take for octal: write ",
        )?;
        match self.meant {
            Some(meant) => write!(f, "{meant}, if that is meant"),
            None => f.write_str("it so, such as 192.0.2.7"),
        }
    }
}

impl std::error::Error for AmbiguousAddress {}

impl AmbiguousAddress {
    /// Refuses a host that resolvers take for an address and that isn't written as one: by its last label, as in the
    /// URL standard's "ends in a number".
    fn refuse(host: &str) -> Result<(), Self> {
        let labels = host.strip_suffix('.').unwrap_or(host);
        let last = labels.rsplit('.').next().unwrap_or_default();
        let is_decimal = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
        let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        let is_number = is_decimal
            || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_number || host.parse::<Ipv4Addr>().is_ok() {
            return Ok(());
        }
        let plain = |label: &str| match label.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        };
        let meant = labels.split('.').map(plain).collect::<Vec<_>>().join(".");
        Err(Self { meant: meant.parse().ok() })
    }
}

impl Server {
    /// The name or address, as the resolver takes it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port that the daemon listens on.
    pub const fn port(&self) -> NonZeroU16 {
        self.port
    }
}

impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        if !text.starts_with('[') && text.matches(':').nth(1).is_some() {
            return Err(InvalidServer::Brackets);
        }
        let (host, port) = if let Some(inner) = text.strip_prefix('[') {
            let (host, rest) = inner.split_once(']').ok_or(InvalidServer::Form)?;
            // Behind '%' stands the interface of a link-local address (RFC 4007, section 11).
            let address = host.split_once('%').map_or(host, |(address, _)| address);
            address.parse::<Ipv6Addr>().map_err(|_| InvalidServer::Form)?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or(InvalidServer::Form)?)),
            }
        } else {
            let (host, port) =
                text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if host.is_empty() || host.len() > HOST_MAX || !host.bytes().all(well_formed) {
                return Err(InvalidServer::Form);
            }
            AmbiguousAddress::refuse(host)?;
            (host, port)
        };
        let port = match port {
            None => DEFAULT_KNOCK_PORT,
            Some(port) => port_number(port).ok_or(InvalidServer::Port)?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Digits only: the standard library would let a '+' pass.
fn port_number(text: &str) -> Option<NonZeroU16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The protocol of a service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Has a handshake, which shows whether the door is open.
    Tcp,
    /// Has none.
    Udp,
}

/// A service's port, such as tcp/8883.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port's number.
    pub number: NonZeroU16,
}

/// Something else than a service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a port is tcp/ or udp/ and a number from 1 to 65535, such as tcp/8883")]
pub struct InvalidServicePort;

impl FromStr for ServicePort {
    type Err = InvalidServicePort;

    fn from_str(text: &str) -> Result<Self, InvalidServicePort> {
        let (protocol, number) = text.split_once('/').ok_or(InvalidServicePort)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(InvalidServicePort),
        };
        Ok(Self { protocol, number: port_number(number).ok_or(InvalidServicePort)? })
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.number)
    }
}

/// Which address the door is to open for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressChoice {
    /// The local address towards the server.
    #[default]
    Auto,
    /// The one that the daemon sees; the client's entry there must allow it.
    Observed,
    /// This one.
    Literal(UnicastAddress),
}

/// Something else than an address that the door can open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChoice {
    /// Not an address at all.
    #[error("an address is auto, observed, or an IP address such as 192.0.2.7 or 2001:db8::7")]
    Form,
    /// Numbers that some programs read as another address than others do.
    #[error(transparent)]
    Numbers(#[from] AmbiguousAddress),
    /// An address that no client has.
    #[error("the address is {0}, which can't be a client's")]
    NotAClients(#[from] InvalidAddress),
}

impl FromStr for AddressChoice {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, InvalidChoice> {
        match text {
            "auto" => Ok(Self::Auto),
            "observed" => Ok(Self::Observed),
            literal => {
                AmbiguousAddress::refuse(literal)?;
                let address: IpAddr = literal.parse().map_err(|_| InvalidChoice::Form)?;
                Ok(Self::Literal(UnicastAddress::try_from(address)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_with_or_without_a_port() {
        for (text, host, shown) in [
            ("broker", "broker", "broker:62201"),
            ("broker.example.com:1", "broker.example.com", "broker.example.com:1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7:62201"),
            ("192.0.2.7:65535", "192.0.2.7", "192.0.2.7:65535"),
            ("[2001:db8::7]", "2001:db8::7", "[2001:db8::7]:62201"),
            ("[2001:db8::7]:443", "2001:db8::7", "[2001:db8::7]:443"),
            ("[fe80::1%eth0]:443", "fe80::1%eth0", "[fe80::1%eth0]:443"),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!((server.host(), server.to_string().as_str()), (host, shown));
        }
    }

    #[test]
    fn a_server_of_another_form_is_refused_with_what_is_wrong_about_it() {
        use InvalidServer::{Brackets, Form, Port};
        let long = "a".repeat(HOST_MAX + 1);
        for (text, error) in [
            ("", Form),
            (":62201", Form),
            ("two words", Form),
            ("mqtt://broker", Port),
            ("brökér", Form),
            (long.as_str(), Form),
            ("[2001:db8::7", Form),
            ("[broker]:1", Form),
            ("[2001:db8::7]443", Form),
            ("2001:db8::7", Brackets),
            ("2001:db8::1:62201", Brackets),
            ("broker:", Port),
            ("broker:0", Port),
            ("broker:+1", Port),
            ("broker:65536", Port),
            ("broker:1:2", Brackets),
            ("[2001:db8::7]:", Port),
        ] {
            assert_eq!(text.parse::<Server>(), Err(error), "{text:?}");
        }
    }

    /// What getaddrinfo(3) takes for 192.168.8.5, 127.0.0.1, 10.0.0.8 and the like.
    #[test]
    fn an_address_that_some_read_as_another_one_is_refused_with_what_to_write() {
        for (text, meant) in [
            ("192.168.010.005", Some("192.168.10.5")),
            ("10.0.0.08", Some("10.0.0.8")),
            ("010.000.000.001", Some("10.0.0.1")),
            ("192.168.1.1.", Some("192.168.1.1")),
            ("0x7f.1", None),
            ("0x7f000001", None),
            ("127.0.0.0X1", None),
            ("127.1", None),
            ("2130706433", None),
            ("017700000001", None),
            ("1.2.3.4.5", None),
            ("1.2.3.256", None),
            ("broker.0x", None),
        ] {
            let meant = meant.map(|address| address.parse().unwrap());
            let ambiguous = AmbiguousAddress { meant };
            for server in [text.to_owned(), format!("{text}:62201")] {
                assert_eq!(server.parse::<Server>(), Err(ambiguous.into()), "{server}");
            }
            assert_eq!(text.parse::<AddressChoice>(), Err(ambiguous.into()), "{text}");
            let shown =
                meant.map_or("such as 192.0.2.7".to_owned(), |meant| format!("write {meant},"));
            assert!(ambiguous.to_string().contains(&shown), "{ambiguous}");
        }
        for name in
            ["1e100.net", "4.example", "10.0.0.8.nip.io", "0xcafe.example.com", "x0", "0x7g"]
        {
            assert!(name.parse::<Server>().is_ok(), "{name}");
        }
        assert_eq!("[::ffff:010.0.0.1]".parse::<Server>(), Err(InvalidServer::Form));
    }

    #[test]
    fn a_service_port_is_a_protocol_and_a_number() {
        for text in ["tcp/8883", "udp/1", "tcp/65535"] {
            assert_eq!(text.parse::<ServicePort>().unwrap().to_string(), text);
        }
        for bad in ["", "8883", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/+1", "TCP/1", "sctp/1"] {
            assert_eq!(bad.parse::<ServicePort>(), Err(InvalidServicePort), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_auto_observed_or_one_that_a_client_can_have() {
        assert_eq!("auto".parse(), Ok(AddressChoice::Auto));
        assert_eq!("observed".parse(), Ok(AddressChoice::Observed));
        let literal = |text: &str| {
            let ip: IpAddr = text.parse().unwrap();
            AddressChoice::Literal(UnicastAddress::try_from(ip).unwrap())
        };
        assert_eq!("192.0.2.7".parse(), Ok(literal("192.0.2.7")));
        assert_eq!("2001:db8::7".parse(), Ok(literal("2001:db8::7")));
        for (bad, error) in [
            ("", InvalidChoice::Form),
            ("Auto", InvalidChoice::Form),
            ("192.0.2.0/24", InvalidChoice::Form),
            ("127.0.0.1", InvalidChoice::NotAClients(InvalidAddress::Loopback)),
            ("fe80::1", InvalidChoice::NotAClients(InvalidAddress::LinkLocal)),
            ("0.0.0.0", InvalidChoice::NotAClients(InvalidAddress::Unspecified)),
        ] {
            assert_eq!(bad.parse::<AddressChoice>(), Err(error), "{bad:?}");
        }
    }
}
