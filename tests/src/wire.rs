//! Raw IP packets, byte by byte: what an attacker's tools make.

pub mod headers;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// Protocol numbers (IANA).
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;

/// A TCP segment without data or options.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Where it claims to come from.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// The flags' byte.
    pub flags: u8,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number.
    pub ack: u32,
}

/// The flags' byte for letters as nmap and nping write them: `SA` is SYN and ACK.
pub fn tcp_flags(letters: &str) -> u8 {
    letters.bytes().fold(0, |flags, letter| {
        let bit = b"FSRPAUEC".iter().position(|known| *known == letter.to_ascii_uppercase());
        flags | 1 << bit.unwrap_or_else(|| panic!("unknown TCP flag {letter:?}"))
    })
}

impl Segment {
    /// The TCP header, with its checksum.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&[])
    }

    /// The TCP header, with its checksum, and data.
    pub fn bytes_with(&self, data: &[u8]) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(20);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([5 << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend_from_slice(data);
        let sum = checksum(self.from.ip(), self.to.ip(), TCP, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    /// The whole packet.
    pub fn packet(&self) -> Vec<u8> {
        ip_packet(self.from.ip(), self.to.ip(), TCP, &self.bytes())
    }

    /// The packet in two fragments, cut inside the TCP header.
    pub fn fragments(&self, id: u16) -> [Vec<u8>; 2] {
        let tcp = self.bytes();
        let (from, to) = (self.from.ip(), self.to.ip());
        [0..8, 8..tcp.len()].map(|piece| fragment(from, to, TCP, id, &tcp, piece))
    }
}

/// A UDP datagram in an IP packet.
pub fn udp_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    ip_packet(from.ip(), to.ip(), UDP, &udp(from, to, payload))
}

/// A piece of a UDP datagram, its header of 8 bytes counted, in an IP packet: a fragment that says that
/// more follow unless it reaches to the end. Begins at a multiple of 8 bytes.
pub fn udp_fragment(
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    id: u16,
    piece: Range<usize>,
) -> Vec<u8> {
    fragment(from.ip(), to.ip(), UDP, id, &udp(from, to, payload), piece)
}

fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram's length");
    let mut udp = Vec::with_capacity(8 + payload.len());
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend_from_slice(payload);
    let sum = checksum(from.ip(), to.ip(), UDP, &udp);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    udp
}

/// An IP packet of a protocol, or for IPv6 of a first header.
pub fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ipv4(from.octets(), to.octets(), protocol, 0, 0, payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from.octets(), to.octets(), protocol, payload),
        _ => panic!("{from} and {to} are of different families"),
    }
}

fn fragment(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    id: u16,
    whole: &[u8],
    piece: Range<usize>,
) -> Vec<u8> {
    assert_eq!(piece.start % 8, 0, "fragments begin at multiples of 8 bytes");
    let offset = u16::try_from(piece.start).expect("an offset");
    let more = piece.end < whole.len();
    let part = &whole[piece];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let field = (offset / 8) | if more { 0x2000 } else { 0 };
            ipv4(from.octets(), to.octets(), protocol, id, field, part)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // RFC 8200, 4.5: next header, reserved, offset and flags, identification.
            let mut header = vec![protocol, 0];
            header.extend((offset | u16::from(more)).to_be_bytes());
            header.extend(u32::from(id).to_be_bytes());
            header.extend_from_slice(part);
            ipv6(from.octets(), to.octets(), 44, &header)
        }
        _ => panic!("{from} and {to} are of different families"),
    }
}

fn ipv4(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    id: u16,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a packet's length");
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend(id.to_be_bytes());
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend(from);
    ip.extend(to);
    let sum = fold(words(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend_from_slice(payload);
    ip
}

fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet's length");
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(from);
    ip.extend(to);
    ip.extend_from_slice(payload);
    ip
}

/// The checksum of TCP and UDP, over the pseudo header too (RFC 9293, 3.1; RFC 8200, 8.1).
fn checksum(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    };
    let length = u32::try_from(payload.len()).expect("a packet's length");
    let sum = address(from) + address(to) + u32::from(protocol) + length + words(payload);
    match fold(sum) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    }
}

fn words(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

#[cfg(test)]
mod tests {
    use super::{Segment, ipv4, tcp_flags};

    #[test]
    fn the_checksum_of_the_example_in_rfc_1071_terms_verifies() {
        let packet = ipv4([10, 77, 0, 1], [10, 77, 0, 2], 6, 0, 0, &[]);
        assert_eq!(super::fold(super::words(&packet)), 0, "a header with its checksum sums to 0");
    }

    #[test]
    fn fragments_carry_the_whole_segment() {
        let (from, to) = ("10.77.0.3:1".parse().unwrap(), "10.77.0.1:2".parse().unwrap());
        let segment = Segment { from, to, flags: tcp_flags("SA"), seq: 1, ack: 2 };
        let [first, rest] = segment.fragments(7);
        assert_eq!([&first[20..], &rest[20..]].concat(), segment.bytes());
    }
}
