//! Fixed-size records with a checksum, written and read field by field.

use sha2::{Digest as _, Sha256};

/// Length of a record's checksum in bytes: SHA-256, cut off. It finds damage, not malice: whoever can
/// write the file needs no forged record.
const CHECKSUM_LEN: usize = 8;

/// Fills a record of `N` bytes field by field; the rest stays zero, and the checksum ends it.
pub(super) struct Encoder<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Encoder<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    /// The next field. One that doesn't fit is cut off, and decoding would show it: the layouts are
    /// constants, and their tests fill them to the brim.
    pub(super) fn put(mut self, field: &[u8]) -> Self {
        let (content, _) = self.bytes.split_at_mut(N - CHECKSUM_LEN);
        for (place, byte) in content.iter_mut().skip(self.at).zip(field) {
            *place = *byte;
        }
        self.at += field.len();
        self
    }

    pub(super) fn finish(mut self) -> [u8; N] {
        let (content, end) = self.bytes.split_at_mut(N - CHECKSUM_LEN);
        end.copy_from_slice(&checksum(content));
        self.bytes
    }
}

/// Reads a record's fields in their order, once its checksum holds.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// `None` if the checksum doesn't match.
    pub(super) fn new(record: &'a [u8]) -> Option<Self> {
        let (content, end) = record.split_last_chunk::<CHECKSUM_LEN>()?;
        (checksum(content) == *end).then_some(Self { rest: content })
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*field)
    }

    pub(super) fn take_u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest: [u8; 32] = Sha256::digest(content).into();
    let mut checksum = [0; CHECKSUM_LEN];
    for (place, byte) in checksum.iter_mut().zip(digest) {
        *place = byte;
    }
    checksum
}

/// Writes a text into a field that is padded with zero bytes.
pub(super) fn copy_text(place: &mut [u8], text: &str) {
    for (place, byte) in place.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}

/// The text of a field that is padded with zero bytes; `None` if it isn't UTF-8.
pub(super) fn text(padded: &[u8]) -> Option<&str> {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    std::str::from_utf8(padded.get(..end)?).ok()
}
