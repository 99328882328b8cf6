//! Packets of every odd shape, the same ones each time: header chains, truncated anywhere, fragments within fragments,
//! in any order, overlapping, tiny.

use std::net::{IpAddr, SocketAddr};

use super::headers::{Header, chain};
use super::{Segment, TCP, UDP, ip_packet, ipv4, tcp_flags, udp};

/// The ports that packets come from, one after another.
const PORTS: u16 = 1_000;
/// IPv4 options that a host accepts: nothing, at most and at least; a record of the route, a timestamp, an alert.
const OPTIONS: [&[u8]; 5] = [
    &[1, 1, 1, 1],
    &[1; 40],
    &[7, 7, 4, 0, 0, 0, 0, 0],
    &[68, 8, 5, 0, 0, 0, 0, 0],
    &[148, 4, 0, 0],
];
/// How many chains and cuts are drawn.
const DRAWN: u32 = 300;

/// What the packets carry: the first segment of a connection, or a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A SYN.
    Tcp,
    /// A line of text.
    Udp,
}

/// The packets from a host, from this port and those above it.
pub fn shapes(from: SocketAddr, to: SocketAddr, transport: Transport) -> Vec<Vec<u8>> {
    let mut shapes = Shapes { from, to, transport, made: 0, packets: Vec::new() };
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => shapes.of_ipv4([from.octets(), to.octets()]),
        _ => shapes.of_ipv6(),
    }
    shapes.packets
}

struct Shapes {
    from: SocketAddr,
    to: SocketAddr,
    transport: Transport,
    /// So many of them so far.
    made: u16,
    packets: Vec<Vec<u8>>,
}

impl Shapes {
    /// The next one's header and data: nobody takes it for one that was before.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let (mut from, to) = (self.from, self.to);
        from.set_port(from.port() + self.made % PORTS);
        self.made += 1;
        match self.transport {
            Transport::Tcp => {
                let segment = Segment { from, to, flags: tcp_flags("S"), seq: 1_000, ack: 0 };
                (TCP, segment.bytes())
            }
            Transport::Udp => (UDP, udp(from, to, b"hello out there\n")),
        }
    }

    /// Bytes that nothing else here has, to tell what belongs together.
    fn id(&self) -> u32 {
        u32::from(self.made) << 8
    }

    fn of_ipv6(&mut self) {
        let kinds = [
            Header::HopByHop(1),
            Header::Destination(1),
            Header::Destination(2),
            Header::Destination(32),
            Header::Routing,
            Header::atomic(7),
        ];
        let one = kinds.map(|kind| vec![kind]);
        let longer = |chains: &[Vec<Header>]| -> Vec<Vec<Header>> {
            let all =
                chains.iter().flat_map(|chain| kinds.map(|kind| [&[kind], &chain[..]].concat()));
            all.collect()
        };
        let two = longer(&one);
        for headers in one.iter().chain(&two).chain(&longer(&two)) {
            self.headed(headers, usize::MAX);
        }
        for headers in &one {
            let whole = chain(headers, 0, &[]).1.len() + 28;
            (0..whole).for_each(|length| self.headed(headers, length));
        }
        for cut in (8..48).step_by(8) {
            for depth in 0..=3 {
                for overlap in [0, 8] {
                    let headers = [Header::Destination(2), Header::Destination(1)];
                    self.pieces(&headers, cut, overlap, depth, false);
                    self.pieces(&headers, cut, overlap, depth, true);
                    // The first one's length isn't what a fragment's may be.
                    self.pieces(&headers, cut - 3, overlap, depth, false);
                }
            }
        }
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..DRAWN {
            let mut draw = |below: usize| {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                random as usize % below
            };
            let headers: Vec<Header> = (0..draw(8)).map(|_| kinds[draw(kinds.len())]).collect();
            let (cut, overlap) = (8 * (1 + draw(12)), 8 * draw(2));
            let depth = if draw(2) == 0 { 0 } else { 2 };
            self.pieces(&headers, cut, overlap, depth, draw(2) == 0);
        }
    }

    fn send(&mut self, first: u8, bytes: &[u8]) {
        self.packets.push(ip_packet(self.from.ip(), self.to.ip(), first, bytes));
    }

    /// Behind these headers, and cut off at this length.
    fn headed(&mut self, headers: &[Header], length: usize) {
        let (last, data) = self.next();
        let (first, bytes) = chain(headers, last, &data);
        self.send(first, &bytes[..length.min(bytes.len())]);
    }

    /// In two pieces, each of which is within so many others.
    fn pieces(&mut self, headers: &[Header], cut: usize, overlap: usize, depth: u32, turned: bool) {
        let (last, data) = self.next();
        let (first, whole) = chain(headers, last, &data);
        let cut = cut.min(whole.len());
        let mut pieces = [0..cut, (cut / 8 * 8).saturating_sub(overlap)..whole.len()];
        if turned {
            pieces.reverse();
        }
        for (n, piece) in (1..).zip(pieces) {
            let offset = u16::try_from(piece.start).expect("an offset");
            let more = piece.end < whole.len();
            let inner = Header::Fragment { id: self.id(), offset, more };
            let around = (0..depth).map(|level| Header::atomic(self.id() + 10 * n + level));
            let headers: Vec<Header> = around.chain([inner]).collect();
            let (first, bytes) = chain(&headers, first, &whole[piece]);
            self.send(first, &bytes);
        }
    }

    fn of_ipv4(&mut self, ends: [[u8; 4]; 2]) {
        for options in OPTIONS {
            let (last, data) = self.next();
            self.packets.push(ipv4(ends, last, [0, 0], options, &data));
        }
        for options in [&[], OPTIONS[0], OPTIONS[2]] {
            let whole = self.next().1.len();
            for length in 0..whole {
                let (last, data) = self.next();
                self.packets.push(ipv4(ends, last, [0, 0], options, &data[..length]));
            }
            for cut in (8..whole).step_by(8) {
                for overlap in [0, 8] {
                    for (turned, endless) in [(false, false), (true, false), (false, true)] {
                        self.pieces4(ends, options, cut, overlap, turned, endless);
                    }
                }
            }
        }
    }

    /// In two fragments; the last of which may say that more follow.
    fn pieces4(
        &mut self,
        ends: [[u8; 4]; 2],
        options: &[u8],
        cut: usize,
        overlap: usize,
        turned: bool,
        endless: bool,
    ) {
        let (last, data) = self.next();
        let mut pieces = [0..cut, cut - overlap..data.len()];
        if turned {
            pieces.reverse();
        }
        for piece in pieces {
            let more = piece.end < data.len() || endless;
            let field = u16::try_from(piece.start / 8).expect("an offset") | u16::from(more) << 13;
            self.packets.push(ipv4(ends, last, [self.made, field], options, &data[piece]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Transport, shapes};

    #[test]
    fn the_shapes_are_hundreds_and_the_same_each_time() {
        for (from, to) in [("10.77.0.3:40000", "10.77.0.1:5"), ("[fd77::3]:40000", "[fd77::1]:5")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            for transport in [Transport::Tcp, Transport::Udp] {
                let made = shapes(from, to, transport);
                assert!((100..5_000).contains(&made.len()), "{}", made.len());
                assert_eq!(made, shapes(from, to, transport));
            }
        }
    }
}
