//! What the kernel answers over netlink: the bytes of one receive, read into what they say.
//!
//! Message layouts: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
//!
//! # Security considerations
//! Only the kernel can send to a connected netlink socket. All the same no bytes whatever make this panic
//! or go on for ever: what isn't as it should be is an error, and no element is made up from it.

use std::{io, time::Duration};

use netlink_packet_core::{
    DecodeError, ErrorMessage, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::NetfilterMessage;

use super::netlink::Element;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The kernel has said all of it.
    Complete,
    /// It wants to be asked for more.
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
    for message in messages::<SetElements>(received)? {
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(Progress::Complete),
            NetlinkPayload::Error(error) => told(&error)?,
            NetlinkPayload::InnerMessage(SetElements(found)) => {
                let element = |Found { key, timeout }| Element { set, key, timeout };
                elements.extend(found.into_iter().map(element));
            }
            _ => {}
        }
    }
    Ok(Progress::More)
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
        for answer in messages::<NetfilterMessage>(received)? {
            let NetlinkPayload::Error(error) = answer.payload else { continue };
            if let Err(error) = told(&error) {
                self.first_error.get_or_insert(error);
            }
            if answer.header.sequence_number == self.last {
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

/// An error that the kernel tells of, or that there is none (netlink(7), NLMSG_ERROR).
fn told(message: &ErrorMessage) -> io::Result<()> {
    match message.code {
        None => Ok(()),
        // The crate's own way to say this overflows on a code that is no errno.
        Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
    }
}

fn messages<M: NetlinkDeserializable>(received: &[u8]) -> io::Result<Vec<NetlinkMessage<M>>> {
    let mut messages = Vec::new();
    let mut rest = received;
    while !rest.is_empty() {
        let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
        // Messages are aligned to four bytes (include/uapi/linux/netlink.h, NLMSG_ALIGN).
        let length =
            usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}

/// The elements in one message of a dump. They are read here: what the crate has for it writes the whole message
/// out as text for each element, in case that one is wrong, and a full set would take it minutes.
struct SetElements(Vec<Found>);

struct Found {
    key: Vec<u8>,
    timeout: Option<Duration>,
}

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWSETELEM (nfnetlink.h, nf_tables.h).
const NEW_SET_ELEMENT: u16 = 10 << 8 | 12;
/// What comes before a message's attributes: struct nfgenmsg.
const NFGENMSG_LEN: usize = 4;
/// Attributes: NFTA_SET_ELEM_LIST_ELEMENTS, and in it NFTA_LIST_ELEM, and in that NFTA_SET_ELEM_KEY, which has an
/// NFTA_DATA_VALUE, and NFTA_SET_ELEM_EXPIRATION, in milliseconds.
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const EXPIRATION: u16 = 5;

impl NetlinkDeserializable for SetElements {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut found = Vec::new();
        if header.message_type == NEW_SET_ELEMENT {
            let attributes = payload.get(NFGENMSG_LEN..).unwrap_or_default();
            for elements in of_kind(attributes, ELEMENTS) {
                for element in of_kind(elements?.value(), ELEMENT) {
                    found.extend(Found::read(element?.value())?);
                }
            }
        }
        Ok(Self(found))
    }
}

impl Found {
    /// Nothing if there is no key, as in a set's catch-all element.
    fn read(element: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (mut key, mut timeout) = (None, None);
        for attribute in NlasIterator::new(element) {
            let attribute = attribute?;
            match attribute.kind() {
                KEY => {
                    for value in of_kind(attribute.value(), VALUE) {
                        key = Some(value?.value().to_vec());
                    }
                }
                EXPIRATION => {
                    let millis = attribute.value().try_into().map(u64::from_be_bytes);
                    let millis = millis.map_err(|_| "an expiration has 8 bytes")?;
                    timeout = Some(Duration::from_millis(millis));
                }
                _ => {}
            }
        }
        Ok(key.map(|key| Self { key, timeout }))
    }
}

/// The attributes of one kind, and what can't be read.
fn of_kind(
    attributes: &[u8],
    kind: u16,
) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>, DecodeError>> {
    NlasIterator::new(attributes)
        .filter(move |attribute| attribute.as_ref().map_or(true, |found| found.kind() == kind))
}
