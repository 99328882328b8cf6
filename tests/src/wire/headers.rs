//! IPv6 extension headers (RFC 8200, 4), and the packets that hide their ports in them.

/// The option's upper bits say: skip it if you don't know it (RFC 8200, 4.2). Linux refuses long padding.
const SKIPPED: u8 = 0x1e;

/// An extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Hop-by-hop options, so many times 8 bytes.
    HopByHop(u8),
    /// Destination options, so many times 8 bytes.
    Destination(u8),
    /// A piece of a packet, or with offset 0 and no more to follow, a whole one.
    Fragment {
        /// What pieces of one packet have in common.
        id: u32,
        /// Where the piece begins, in bytes: a multiple of 8.
        offset: u16,
        /// Whether pieces follow.
        more: bool,
    },
}

impl Header {
    /// A fragment header around a whole packet.
    pub fn atomic(id: u32) -> Self {
        Self::Fragment { id, offset: 0, more: false }
    }

    /// Its number in the header before it (IANA, Protocol Numbers).
    fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Destination(_) => 60,
            Self::Fragment { .. } => 44,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(units) | Self::Destination(units) => {
                let length = usize::from(units) * 8;
                let mut header = vec![next, units - 1];
                // As many options as it takes, each of 255 bytes of data at most.
                while header.len() < length {
                    let data = (length - header.len() - 2).min(254);
                    header.extend([SKIPPED, u8::try_from(data).expect("below 255")]);
                    header.resize(header.len() + data, 0);
                }
                header
            }
            Self::Fragment { id, offset, more } => {
                let mut header = vec![next, 0];
                header.extend((offset | u16::from(more)).to_be_bytes());
                header.extend(id.to_be_bytes());
                header
            }
        }
    }
}

/// The headers in order, with `last` behind them; and the number of the first.
pub fn chain(headers: &[Header], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    headers.iter().rev().fold((last, payload.to_vec()), |(next, behind), header| {
        (header.number(), [header.bytes(next), behind].concat())
    })
}

/// The packet behind an IPv6 header in two fragments, each of which is within another fragment: whoever puts
/// fragments together once finds fragments again. The first ends within the header that says what follows.
pub fn nested_fragments(last: u8, payload: &[u8], id: u32) -> [(u8, Vec<u8>); 2] {
    let (first, whole) = chain(&[Header::Destination(2), Header::Destination(1)], last, payload);
    [(0, 0..8), (1, 8..whole.len())].map(|(n, piece)| {
        let offset = u16::try_from(piece.start).expect("an offset");
        let more = piece.end < whole.len();
        let headers = [Header::atomic(id + 1 + n), Header::Fragment { id, offset, more }];
        chain(&headers, first, &whole[piece])
    })
}

#[cfg(test)]
mod tests {
    use super::{Header, chain, nested_fragments};

    #[test]
    fn a_chain_names_each_header_in_the_one_before_it() {
        let (first, bytes) = chain(&[Header::HopByHop(1), Header::atomic(7)], 6, &[0xaa]);
        assert_eq!(first, 0);
        assert_eq!(bytes, [44, 0, 0x1e, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 7, 0xaa]);
    }

    #[test]
    fn options_fill_a_header_of_any_length() {
        for units in 1..=u8::MAX {
            let (_, bytes) = chain(&[Header::Destination(units)], 6, &[]);
            assert_eq!(bytes.len(), usize::from(units) * 8);
        }
    }

    #[test]
    fn nested_fragments_hold_the_whole_packet_behind_their_headers() {
        let [(_, first), (_, rest)] = nested_fragments(6, &[1, 2, 3], 7);
        let (_, whole) = chain(&[Header::Destination(2), Header::Destination(1)], 6, &[1, 2, 3]);
        assert_eq!([&first[16..], &rest[16..]].concat(), whole);
    }
}
