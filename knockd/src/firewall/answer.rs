//! What the kernel answers over netlink: the bytes of one receive, read into what they say.
//!
//! Message layouts: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
//!
//! # Security considerations
//! Only the kernel can send to a connected netlink socket. All the same no bytes whatever make this panic
//! or go on for ever: what isn't as it should be is an error, and no element is made up from it.

use std::{io, time::Duration};

use netlink_packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    nftables::{
        DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
        SetElementMessage,
    },
};

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
    for message in messages(received)? {
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(Progress::Complete),
            NetlinkPayload::Error(error) => told(&error)?,
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(message)),
                ..
            }) => elements.extend(read_elements(set, message)),
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
        for answer in messages(received)? {
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

fn messages(received: &[u8]) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
    let mut messages = Vec::new();
    let mut rest = received;
    while !rest.is_empty() {
        let message =
            NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
        // Messages are aligned to four bytes (include/uapi/linux/netlink.h, NLMSG_ALIGN).
        let length =
            usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}

fn read_elements(set: &'static str, message: SetElementMessage) -> impl Iterator<Item = Element> {
    let lists = message.attributes.into_iter().filter_map(|attribute| match attribute {
        SetElementList::Elements(list) => Some(list),
        _ => None,
    });
    lists.flatten().filter_map(move |element| {
        let ListAttribute::Element(attributes) = element else { return None };
        let mut key = None;
        let mut timeout = None;
        for attribute in attributes {
            match attribute {
                SetElementAttribute::Key(DataAttribute::Value(bytes)) => key = Some(bytes),
                SetElementAttribute::Expiration(millis) => {
                    timeout = Some(Duration::from_millis(millis))
                }
                _ => {}
            }
        }
        Some(Element { set, key: key?, timeout })
    })
}
