//! Set elements over netlink: one transaction for all that a batch of knocks changes.
//!
//! Message layouts: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
        SetElementMessage,
    },
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    answer::{self, Progress, Verdict},
    ruleset::TABLE_NAME,
};

/// NFNL_SUBSYS_NFTABLES: which subsystem a batch is for.
const SUBSYSTEM_NFTABLES: u16 = 10;
/// MSG_DONTWAIT (include/linux/socket.h).
const DONT_WAIT: i32 = 0x40;
/// Elements in one message: an attribute's length has 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 512;
/// How often a set is read anew because the ruleset was changed meanwhile.
const DUMPS_AT_MOST: usize = 5;
/// What a receive can bring at most: the kernel fills dumps in pages of up to 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The name of its set.
    pub set: &'static str,
    /// Its key, each field padded to four bytes.
    pub key: Vec<u8>,
    /// How long it stays (when written), or stays yet (when read); `None` for a set without timeouts.
    pub timeout: Option<Duration>,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Step {
    /// Adds elements of one set; one that is there stays as it is.
    Add(Vec<Element>),
    /// Adds elements of one set, none of which may be there.
    Create(Vec<Element>),
    /// Deletes elements of one set, all of which must be there.
    Delete(Vec<Element>),
}

/// The number that the kernel has given a netlink socket: unique in its network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId(u32);

impl PortId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A socket to the kernel's nftables.
pub struct Netlink {
    socket: Socket,
    port: PortId,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in this process's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = PortId(socket.bind_auto()?.port_number());
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without it every error would bring the whole message back and fill the receive buffer.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// Its number, which the kernel's notifications of what it changes carry.
    #[must_use]
    pub const fn port_id(&self) -> PortId {
        self.port
    }

    /// Does all of these steps in one transaction, or none.
    ///
    /// # Errors
    /// The first error that the kernel reports; nothing took effect then.
    pub fn transact(&mut self, steps: &[Step]) -> io::Result<()> {
        let mut messages = Vec::new();
        for step in steps {
            let (elements, flags, message): (_, _, fn(SetElementMessage) -> NfTablesMessage) =
                match step {
                    Step::Add(elements) => (elements, NLM_F_CREATE, NfTablesMessage::NewSetElement),
                    Step::Create(elements) => {
                        (elements, NLM_F_CREATE | NLM_F_EXCL, NfTablesMessage::NewSetElement)
                    }
                    Step::Delete(elements) => (elements, 0, NfTablesMessage::DeleteSetElement),
                };
            let chunks = elements.chunks(ELEMENTS_PER_MESSAGE);
            messages.extend(chunks.map(|chunk| (flags, message(set_elements(chunk)))));
        }
        let mut batch = Vec::new();
        self.put(&mut batch, NLM_F_REQUEST, ControlMessage::BatchBegin);
        let mut last = 0;
        let mut left = messages.len();
        for (flags, message) in messages {
            left -= 1;
            // Errors are told of every message; that all went well, of the last.
            let acknowledge = if left == 0 { NLM_F_ACK } else { 0 };
            last = self.put(&mut batch, NLM_F_REQUEST | flags | acknowledge, message);
        }
        self.put(&mut batch, NLM_F_REQUEST, ControlMessage::BatchEnd);
        self.socket.send(&batch, 0)?;
        self.verdict(last)
    }

    /// The elements of a set. Where the ruleset keeps being changed meanwhile, some may be missing.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` if the table or the set isn't there.
    pub fn dump(&mut self, set: &'static str) -> io::Result<Vec<Element>> {
        let mut elements = Vec::new();
        for _ in 0..DUMPS_AT_MOST {
            elements.clear();
            let mut request = Vec::new();
            let attributes = vec![
                SetElementList::Table(TABLE_NAME.to_owned()),
                SetElementList::Set(set.to_owned()),
            ];
            let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
            self.put(&mut request, NLM_F_REQUEST | NLM_F_DUMP, message);
            self.socket.send(&request, 0)?;
            let mut interrupted = false;
            loop {
                let received = self.receive(0)?;
                interrupted |= answer::is_of_an_interrupted_dump(received);
                if answer::dump(received, set, &mut elements)? == Progress::Complete {
                    break;
                }
            }
            if !interrupted {
                break;
            }
        }
        Ok(elements)
    }

    /// Appends a message to a batch and returns its sequence number.
    fn put(
        &mut self,
        batch: &mut Vec<u8>,
        flags: u16,
        message: impl Into<NetfilterMessageInner>,
    ) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let inner = message.into();
        let (family, resource) = match inner {
            NetfilterMessageInner::None(_) => (NetfilterProtoFamily::Unspec, SUBSYSTEM_NFTABLES),
            _ => (NetfilterProtoFamily::Inet, 0),
        };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        message.finalize();
        let start = batch.len();
        batch.resize(start + message.buffer_len(), 0);
        if let Some(place) = batch.get_mut(start..) {
            message.serialize(place);
        }
        self.sequence
    }

    /// Reads the kernel's answers to a batch. It has answered all of it before send(2) returned: errors,
    /// and the acknowledgement of the last message even if an earlier one has failed the whole.
    fn verdict(&mut self, last: u32) -> io::Result<()> {
        let mut verdict = Verdict::on(last);
        loop {
            match self.receive(DONT_WAIT).and_then(|received| verdict.read(received)) {
                Ok(Progress::More) => {}
                Ok(Progress::Complete) => return verdict.into_error().map_or(Ok(()), Err),
                // Nothing is left, and the last message was not acknowledged.
                Err(nothing_left) => return Err(verdict.into_error().unwrap_or(nothing_left)),
            }
        }
    }

    fn receive(&mut self, flags: i32) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, flags)?;
        Ok(&self.buffer)
    }
}

fn set_elements(elements: &[Element]) -> SetElementMessage {
    let list = elements
        .iter()
        .map(|element| {
            let mut attributes =
                vec![SetElementAttribute::Key(DataAttribute::Value(element.key.clone()))];
            if let Some(timeout) = element.timeout {
                // Zero would mean "never" to the kernel.
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
                attributes.push(SetElementAttribute::Timeout(millis));
            }
            ListAttribute::Element(attributes)
        })
        .collect();
    let set = elements.first().map_or("", |element| element.set);
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE_NAME.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(list),
        ],
    }
}
