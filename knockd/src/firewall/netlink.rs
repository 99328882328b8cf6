//! The kernel's nftables over netlink: transactions, and what is asked of it.
//!
//! Message layouts: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.

use std::{io, ops::RangeInclusive, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::{
    answer::{self, Part, Progress, Question, Verdict},
    attributes::{Writer, pad, write_at},
    ruleset::TABLE_NAME,
};

/// NFNL_SUBSYS_NFTABLES: which subsystem a batch is for.
const SUBSYSTEM_NFTABLES: u16 = 10;
/// NFNL_MSG_BATCH_BEGIN and NFNL_MSG_BATCH_END.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// NFPROTO_INET (include/uapi/linux/netfilter.h).
const FAMILY_INET: u8 = 1;
/// The lengths of a struct nlmsghdr and of a struct nfgenmsg.
const HEADER_LEN: usize = 16;
const FAMILY_LEN: usize = 4;
/// Where a struct nlmsghdr has its flags.
const FLAGS_AT: usize = 6;
/// MSG_DONTWAIT (include/linux/socket.h).
const DONT_WAIT: i32 = 0x40;
/// Elements in one message: an attribute's length has 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 512;
/// What a receive can bring at most: the kernel fills dumps in pages of up to 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;
/// What is sent at once without asking for more room: net.core.wmem_default is 212,992 bytes.
const SEND_LEN: usize = 200_000;
/// The kernel answers at once, but while somebody else's transaction is on its way.
const PATIENCE: Duration = Duration::from_secs(10);

/// NFTA_SET_ELEM_LIST_TABLE, _SET and _ELEMENTS, NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY and _TIMEOUT, NFTA_DATA_VALUE.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const KEY: u16 = 1;
const TIMEOUT: u16 = 4;
const VALUE: u16 = 1;

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

/// What a message is about: NFT_MSG_ of nf_tables.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "they are the kernel's names")]
pub enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    NewGen = 15,
    GetGen = 16,
}

impl Kind {
    /// As a message's type, with the subsystem.
    #[must_use]
    pub const fn number(self) -> u16 {
        SUBSYSTEM_NFTABLES << 8 | self as u16
    }
}

/// The number that the kernel has given a netlink socket: unique in its network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId(u32);

impl PortId {
    /// The socket with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A transaction in the making.
#[derive(Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    sequences: RangeInclusive<u32>,
    last_at: usize,
}

impl Batch {
    /// One in which nothing is done yet, whose messages are numbered from here on.
    pub(super) fn numbered_from(sequence: u32) -> Self {
        let mut bytes = Vec::new();
        put(&mut bytes, BATCH_BEGIN, 0, 0, SUBSYSTEM_NFTABLES, sequence, |_| ());
        Self { bytes, sequences: sequence..=sequence, last_at: 0 }
    }

    /// Adds a message about an object; `NLM_F_REQUEST` is among its flags anyway.
    pub(super) fn push(&mut self, kind: Kind, flags: u16, write: impl FnOnce(&mut Writer<'_>)) {
        self.last_at = self.bytes.len();
        let sequence = self.sequences.end().wrapping_add(1);
        self.sequences = *self.sequences.start()..=sequence;
        put(&mut self.bytes, kind.number(), flags, FAMILY_INET, 0, sequence, write);
    }

    /// Adds a step.
    fn step(&mut self, step: &Step) {
        let (elements, kind, flags) = match step {
            Step::Add(elements) => (elements, Kind::NewSetElem, NLM_F_CREATE),
            Step::Create(elements) => (elements, Kind::NewSetElem, NLM_F_CREATE | NLM_F_EXCL),
            Step::Delete(elements) => (elements, Kind::DelSetElem, 0),
        };
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, |writer| put_elements(writer, chunk));
        }
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.start() == self.sequences.end()
    }
}

fn put_elements(writer: &mut Writer<'_>, elements: &[Element]) {
    let set = elements.first().map_or("", |element| element.set);
    writer.put_text(LIST_TABLE, TABLE_NAME).put_text(LIST_SET, set);
    writer.nest(LIST_ELEMENTS, |list| {
        for element in elements {
            list.nest(LIST_ITEM, |item| {
                item.nest(KEY, |key| {
                    key.put(VALUE, &element.key);
                });
                if let Some(timeout) = element.timeout {
                    // Zero would mean "never" to the kernel.
                    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
                    item.put(TIMEOUT, &millis.to_be_bytes());
                }
            });
        }
    });
}

