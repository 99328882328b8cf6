//! Where to knock, what to probe, and on whose behalf: the values that a profile and the command line
//! both hold, parsed once.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
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
    /// An IPv6 address without brackets: its last group could as well be the port.
    #[error("an IPv6 address stands in brackets here, such as [2001:db8::7]:62201")]
    Brackets,
    /// The part behind the last colon.
    #[error("the server's port is a number from 1 to 65535")]
    Port,
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
