//! Who listens on this host: /proc/net/tcp, tcp6, udp and udp6 (proc(5)).

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::gate::policy::{Port, Protocol};

/// TCP_LISTEN (include/net/tcp_states.h)
const LISTEN: &str = "0A";
/// What an unconnected UDP socket is in: TCP_CLOSE.
const UNCONNECTED: &str = "07";

/// A socket that takes what comes from anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) at: IpAddr,
    pub(super) port: u16,
    pub(super) inode: u64,
}

impl Listening {
    /// Whether only this host itself reaches it.
    pub(super) const fn is_local(&self) -> bool {
        self.at.to_canonical().is_loopback()
    }
}

/// The sockets that listen on a port.
///
/// # Errors
/// If the kernel's tables can't be read.
pub(super) fn listening(port: Port) -> io::Result<Vec<Listening>> {
    let (tables, state) = match port.protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], LISTEN),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED),
    };
    let mut found = Vec::new();
    for path in tables {
        let table = match fs::read_to_string(path) {
            // Where IPv6 is off the second one isn't there.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            table => table?,
        };
        found.extend(table.lines().skip(1).filter_map(|line| row(line, state)));
    }
    found.retain(|socket: &Listening| socket.port == port.number.get());
    Ok(found)
}

fn row(line: &str, state: &str) -> Option<Listening> {
    let columns: Vec<_> = line.split_ascii_whitespace().collect();
    let (address, port) = columns.get(1)?.split_once(':')?;
    if columns.get(3) != Some(&state) {
        return None;
    }
    Some(Listening {
        at: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: columns.get(9)?.parse().ok()?,
    })
}

/// Words of 32 bits, each as this host has it in memory.
fn parse_address(hex: &str) -> Option<IpAddr> {
    if ![8, 32].contains(&hex.len()) {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for word in hex.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

/// The programs that hold a socket, each with its process' number; those of other users are seen by root alone.
pub(super) fn holders(inode: u64) -> BTreeSet<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
            open.any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
            })
            .then(|| {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                (pid, name.trim().to_owned())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn port(protocol: &str, number: u16) -> Port {
        format!("{protocol}/{number}").parse().unwrap()
    }

    #[test]
    fn a_socket_that_listens_is_found_with_its_address_and_its_holder() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = tcp.local_addr().unwrap().port();
        let found = listening(port("tcp", number)).unwrap();
        let [socket] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(socket.at, IpAddr::from([127, 0, 0, 1]));
        assert!(socket.is_local());
        let holders = holders(socket.inode);
        assert!(holders.iter().any(|(pid, _)| *pid == std::process::id()), "{holders:?}");
        drop(tcp);
        assert_eq!(listening(port("tcp", number)).unwrap(), []);
    }

    #[test]
    fn an_unconnected_udp_socket_listens_and_a_connected_one_does_not() {
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let number = udp.local_addr().unwrap().port();
        let found = listening(port("udp", number)).unwrap();
        assert!(matches!(found.as_slice(), [it] if it.at.is_unspecified() && !it.is_local()));
        udp.connect("127.0.0.1:9").unwrap();
        assert_eq!(listening(port("udp", number)).unwrap(), []);
    }

    #[test]
    fn an_ipv6_address_is_read_as_the_kernel_writes_it() {
        let one = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])].map(|word| format!("{word:08X}"));
        assert_eq!(parse_address(&one.concat()), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse_address("00"), None);
    }
}
