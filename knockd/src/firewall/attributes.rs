//! Netlink's attributes: read from bytes, and written to them.
//!
//! Layout: struct nlattr of include/uapi/linux/netlink.h, a length and a kind in the machine's order, the value, and
//! padding up to four bytes.
//!
//! # Security considerations
//! No bytes whatever make reading panic or go on for ever: what isn't as it should be is an error.

use std::{io, iter, mem};

use netlink_packet_core::{NLMSG_ALIGNTO, NlaBuffer};

/// The length of an attribute's header in bytes.
const HEADER_LEN: usize = 4;
/// NLA_F_NESTED: the value is attributes.
const NESTED: u16 = 1 << 15;

/// An attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attribute<'a> {
    /// Its kind, without the flags beside it.
    pub(super) kind: u16,
    /// Its value, without the padding.
    pub(super) value: &'a [u8],
}

/// The attributes in these bytes. One that isn't whole is an error, and the end.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<Attribute<'_>>> {
    let mut rest = bytes;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let here = mem::take(&mut rest);
        let attribute = match NlaBuffer::new_checked(here) {
            Ok(attribute) => attribute,
            Err(error) => return Some(Err(io::Error::other(error))),
        };
        let length = usize::from(attribute.length());
        rest = here.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
        let value = here.get(HEADER_LEN..length).unwrap_or_default();
        Some(Ok(Attribute { kind: attribute.kind(), value }))
    })
}

/// The value as text, without the zero byte at its end; what isn't UTF-8 is replaced.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// The value as a number of 32 bits, big-endian as nftables writes them.
///
/// # Errors
/// If it is of another length.
pub(super) fn number(value: &[u8]) -> io::Result<u32> {
    <[u8; 4]>::try_from(value).map(u32::from_be_bytes).map_err(io::Error::other)
}

/// The same of 64 bits.
///
/// # Errors
/// If it is of another length.
pub(super) fn long_number(value: &[u8]) -> io::Result<u64> {
    <[u8; 8]>::try_from(value).map(u64::from_be_bytes).map_err(io::Error::other)
}

/// Attributes in the making.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    /// Adds one. An attribute's length has 16 bits: what is written here is far shorter, but for lists of elements,
    /// which are cut to fit by who makes them.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start)
    }

    /// Adds a text, with a zero byte at its end.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.begin(kind);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.end(start)
    }

    /// Adds one whose value is attributes.
    pub(super) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let start = self.begin(kind | NESTED);
        inner(&mut Writer(self.0));
        self.end(start)
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) -> &mut Self {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        write_at(self.0, start, &length.to_ne_bytes());
        pad(self.0);
        self
    }
}

/// Fills up to a multiple of four bytes.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(usize::from(NLMSG_ALIGNTO)), 0);
}

/// Overwrites what was left open.
pub(super) fn write_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// How long an attribute with a value of this many bytes is, padding included.
pub(super) const fn length_of(value: usize) -> usize {
    HEADER_LEN + value.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = Vec::new();
        Writer(&mut bytes).put(7, b"abcde").nest(8, |inner| {
            inner.put_text(1, "gate").put(2, &9_u32.to_be_bytes());
        });
        assert_eq!(bytes.len(), length_of(5) + length_of(length_of(5) + length_of(4)));
        let read: Vec<_> = attributes(&bytes).map(Result::unwrap).collect();
        assert_eq!((read[0].kind, read[0].value), (7, b"abcde".as_slice()));
        let inner: Vec<_> = attributes(read[1].value).map(Result::unwrap).collect();
        assert_eq!(text(inner[0].value), "gate");
        assert_eq!(number(inner[1].value).unwrap(), 9);
        assert!(number(b"abc").is_err() && long_number(b"abcd").is_err());
    }
}
