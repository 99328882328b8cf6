//! Packets of every odd shape, the same ones each time: header chains, truncated anywhere, fragments within fragments,
//! in any order, overlapping, tiny.

use std::net::{IpAddr, SocketAddr};

use super::headers::{Header, chain};
use super::{Segment, TCP, UDP, ip_packet, ipv4, tcp_flags, udp};

/// How many ports the shapes come from, each from one of its own: more than there are shapes.
pub const PORTS: u16 = 2_000;
/// IPv4 options that a host accepts: nothing, at most and at least; a record of the route, a timestamp, an alert.
const OPTIONS: [&[u8]; 5] = [
    &[1, 1, 1, 1],
    &[1; 40],
    &[7, 7, 4, 0, 0, 0, 0, 0],
    &[68, 8, 5, 0, 0, 0, 0, 0],
    &[148, 4, 0, 0],
];
/// What a datagram says.
const TEXT: &[u8] = b"hello out there\n";
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

/// A segment or datagram in an odd shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// What is odd about it, and whether a host takes it.
    pub kind: Kind,
    /// The port that it comes from, and that an answer to it goes to.
    pub port: u16,
    /// What goes over the wire, in this order.
    pub packets: Vec<Vec<u8>>,
}

/// What is odd about a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Behind IPv4 options.
    Options,
    /// Behind so many IPv6 extension headers.
    Headers(u8),
    /// Cut off somewhere.
    CutOff,
    /// In two fragments, in order.
    Fragments,
    /// In two fragments, the last one first.
    Turned,
    /// In two fragments that overlap.
    Overlapping,
    /// In two fragments, each of which is within others.
    Within,
    /// In two fragments of which the first has a length that none may have.
    Uneven,
    /// In two fragments, the last of which says that more follow.
    Endless,
    /// Drawn: any headers, cut anywhere.
    Drawn,
}

/// The shapes from a host, from this port and those above it.
pub fn shapes(from: SocketAddr, to: SocketAddr, transport: Transport) -> Vec<Shape> {
    let mut shapes = Shapes { from, to, transport, shapes: Vec::new() };
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => shapes.of_ipv4([from.octets(), to.octets()]),
        _ => shapes.of_ipv6(),
    }
    shapes.shapes
}

struct Shapes {
    from: SocketAddr,
    to: SocketAddr,
    transport: Transport,
    shapes: Vec<Shape>,
}

impl Shapes {
    /// The next one's header and data: nobody takes it for one that was before.
    fn next(&mut self, kind: Kind) -> (u8, Vec<u8>) {
        let (mut from, to) = (self.from, self.to);
        from.set_port(from.port() + self.made());
        self.shapes.push(Shape { kind, port: from.port(), packets: Vec::new() });
        match self.transport {
            Transport::Tcp => {
                let segment = Segment { from, to, flags: tcp_flags("S"), seq: 1_000, ack: 0 };
                (TCP, segment.bytes())
            }
            Transport::Udp => (UDP, udp(from, to, TEXT)),
        }
    }

    /// How long the header and the data are.
    const fn length(&self) -> usize {
        match self.transport {
            Transport::Tcp => 20,
            Transport::Udp => 8 + TEXT.len(),
        }
    }

    /// So many of them so far.
    fn made(&self) -> u16 {
        u16::try_from(self.shapes.len()).expect("few shapes")
    }

    /// Bytes that nothing else here has, to tell what belongs together.
    fn id(&self) -> u32 {
        u32::from(self.made()) << 8
    }

