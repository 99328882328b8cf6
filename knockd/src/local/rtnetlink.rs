//! What the kernel lists of its addresses, routes and next hops: rtnetlink(7).
//!
//! Message layouts: include/uapi/linux/{rtnetlink,if_addr,nexthop}.h. Of each message only the attributes that
//! hold an address are looked at, so that nothing else a newer kernel says can be in the way, and a large
//! table takes little.
//!
//! # Security considerations
//! No bytes whatever in place of an answer make this panic or go on for ever: what isn't as it should be is an
//! error, and no address is made up from it.

use std::{io, net::IpAddr, ops::ControlFlow};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{errno::Errno, libc};

/// How often a listing that something changed meanwhile is begun again.
const TRIES: u32 = 5;
/// What a receive can bring at most: the kernel fills dumps in pages of up to 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;

/// sizeof(struct ifaddrmsg), of nhmsg as well
const SHORT_HEADER_LEN: usize = 8;
/// sizeof(struct rtmsg)
const ROUTE_HEADER_LEN: usize = 12;
/// sizeof(struct rtnexthop)
const HOP_HEADER_LEN: usize = 8;
/// RTN_UNICAST: the type of all routes that have gateways.
const UNICAST: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const NHA_GATEWAY: u16 = 6;

/// What can be listed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listing {
    /// The addresses of all interfaces.
    Addresses,
    /// The gateways of the routes of all tables, IPv4 and IPv6.
    Routes,
    /// The gateways of next hops that are objects of their own (ip-nexthop(8)), which routes may name by
    /// number alone.
    NextHops,
}

/// A socket to the kernel's routing.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in this process's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // So that the kernel heeds which type of routes is asked for. One that doesn't know this (before
        // 4.20) lists the others, too.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// Hands every address of a listing to `found`, some of them perhaps more than once.
    ///
    /// # Errors
    /// What the kernel says, or that the listing never held still.
    pub(super) fn list(
        &mut self,
        listing: Listing,
        mut found: impl FnMut(IpAddr),
    ) -> io::Result<()> {
        let questions: &[Question] = match listing {
            Listing::Addresses => &[
                Question::short(RTM_GETADDR, libc::AF_INET),
                Question::short(RTM_GETADDR, libc::AF_INET6),
            ],
            Listing::Routes => &[Question::routes(libc::AF_INET), Question::routes(libc::AF_INET6)],
            Listing::NextHops => &[Question::short(RTM_GETNEXTHOP, libc::AF_UNSPEC)],
        };
        for question in questions {
            match (self.ask(question, &mut found), listing) {
                // Kernels before 5.3 have no such objects.
                (Err(error), Listing::NextHops)
                    if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
                (Err(error), _) => {
                    let error = format!("the kernel's {listing:?} can't be listed: {error}");
                    return Err(io::Error::other(error));
                }
                (Ok(()), _) => {}
            }
        }
        Ok(())
    }

    fn ask(&mut self, question: &Question, found: &mut impl FnMut(IpAddr)) -> io::Result<()> {
        for _ in 0..TRIES {
            match self.dump(question, found)? {
                Dump::Whole => return Ok(()),
                Dump::Interrupted => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("it changed while it was listed, {TRIES} times in a row"),
        ))
    }

    fn dump(&mut self, question: &Question, found: &mut impl FnMut(IpAddr)) -> io::Result<Dump> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut dump = Dump::Whole;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            if read(&self.buffer, &mut dump, found)?.is_break() {
                return Ok(dump);
            }
        }
    }
}

/// Whether an answer can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// It can.
    Whole,
    /// Something changed meanwhile, and may be missing.
    Interrupted,
}

