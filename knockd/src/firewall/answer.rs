//! What the kernel answers over netlink: the bytes of one receive, read into what they say.
//!
//! Message layouts: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
//!
//! # Security considerations
//! - Only the kernel can send to a connected netlink socket. All the same no bytes whatever make this panic
//!   or go on for ever: what isn't as it should be is an error, and no element is made up from it. (The types
//!   of netlink-packet-netfilter don't check the lengths of nested attributes when they read.)
//! - An answer counts only if it carries the number of what was asked, and of the socket that asked: what is left
//!   over of an earlier question, whose asker gave up, is passed over.

use std::{io, iter, ops::RangeInclusive, time::Duration};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};

use super::{
    attributes::{attributes, long_number},
    netlink::{Element, PortId},
};

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

/// What an answer must carry to be one to what was asked (netlink(7): nlmsg_seq and nlmsg_pid).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The number of the message that asked.
    pub sequence: u32,
    /// The socket that asked.
    pub port: PortId,
}

/// One receive's part of the answer to a dump.
#[derive(Debug)]
pub struct Part<'a> {
    /// The kinds and payloads of its messages, the family's header left out.
    pub messages: Vec<(u16, &'a [u8])>,
    /// Whether there is more to come.
    pub progress: Progress,
    /// Whether what is dumped was changed meanwhile, so that some of it may be missing.
    pub interrupted: bool,
}

/// Reads one receive's part of what was asked for.
///
/// # Errors
/// What the kernel says, or that it can't be understood.
pub fn part(received: &[u8], question: Question) -> io::Result<Part<'_>> {
    let mut part = Part { messages: Vec::new(), progress: Progress::More, interrupted: false };
    for message in messages(received) {
        let message = message?;
        if message.question() != question {
            continue;
        }
        part.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.kind {
            NLMSG_DONE => {
                // An error that ended it early stands where there is none otherwise.
                told(message.payload)?;
                part.progress = Progress::Complete;
                break;
            }
            NLMSG_ERROR => {
                told(message.payload)?;
                part.progress = Progress::Complete;
                break;
            }
            kind => {
                let payload = message.payload.get(FAMILY_HEADER_LEN..);
                part.messages.push((kind, payload.ok_or(io::ErrorKind::InvalidData)?));
            }
        }
    }
    Ok(part)
}

/// Reads the elements of a set out of a message of a dump; of other messages none.
///
/// # Errors
/// If it can't be understood.
pub fn elements(
    (kind, message): (u16, &[u8]),
    set: &'static str,
    elements: &mut Vec<Element>,
) -> io::Result<()> {
    if kind != NEW_SET_ELEMENT {
        return Ok(());
    }
    for item in items(message)? {
        elements.extend(read_element(item, set)?);
    }
    Ok(())
}

/// The attributes of each element in a message about elements.
///
/// # Errors
/// If it can't be understood.
pub(super) fn items(message: &[u8]) -> io::Result<Vec<&[u8]>> {
    let mut found = Vec::new();
    for list in attributes(message) {
        let list = list?;
        if list.kind != ELEMENTS {
            continue;
        }
        for item in attributes(list.value) {
            let item = item?;
            if item.kind == LIST_ITEM {
                found.push(item.value);
            }
        }
    }
    Ok(found)
}

/// The kernel's verdict on a batch, in the making: it answers every message that failed, and the last one.
#[derive(Debug)]
pub struct Verdict {
    batch: RangeInclusive<u32>,
    port: PortId,
    first_error: Option<io::Error>,
}

impl Verdict {
    /// Of a batch whose messages have these sequence numbers, and whose last one asks for an acknowledgement.
    #[must_use]
    pub const fn on(batch: RangeInclusive<u32>, port: PortId) -> Self {
        Self { batch, port, first_error: None }
    }