/// A socket to the kernel's nftables.
pub struct Netlink {
    socket: Socket,
    port: PortId,
    sequence: u32,
    commits: u32,
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
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        let buffer = Vec::with_capacity(RECEIVE_LEN);
        Ok(Self { socket, port, sequence: 0, commits: 0, buffer })
    }

    /// Its number, which the kernel's notifications of what it changes carry.
    #[must_use]
    pub const fn port_id(&self) -> PortId {
        self.port
    }

    /// How many of its transactions the kernel has done: each is a generation of its ruleset.
    #[must_use]
    pub const fn commits(&self) -> u32 {
        self.commits
    }

    /// A transaction in which nothing is done yet.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::numbered_from(self.sequence.wrapping_add(1))
    }

    /// A transaction that has emptied these sets of ours.
    pub(super) fn emptied(&self, sets: &[&str]) -> Batch {
        let mut batch = self.batch();
        for set in sets {
            // Without elements it is all of them.
            batch.push(Kind::DelSetElem, 0, |elements| {
                elements.put_text(LIST_TABLE, TABLE_NAME).put_text(LIST_SET, set);
            });
        }
        batch
    }

    /// Does all of these steps in one transaction, or none.
    ///
    /// # Errors
    /// The first error that the kernel reports; nothing took effect then.
    pub fn transact(&mut self, steps: &[Step]) -> io::Result<()> {
        let mut batch = self.batch();
        steps.iter().for_each(|step| batch.step(step));
        self.commit(batch)
    }

    /// Does all that is in a batch and, in the same transaction, adds these elements; or nothing.
    ///
    /// # Errors
    /// The first error that the kernel reports; nothing took effect then.
    pub fn commit_with(&mut self, mut batch: Batch, elements: &[Vec<Element>]) -> io::Result<()> {
        for chunk in elements.iter().flat_map(|elements| elements.chunks(ELEMENTS_PER_MESSAGE)) {
            batch.push(Kind::NewSetElem, NLM_F_CREATE, |writer| put_elements(writer, chunk));
        }
        self.commit(batch)
    }

    /// Does all that is in a batch, or nothing.
    ///
    /// # Errors
    /// The first error that the kernel reports; nothing took effect then.
    pub fn commit(&mut self, batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let Batch { mut bytes, sequences, last_at } = batch;
        // Errors are told of every message; that all went well, of the last.
        if let Some([low, high]) =
            bytes.get(last_at + FLAGS_AT..).and_then(|flags| flags.first_chunk::<2>()).copied()
        {
            let flags = u16::from_ne_bytes([low, high]) | NLM_F_ACK;
            write_at(&mut bytes, last_at + FLAGS_AT, &flags.to_ne_bytes());
        }
        self.sequence = sequences.end().wrapping_add(1);
        put(&mut bytes, BATCH_END, 0, 0, SUBSYSTEM_NFTABLES, self.sequence, |_| ());
        if bytes.len() > SEND_LEN {
            // Where only root of the whole host may: then send(2) says that it is too long.
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()));
        }
        self.socket.send(&bytes, 0)?;
        self.verdict(Verdict::on(sequences, self.port))?;
        self.commits = self.commits.wrapping_add(1);
        Ok(())
    }

    /// Asks for one thing, or for all of a kind (`NLM_F_DUMP`), and takes the answer part by part: until all of it is
    /// there, or `take` says that it is enough. Whether it may be incomplete because the ruleset was changed meanwhile.
    ///
    /// # Errors
    /// What the kernel says, or `take`; `NotFound` if the table or the set isn't there.
    pub(super) fn ask(
        &mut self,
        kind: Kind,
        flags: u16,
        write: impl FnOnce(&mut Writer<'_>),
        mut take: impl FnMut(Part<'_>) -> io::Result<Enough>,
    ) -> io::Result<Answered> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = Question { sequence: self.sequence, port: self.port };
        let mut request = Vec::new();
        put(&mut request, kind.number(), flags, FAMILY_INET, 0, self.sequence, write);
        self.socket.send(&request, 0)?;
        let mut interrupted = false;
        loop {
            let received = self.receive(0)?;
            let part = answer::part(received, question)?;
            interrupted |= part.interrupted;
            // One thing is answered in one message, and nothing tells that it was the last.
            let ends = part.progress == Progress::Complete
                || flags & NLM_F_DUMP == 0 && !part.messages.is_empty();
            if take(part)? == Enough::Yes && !ends {
                return Ok(Answered::CutShort);
            }
            if ends {
                return Ok(if interrupted { Answered::Interrupted } else { Answered::Whole });
            }
        }
    }

    /// Reads the kernel's answers to a batch. It has answered all of it before send(2) returned: errors,
    /// and the acknowledgement of the last message even if an earlier one has failed the whole.
    fn verdict(&mut self, mut verdict: Verdict) -> io::Result<()> {
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

/// Whether an answer is wanted to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enough {
    Yes,
    NotYet,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It is complete.
    Whole,
    /// It may lack something: the ruleset was changed meanwhile.
    Interrupted,
    /// It was enough: the rest is left to the socket, which takes no other question before that is read.
    CutShort,
}

/// Appends a message.
fn put(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    sequence: u32,
    write: impl FnOnce(&mut Writer<'_>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    // struct nfgenmsg: family, version, and the resource in network order.
    let [high, low] = resource.to_be_bytes();
    bytes.extend_from_slice(&[family, 0, high, low]);
    debug_assert_eq!(bytes.len() - start, HEADER_LEN + FAMILY_LEN);
    write(&mut Writer(bytes));
    pad(bytes);
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    write_at(bytes, start, &length.to_ne_bytes());
}