/// Reads one receive's part of an answer, up to its end: hands every address in it to `found`.
///
/// # Errors
/// What the kernel says, or that it can't be understood.
pub fn read(
    received: &[u8],
    dump: &mut Dump,
    found: &mut impl FnMut(IpAddr),
) -> io::Result<ControlFlow<()>> {
    let mut rest = received;
    while !rest.is_empty() {
        let message = NetlinkMessage::<Answer>::deserialize(rest).map_err(io::Error::other)?;
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            *dump = Dump::Interrupted;
        }
        // Messages are aligned to four bytes (include/uapi/linux/netlink.h, NLMSG_ALIGN).
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(Answer(addresses)) => {
                addresses.into_iter().for_each(&mut *found);
            }
            NetlinkPayload::Done(done) if done.code < 0 => return Err(told(done.code)),
            NetlinkPayload::Done(_) => return Ok(ControlFlow::Break(())),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(told(error.raw_code()));
            }
            _ => {}
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What a negative errno says (netlink(7)).
fn told(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// A request, which is a header of a fixed length and no attributes.
#[derive(Clone)]
struct Question {
    kind: u16,
    header: [u8; ROUTE_HEADER_LEN],
    length: usize,
}

impl Question {
    const fn short(kind: u16, family: i32) -> Self {
        let mut header = [0; ROUTE_HEADER_LEN];
        header[0] = family_byte(family);
        Self { kind, header, length: SHORT_HEADER_LEN }
    }

    const fn routes(family: i32) -> Self {
        let mut header = [0; ROUTE_HEADER_LEN];
        header[0] = family_byte(family);
        // rtm_type
        header[7] = UNICAST;
        Self { kind: RTM_GETROUTE, header, length: ROUTE_HEADER_LEN }
    }
}

/// A family, as the first byte of every header has it: they are small numbers (include/linux/socket.h).
const fn family_byte(family: i32) -> u8 {
    family.to_le_bytes()[0]
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.length
    }

    fn serialize(&self, buffer: &mut [u8]) {
        for (place, byte) in buffer.iter_mut().zip(self.header) {
            *place = byte;
        }
    }
}

/// The addresses in one message of an answer.
struct Answer(Vec<IpAddr>);

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let after = |length| payload.get(length..).unwrap_or_default();
        Ok(Self(match header.message_type {
            RTM_NEWADDR => own(after(SHORT_HEADER_LEN))?.into_iter().collect(),
            RTM_NEWROUTE => {
                let mut gateways = Vec::new();
                put_gateways(after(ROUTE_HEADER_LEN), &mut gateways)?;
                gateways
            }
            RTM_NEWNEXTHOP => {
                let mut gateway = None;
                for attribute in NlasIterator::new(after(SHORT_HEADER_LEN)) {
                    let attribute = attribute?;
                    if attribute.kind() == NHA_GATEWAY {
                        gateway = address(attribute.value());
                    }
                }
                gateway.into_iter().collect()
            }
            _ => Vec::new(),
        }))
    }
}

/// The interface's own address: IFA_LOCAL, where IFA_ADDRESS is the other end's; else IFA_ADDRESS.
fn own(attributes: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    let (mut local, mut either) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            IFA_LOCAL => local = address(attribute.value()),
            IFA_ADDRESS => either = address(attribute.value()),
            _ => {}
        }
    }
    Ok(local.or(either))
}

/// The gateways among a route's attributes, those of each of its hops included.
fn put_gateways(attributes: &[u8], gateways: &mut Vec<IpAddr>) -> Result<(), DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            RTA_GATEWAY => gateways.extend(address(value)),
            // struct rtvia: the family in two bytes, the address behind it.
            RTA_VIA => gateways.extend(value.get(2..).and_then(address)),
            RTA_MULTIPATH => put_gateways_of_hops(value, gateways)?,
            _ => {}
        }
    }
    Ok(())
}

/// struct rtnexthop: its length with its attributes in two bytes, six more, its attributes.
fn put_gateways_of_hops(mut hops: &[u8], gateways: &mut Vec<IpAddr>) -> Result<(), DecodeError> {
    while let Some([a, b]) = hops.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let attributes = hops
            .get(HOP_HEADER_LEN..length)
            .ok_or_else(|| DecodeError::from("a hop is longer or shorter than it may be"))?;
        put_gateways(attributes, gateways)?;
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// An address of either family, told by its length.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).or_else(|_| v4()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_of_an_error_makes_it_panic() {
        for kind in [2_u16, 3] {
            for code in [i32::MIN, -1, i32::MAX] {
                let mut answer = 36_u32.to_ne_bytes().to_vec();
                answer.extend(kind.to_ne_bytes());
                answer.extend([0; 10]);
                answer.extend(code.to_ne_bytes());
                answer.extend([0; 16]);
                let _ = read(&answer, &mut Dump::Whole, &mut |_| ());
            }
        }
    }
}