    /// This belongs to the last one.
    fn add(&mut self, packet: Vec<u8>) {
        self.shapes.last_mut().expect("a shape").packets.push(packet);
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
            let kind = Kind::Headers(u8::try_from(headers.len()).expect("a few"));
            self.headed(kind, headers, usize::MAX);
        }
        for headers in &one {
            let whole = chain(headers, 0, &[]).1.len() + self.length();
            (0..whole).for_each(|length| self.headed(Kind::CutOff, headers, length));
        }
        for at in (8..48).step_by(8) {
            for depth in 0..=3 {
                for overlap in [0, 8] {
                    let headers = [Header::Destination(2), Header::Destination(1)];
                    for turned in [false, true] {
                        let cut = Cut { at, overlap, depth, turned };
                        self.pieces(cut.kind(), &headers, cut);
                    }
                    let cut = Cut { at: at - 3, overlap, depth, turned: false };
                    self.pieces(Kind::Uneven, &headers, cut);
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
            let (at, overlap) = (8 * (1 + draw(12)), 8 * draw(2));
            let depth = if draw(2) == 0 { 0 } else { 2 };
            let cut = Cut { at, overlap, depth, turned: draw(2) == 0 };
            self.pieces(Kind::Drawn, &headers, cut);
        }
    }

    /// The last one, behind this header.
    fn send(&mut self, first: u8, bytes: &[u8]) {
        self.add(ip_packet(self.from.ip(), self.to.ip(), first, bytes));
    }

    /// Behind these headers, and cut off at this length.
    fn headed(&mut self, kind: Kind, headers: &[Header], length: usize) {
        let (last, data) = self.next(kind);
        let (first, bytes) = chain(headers, last, &data);
        self.send(first, &bytes[..length.min(bytes.len())]);
    }

    /// In two pieces.
    fn pieces(&mut self, kind: Kind, headers: &[Header], cut: Cut) {
        let (last, data) = self.next(kind);
        let (first, whole) = chain(headers, last, &data);
        let at = cut.at.min(whole.len());
        let mut pieces = [0..at, (at / 8 * 8).saturating_sub(cut.overlap)..whole.len()];
        if cut.turned {
            pieces.reverse();
        }
        for (n, piece) in (1..).zip(pieces) {
            let offset = u16::try_from(piece.start).expect("an offset");
            let more = piece.end < whole.len();
            let inner = Header::Fragment { id: self.id(), offset, more };
            let around = (0..cut.depth).map(|level| Header::atomic(self.id() + 10 * n + level));
            let headers: Vec<Header> = around.chain([inner]).collect();
            let (first, bytes) = chain(&headers, first, &whole[piece]);
            self.send(first, &bytes);
        }
    }

    fn of_ipv4(&mut self, ends: [[u8; 4]; 2]) {
        for options in OPTIONS {
            let (last, data) = self.next(Kind::Options);
            self.add(ipv4(ends, last, [0, 0], options, &data));
        }
        for options in [&[], OPTIONS[0], OPTIONS[2]] {
            let whole = self.length();
            for length in 0..whole {
                let (last, data) = self.next(Kind::CutOff);
                self.add(ipv4(ends, last, [0, 0], options, &data[..length]));
            }
            for at in (8..whole).step_by(8) {
                for overlap in [0, 8] {
                    for turned in [false, true] {
                        let cut = Cut { at, overlap, depth: 0, turned };
                        self.pieces4(cut.kind(), ends, options, cut);
                    }
                    let cut = Cut { at, overlap, depth: 0, turned: false };
                    self.pieces4(Kind::Endless, ends, options, cut);
                }
            }
        }
    }

    /// In two fragments.
    fn pieces4(&mut self, kind: Kind, ends: [[u8; 4]; 2], options: &[u8], cut: Cut) {
        let (last, data) = self.next(kind);
        let mut pieces = [0..cut.at, cut.at - cut.overlap..data.len()];
        if cut.turned {
            pieces.reverse();
        }
        for piece in pieces {
            let more = piece.end < data.len() || kind == Kind::Endless;
            let field = u16::try_from(piece.start / 8).expect("an offset") | u16::from(more) << 13;
            self.add(ipv4(ends, last, [self.made(), field], options, &data[piece]));
        }
    }
}

/// How a packet is cut in two.
#[derive(Clone, Copy)]
struct Cut {
    /// Where the first piece ends.
    at: usize,
    /// How many of its bytes the second piece has as well.
    overlap: usize,
    /// How many fragments each piece is within.
    depth: u32,
    /// Whether the last one is first.
    turned: bool,
}

impl Cut {
    const fn kind(self) -> Kind {
        match self {
            Self { overlap: 1.., .. } => Kind::Overlapping,
            Self { depth: 1.., .. } => Kind::Within,
            Self { turned: true, .. } => Kind::Turned,
            _ => Kind::Fragments,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{PORTS, Transport, shapes};

    #[test]
    fn the_shapes_are_hundreds_and_the_same_each_time() {
        for (from, to) in [("10.77.0.3:40000", "10.77.0.1:5"), ("[fd77::3]:40000", "[fd77::1]:5")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            for transport in [Transport::Tcp, Transport::Udp] {
                let made = shapes(from, to, transport);
                assert!((100..=usize::from(PORTS)).contains(&made.len()), "{}", made.len());
                assert_eq!(made, shapes(from, to, transport));
                let ports: BTreeSet<u16> = made.iter().map(|shape| shape.port).collect();
                assert_eq!(ports.len(), made.len(), "each has a port of its own");
            }
        }
    }
}
