//! What the kernel answers over netlink: the bytes of one receive, read into what they say.
//!
//! Message layouts: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
//!
//! # Security considerations
//! Only the kernel can send to a connected netlink socket. All the same no bytes whatever make this panic
//! or go on for ever: what isn't as it should be is an error, and no element is made up from it. (The types
//! of netlink-packet-netfilter, which make the requests, don't check the lengths of nested attributes when
//! they read.)

use std::{io, iter, time::Duration};

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlaBuffer, NlasIterator,
};

use super::netlink::Element;

/// NFT_MSG_NEWSETELEM of NFNL_SUBSYS_NFTABLES.
const NEW_SET_ELEMENT: u16 = 10 << 8 | 12;
/// The length of a struct nfgenmsg in bytes: family, version and resource, ahead of the attributes.
const FAMILY_HEADER_LEN: usize = 4;
/// NFTA_SET_ELEM_LIST_ELEMENTS
const ELEMENTS: u16 = 3;
/// NFTA_LIST_ELEM
const LIST_ITEM: u16 = 1;
/// NFTA_SET_ELEM_KEY
const KEY: u16 = 1;
/// NFTA_DATA_VALUE
const VALUE: u16 = 1;
/// NFTA_SET_ELEM_EXPIRATION: milliseconds, big-endian.
const EXPIRATION: u16 = 5;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The kernel has said all of it.
    Complete,
    /// Another receive will bring more.
    More,
}

/// Reads one receive's part of the elements of a set; they go to `elements`.
///
/// # Errors
/// What the kernel says, or that it can't be understood.
pub fn dump(
    received: &[u8],
    set: &'static str,
    elements: &mut Vec<Element>,
) -> io::Result<Progress> {
    for message in messages(received) {
        let message = message?;
        match message.kind {
            NLMSG_DONE => return Ok(Progress::Complete),
            NLMSG_ERROR => told(message.payload)?,
            NEW_SET_ELEMENT => read_elements(message.payload, set, elements)?,
            _ => {}
        }
    }
    Ok(Progress::More)
}

/// Whether this part of a dump says that what is dumped was changed meanwhile, so that elements may be missing.
#[must_use]
pub fn is_of_an_interrupted_dump(received: &[u8]) -> bool {
    messages(received).flatten().any(|message| message.flags & NLM_F_DUMP_INTR != 0)
}

/// The kernel's verdict on a batch, in the making: it answers every message that failed, and the last one.
#[derive(Debug)]
pub struct Verdict {
    last: u32,
    first_error: Option<io::Error>,
}

impl Verdict {
    /// Of a batch whose last message, which asks for an acknowledgement, has this sequence number.
    #[must_use]
    pub const fn on(last: u32) -> Self {
        Self { last, first_error: None }
    }

    /// Reads one receive's part of it.
    ///
    /// # Errors
    /// If it can't be understood.
    pub fn read(&mut self, received: &[u8]) -> io::Result<Progress> {
        for answer in messages(received) {
            let answer = answer?;
            if answer.kind != NLMSG_ERROR {
                continue;
            }
            if let Err(error) = told(answer.payload) {
                self.first_error.get_or_insert(error);
            }
            if answer.sequence == self.last {
                return Ok(Progress::Complete);
            }
        }
        Ok(Progress::More)
    }

    /// The first error in what was read.
    #[must_use]
    pub fn into_error(self) -> Option<io::Error> {
        self.first_error
    }
}

/// One message.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one receive. What isn't a whole one is an error, and the end.
pub(super) fn messages(received: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    let mut rest = received;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let here = std::mem::take(&mut rest);
        let message = match NetlinkBuffer::new_checked(here) {
            Ok(message) => message,
            Err(error) => return Some(Err(io::Error::other(error))),
        };
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let aligned = length.checked_next_multiple_of(usize::from(NLMSG_ALIGNTO));
        rest = aligned.and_then(|length| here.get(length..)).unwrap_or_default();
        Some(Ok(Message {
            kind: message.message_type(),
            flags: message.flags(),
            sequence: message.sequence_number(),
            payload: message.payload(),
        }))
    })
}