    /// Reads one receive's part of it.
    ///
    /// # Errors
    /// If it can't be understood.
    pub fn read(&mut self, received: &[u8]) -> io::Result<Progress> {
        for answer in messages(received) {
            let answer = answer?;
            if answer.kind != NLMSG_ERROR
                || answer.port != self.port
                || !self.batch.contains(&answer.sequence)
            {
                continue;
            }
            if let Err(error) = told(answer.payload) {
                self.first_error.get_or_insert(error);
            }
            if answer.sequence == *self.batch.end() {
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
    port: PortId,
    pub(super) payload: &'a [u8],
}

impl Message<'_> {
    /// What it answers.
    pub(super) const fn question(&self) -> Question {
        Question { sequence: self.sequence, port: self.port }
    }
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
            port: PortId::new(message.port_number()),
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

fn read_element(item: &[u8], set: &'static str) -> io::Result<Option<Element>> {
    let mut timeout = None;
    for attribute in attributes(item) {
        let attribute = attribute?;
        if attribute.kind == EXPIRATION {
            timeout = Some(Duration::from_millis(long_number(attribute.value)?));
        }
    }
    Ok(key(item)?.map(|key| Element { set, key: key.to_vec(), timeout }))
}

/// The key among an element's attributes.
///
/// # Errors
/// If it can't be understood.
pub(super) fn key(item: &[u8]) -> io::Result<Option<&[u8]>> {
    let mut key = None;
    for attribute in attributes(item) {
        let attribute = attribute?;
        if attribute.kind != KEY {
            continue;
        }
        for data in attributes(attribute.value) {
            let data = data?;
            if data.kind == VALUE {
                key = Some(data.value);
            }
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute whose value is a multiple of four bytes long.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    /// The socket that asks.
    const PORT: PortId = PortId::new(4711);

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&[0; 2]);
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&PORT.number().to_ne_bytes());
        message.extend_from_slice(payload);
        message
    }

    fn elements_of(sequence: u32, key: &[u8]) -> Vec<u8> {
        let element = [attribute(KEY, key), attribute(EXPIRATION, &5_u64.to_be_bytes())].concat();
        let list = attribute(ELEMENTS, &attribute(LIST_ITEM, &element));
        message(NEW_SET_ELEMENT, sequence, &[vec![1, 0, 0, 0], list].concat())
    }

    fn read(received: &[u8]) -> io::Result<(Progress, Vec<Element>)> {
        let part = part(received, Question { sequence: 1, port: PORT })?;
        let mut found = Vec::new();
        for message in part.messages {
            elements(message, "door4", &mut found)?;
        }
        Ok((part.progress, found))
    }

    #[test]
    fn an_element_is_its_key_and_the_time_that_is_left_of_it() {
        let element = Element {
            set: "door4",
            key: b"keys".to_vec(),
            timeout: Some(Duration::from_millis(5)),
        };
        let part = elements_of(1, &attribute(VALUE, b"keys"));
        assert_eq!(read(&part).unwrap(), (Progress::More, vec![element.clone()]));
        let whole = [part, message(NLMSG_DONE, 1, &[0; 4])].concat();
        assert_eq!(read(&whole).unwrap(), (Progress::Complete, vec![element]));
    }

    #[test]
    fn what_answers_another_question_or_another_socket_is_passed_over() {
        let own = elements_of(1, &attribute(VALUE, b"keys"));
        let earlier = [elements_of(0, &attribute(VALUE, b"old!")), message(NLMSG_DONE, 0, &[0; 4])];
        let (progress, found) = read(&[earlier.concat(), own].concat()).unwrap();
        assert_eq!((progress, found.len()), (Progress::More, 1));
        let mut foreign = message(NLMSG_ERROR, 1, &(-1_i32).to_ne_bytes());
        foreign[12..16].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(read(&foreign).unwrap(), (Progress::More, Vec::new()));
    }

    #[test]
    fn a_dump_that_ends_with_an_error_is_one() {
        let end = message(NLMSG_DONE, 1, &(-2_i32).to_ne_bytes());
        assert_eq!(read(&end).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_attribute_that_is_shorter_than_its_own_header_is_an_error() {
        for length in 0_u16..4 {
            let key = [&length.to_ne_bytes()[..], &VALUE.to_ne_bytes(), b"keys"].concat();
            assert!(read(&elements_of(1, &key)).is_err(), "{length}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_anywhere_is_an_error() {
        let whole = elements_of(1, &attribute(VALUE, b"keys"));
        for length in 1..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_verdict_is_the_first_error_of_its_own_batch_once_the_last_message_is_answered() {
        let answer = |sequence, code: i32| message(NLMSG_ERROR, sequence, &code.to_ne_bytes());
        let mut verdict = Verdict::on(7..=9, PORT);
        assert_eq!(verdict.read(&answer(6, -1)).unwrap(), Progress::More);
        assert_eq!(verdict.read(&answer(7, -17)).unwrap(), Progress::More);
        assert_eq!(verdict.read(&answer(8, i32::MIN)).unwrap(), Progress::More);
        assert_eq!(verdict.read(&answer(9, 0)).unwrap(), Progress::Complete);
        assert_eq!(verdict.into_error().and_then(|error| error.raw_os_error()), Some(17));
    }
}
