//! A sniffer: what tcpdump would show. (Inside a user namespace with one user tcpdump doesn't start:
//! it insists on giving up root's groups, which isn't allowed there.)

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

/// All protocols: ETH_P_ALL of linux/if_ether.h.
pub(crate) const ALL: u16 = 3;

/// Prints packets until `count` were printed, or for ever; `sniffing` first.
pub(crate) fn sniff(from: &[IpAddr], udp_port: Option<u16>, count: Option<u32>) -> io::Result<()> {
    let protocol = Protocol::from(i32::from(ALL.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    let mut out = io::stdout();
    writeln!(out, "sniffing")?;
    let mut buffer = [0; 65_536];
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let length = socket.read(&mut buffer)?;
        let packet = buffer.get(..length).unwrap_or_default();
        let Some(source) = source(packet) else { continue };
        let wanted_source = from.is_empty() || from.contains(&source);
        let wanted_port = udp_port.is_none_or(|port| udp_destination(packet) == Some(port));
        if wanted_source && wanted_port && !is_neighbour_discovery(packet) {
            let mut hex = String::with_capacity(2 * length);
            for byte in packet {
                let _ = write!(hex, "{byte:02x}");
            }
            writeln!(out, "{source} {hex}")?;
            out.flush()?;
            printed += 1;
        }
    }
    Ok(())
}

/// The source of an IP packet; nothing for other protocols, such as ARP.
pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// The destination port of a UDP datagram.
fn udp_destination(packet: &[u8]) -> Option<u16> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4),
        _ => (*packet.get(6)?, 40),
    };
    let port = packet.get(header + 2..)?.first_chunk::<2>()?;
    (protocol == 17).then_some(u16::from_be_bytes(*port))
}

/// ICMPv6 of types 133 to 137 (RFC 4861): how hosts find each other on a wire.
fn is_neighbour_discovery(packet: &[u8]) -> bool {
    let icmp6 = packet.first().is_some_and(|byte| byte >> 4 == 6) && packet.get(6) == Some(&58);
    icmp6 && packet.get(40).is_some_and(|kind| (133..=137).contains(kind))
}