/// The error that an answer tells of, a negative errno, or that there is none: zero (netlink(7)).
pub(super) fn told(answer: &[u8]) -> io::Result<()> {
    match answer.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read_elements(message: &[u8], set: &'static str, elements: &mut Vec<Element>) -> io::Result<()> {
    for list in attributes(message.get(FAMILY_HEADER_LEN..).unwrap_or_default()) {
        let list = list?;
        if list.kind() != ELEMENTS {
            continue;
        }
        for item in attributes(list.value()) {
            let item = item?;
            if item.kind() == LIST_ITEM {
                elements.extend(read_element(item.value(), set)?);
            }
        }
    }
    Ok(())
}

fn read_element(item: &[u8], set: &'static str) -> io::Result<Option<Element>> {
    let (mut key, mut timeout) = (None, None);
    for attribute in attributes(item) {
        let attribute = attribute?;
        match attribute.kind() {
            KEY => {
                for data in attributes(attribute.value()) {
                    let data = data?;
                    if data.kind() == VALUE {
                        key = Some(data.value().to_vec());
                    }
                }
            }
            EXPIRATION => {
                let millis = <[u8; 8]>::try_from(attribute.value()).map_err(io::Error::other)?;
                timeout = Some(Duration::from_millis(u64::from_be_bytes(millis)));
            }
            _ => {}
        }
    }
    Ok(key.map(|key| Element { set, key, timeout }))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<NlaBuffer<&[u8]>>> {
    NlasIterator::new(bytes).map(|attribute| attribute.map_err(io::Error::other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute whose value is a multiple of four bytes long.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&[0; 2]);
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(payload);
        message
    }

    fn elements(key: &[u8]) -> Vec<u8> {
        let element = [attribute(KEY, key), attribute(EXPIRATION, &5_u64.to_be_bytes())].concat();
        let list = attribute(ELEMENTS, &attribute(LIST_ITEM, &element));
        message(NEW_SET_ELEMENT, 1, &[vec![1, 0, 0, 0], list].concat())
    }

    fn read(received: &[u8]) -> io::Result<(Progress, Vec<Element>)> {
        let mut elements = Vec::new();
        dump(received, "door4", &mut elements).map(|progress| (progress, elements))
    }

    #[test]
    fn an_element_is_its_key_and_the_time_that_is_left_of_it() {
        let element = Element {
            set: "door4",
            key: b"keys".to_vec(),
            timeout: Some(Duration::from_millis(5)),
        };
        let part = elements(&attribute(VALUE, b"keys"));
        assert_eq!(read(&part).unwrap(), (Progress::More, vec![element.clone()]));
        let whole = [part, message(NLMSG_DONE, 1, &[0; 4])].concat();
        assert_eq!(read(&whole).unwrap(), (Progress::Complete, vec![element]));
    }

    #[test]
    fn an_attribute_that_is_shorter_than_its_own_header_is_an_error() {
        for length in 0_u16..4 {
            let key = [&length.to_ne_bytes()[..], &VALUE.to_ne_bytes(), b"keys"].concat();
            assert!(read(&elements(&key)).is_err(), "{length}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_anywhere_is_an_error() {
        let whole = elements(&attribute(VALUE, b"keys"));
        for length in 1..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_verdict_is_the_first_error_once_the_last_message_is_answered() {
        let answer = |sequence, code: i32| message(NLMSG_ERROR, sequence, &code.to_ne_bytes());
        let mut verdict = Verdict::on(9);
        assert_eq!(verdict.read(&answer(7, -17)).unwrap(), Progress::More);
        assert_eq!(verdict.read(&answer(8, i32::MIN)).unwrap(), Progress::More);
        assert_eq!(verdict.read(&answer(9, 0)).unwrap(), Progress::Complete);
        assert_eq!(verdict.into_error().and_then(|error| error.raw_os_error()), Some(17));
    }
}
