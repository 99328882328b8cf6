//! The device's `knock.toml`.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
};

use zeroize::Zeroizing;

use crate::{
    commands::Output,
    config::{Config, secret},
    gate::policy::{AddressPolicy, Client, ClientClock, Protocol},
};

/// Where a device reaches the daemon: a host's name or address, and a port unless it is the daemon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    port: Option<NonZeroU16>,
}

/// A text that is no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a server is written broker.example.com:62201, 192.0.2.7:62201 (no leading zeros) or [2001:db8::7]:62201; \
     without a port it is the one that knockd listens at"
)]
pub struct InvalidServer;

impl Server {
    /// Longest name of a host in text form (RFC 1035, section 3.1).
    const HOST_MAX: usize = 253;
}

impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        if let Ok(SocketAddr::V6(socket)) = text.parse::<SocketAddr>()
            && socket.scope_id() == 0
        {
            let port = NonZeroU16::new(socket.port()).ok_or(InvalidServer)?;
            return Ok(Self { host: format!("[{}]", socket.ip()), port: Some(port) });
        }
        let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<Ipv6Addr>() {
            return Ok(Self { host: format!("[{address}]"), port: None });
        }
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port.parse().map_err(|_| InvalidServer)?))
            }
            Some(_) => return Err(InvalidServer),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let of_good_length = (1..=Self::HOST_MAX).contains(&host.len());
        // What ends in a number is read as an IPv4 address, with leading zeros as octal by some (RFC 6943, section
        // 3.1.1): one that is none would lead elsewhere.
        let is_number = |label: &str| {
            let digits = label.strip_prefix("0x").or(label.strip_prefix("0X"));
            match digits {
                Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
                None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
            }
        };
        let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
        if is_number(last) && host.parse::<Ipv4Addr>().is_err() {
            return Err(InvalidServer);
        }
        if of_good_length && host.bytes().all(good) {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(InvalidServer)
        }
    }
}

/// Stands in the profile until somebody writes the right one.
const PLACEHOLDER: &str = "broker.example.com";

/// Warns where the device's `knock.toml` lacks the server's name.
pub(super) fn warn_of_placeholder(server: Option<&Server>, output: &mut Output<'_>) {
    if server.is_none() {
        output.note("warning: the server in this knock.toml is a placeholder: --server says which");
    }
}

/// The whole `knock.toml` of a client's device, key included.
pub(super) fn text(client: &Client, server: Option<&Server>, config: &Config) -> Zeroizing<String> {
    // With room for all of it from the start, the text never moves and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2048));
    // Writing to a text can't fail.
    let _ = write(&mut text, client, server, config);
    text
}

fn write(
    to: &mut String,
    client: &Client,
    server: Option<&Server>,
    config: &Config,
) -> fmt::Result {
    writeln!(to, "# {}: on the device this is /etc/knock/knock.toml, mode 0600.", client.name)?;
    writeln!(to, "[broker]")?;
    let default_port = config.listen.port();
    match server {
        Some(Server { host, port }) => {
            writeln!(to, "server = \"{host}:{}\"", port.unwrap_or(default_port))?;
        }
        None => {
            writeln!(to, "# Write the host that knockd runs on here:")?;
            writeln!(to, "server = \"{PLACEHOLDER}:{default_port}\"")?;
        }
    }
    writeln!(to, "key = \"{}\"", *secret::to_text(&client.secret))?;
    if let [service] = &*client.services {
        writeln!(to, "service = \"{service}\"")?;
    }
    let mut ports = client.services.iter().flat_map(|name| {
        let service = config.policy.services.iter().find(|service| service.name == *name);
        service.map(|service| service.ports.as_slice()).unwrap_or_default()
    });
    // `knock --wait` can only probe TCP.
    if let Some(port) = ports.find(|port| port.protocol == Protocol::Tcp) {
        writeln!(to, "port = \"{port}\"")?;
    }
    if client.address == AddressPolicy::Observed {
        writeln!(to, "address = \"observed\"")?;
    }
    if client.clock == ClientClock::Counter {
        writeln!(to, "clock = \"counter\"")?;
        writeln!(
            to,
            "# The number of the last packet, begun once on the device with: knock --set-counter 0"
        )?;
        writeln!(to, "counter-file = \"/var/lib/knock/broker.counter\"")?;
    }
    let realm = config.policy.realm.as_str();
    if !realm.is_empty() {
        // Printable ASCII, of which TOML's basic strings escape these two.
        writeln!(to, "realm = \"{}\"", realm.replace('\\', r"\\").replace('"', "\\\""))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_maybe_a_port() {
        let port = NonZeroU16::new(700);
        for (text, host, port) in [
            ("broker.example.com", "broker.example.com", None),
            ("broker.example.com:700", "broker.example.com", port),
            ("192.0.2.7:700", "192.0.2.7", port),
            ("[2001:db8::7]:700", "[2001:db8::7]", port),
            ("[2001:db8::7]", "[2001:db8::7]", None),
            ("2001:db8::7", "[2001:db8::7]", None),
        ] {
            assert_eq!(text.parse(), Ok(Server { host: host.into(), port }), "{text}");
        }
        for text in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "a b",
            "a\"b",
            "[::1]:0",
            "a:1:2",
            "http://a",
            "192.168.010.005",
            "10.0.0.08:700",
            "0x7f.1",
            "127.1",
            "3232235777",
            "0x7f000001",
            "10.0.0.256",
            "[fe80::1%eth0]",
        ] {
            assert_eq!(text.parse::<Server>(), Err(InvalidServer), "{text}");
        }
    }
}
