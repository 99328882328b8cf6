//! Connections that conntrack knows, to end those that nobody let in.
//!
//! A connection to a guarded port whose entry is deleted lives on only if a door is open for it: its client's
//! next packet then makes an entry anew, with our label. The server's own next packet makes one without, by
//! which nobody lives on. Where addresses are translated, that one would be a connection that the server began, behind
//! the host's address, and the client's packets would be its answers: so such an entry stays, and loses our label.
//! Where sessions are cut at a grant's end, entries don't matter at all.
//!
//! Message layouts: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
//!
//! # Security considerations
//! - Nobody who has no label gets in whether his entry is deleted or not. An entry that was made while no
//!   rule used labels has no room for one: deleting it is what lets a granted client's connection have one.
//! - Connections that need no door are left alone: those of this host itself and of allowed networks. Those
//!   that came by an allowed interface can't be told, and take no harm: their next packet makes them anew.

use std::{
    cell::Cell,
    collections::HashSet,
    io, iter,
    net::IpAddr,
    num::NonZeroU16,
    sync::{
        Arc,
        mpsc::{Receiver, SendError, Sender, channel},
    },
    thread,
    time::Duration,
};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator, Parseable as _,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use socket2::SockRef;
use tracing::{error, info};

use super::{
    answer::{self, Progress, Question, messages, told},
    netlink::PortId,
    ruleset::LABEL,
};
use crate::{
    gate::policy::{Port, Protocol, Service},
    local,
};

/// What a dump's datagram can have at most.
const RECEIVE_LEN: usize = 64 * 1024;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(10);
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_LABELS: u16 = 22;
const CTA_LABELS_MASK: u16 = 23;
/// IPS_OFFLOAD: a flow table has it (include/uapi/linux/netfilter/nf_conntrack_common.h).
const OFFLOADED: u32 = 1 << 14;

/// A connection, as its first packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// Where to, before any address translation.
    pub destination: IpAddr,
    /// The port that it was sent to.
    pub port: Port,
    /// Where it leads, behind any translation of its destination: where its answers come from.
    pub leads_to: (IpAddr, Port),
    /// How it got in.
    pub entry: Entry,
}

/// How a connection got in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By a door: it has our label.
    ByADoor,
    /// In another way, or before there was a door.
    Otherwise,
}

/// The connections that need a door.
#[derive(Clone, Debug)]
pub struct Guarded {
    local: HashSet<Port>,
    routed: HashSet<(IpAddr, Port)>,
    allowed: Vec<IpNet>,
}

impl Guarded {
    /// Those to these services, but from these networks.
    #[must_use]
    pub fn new(services: &[Service], allowed: &[IpNet]) -> Self {
        let local = services.iter().filter(|service| service.to.is_empty());
        let routed = services.iter().flat_map(|service| {
            service
                .to
                .iter()
                .flat_map(|to| service.ports.iter().map(move |port| (to.to_canonical(), *port)))
        });
        Self {
            local: local.flat_map(|service| service.ports.iter().copied()).collect(),
            routed: routed.collect(),
            allowed: allowed.to_vec(),
        }
    }

    /// The port whose door a connection needs, as the kernel's chain `asked` has it: the one that it was sent to, or else
    /// the one that it leads to.
    fn door(&self, connection: &Connection, own: &HashSet<IpAddr>) -> Option<Port> {
        let Connection { source, destination, port, leads_to, .. } = *connection;
        let needs_no_door =
            own.contains(&source) || self.allowed.iter().any(|network| network.contains(&source));
        if needs_no_door {
            return None;
        }
        let is_guarded = |address, port, is_here| {
            self.local.contains(&port) && is_here || self.routed.contains(&(address, port))
        };
        let is_translated = leads_to != (destination, port);
        if is_guarded(destination, port, own.contains(&destination) || is_translated) {
            return Some(port);
        }
        let (address, port) = leads_to;
        is_guarded(address, port, own.contains(&address)).then_some(port)
    }
}

/// Ends the guarded connections that are selected: deletes their entries. Takes a second or so for each
/// 262,144 entries in the table. Returns how many.
///
/// # Errors
/// What the kernel says; some may have been ended.
pub fn end(guarded: &Guarded, select: impl Fn(&Connection) -> bool) -> io::Result<usize> {
    let own = local::own_addresses()?;
    let mut conntrack = Conntrack::open()?;
    let selected = conntrack.find(|found| {
        let door = guarded.door(found, &own);
        door.is_some_and(|port| select(&Connection { port, ..*found }))
    })?;
    let (mut ended, mut in_flow_tables) = (0, 0);
    for entry in selected {
        match conntrack.end(&entry) {
            Ok(Ended::Now) => ended += 1,
            Ok(Ended::Before) => {}
            // It has ended by itself meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Linux up to 6.3 keeps what a flow table has taken (net/netfilter/nf_conntrack_netlink.c).
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => in_flow_tables += 1,
            Err(error) => return Err(error),
        }
    }
    if in_flow_tables > 0 {
        return Err(io::Error::other(format!(
            "{in_flow_tables} go on in a flow table, out of reach; {ended} were ended"
        )));
    }
    Ok(ended)
}

/// Which connections to end, and what is said of them.
pub struct Sweep {
    /// "which …"
    pub which: &'static str,
    /// Whether a guarded connection is one of them.
    pub select: Box<dyn Fn(&Connection) -> bool + Send>,
    /// Who is told how many they were, if anybody waits for it.
    pub done: Option<Done>,
}

/// Is told how many connections were ended, or why they could not be.
pub type Done = Box<dyn FnOnce(Result<usize, String>) + Send>;

/// Ends connections on a thread of its own, so that nothing waits for a large table to be read.
pub struct Sweeper {
    guarded: Arc<Guarded>,
    asked: Sender<(Arc<Guarded>, Sweep)>,
}

impl Sweeper {
    /// One that ends connections of these.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(guarded: Guarded) -> io::Result<Self> {
        let (asked, sweeps) = channel();
        thread::Builder::new().name("connections".to_owned()).spawn(move || sweep_all(&sweeps))?;
        Ok(Self { guarded: Arc::new(guarded), asked })
    }

    /// Ends connections of these from here on.
    pub fn guard(&mut self, guarded: Guarded) {
        self.guarded = Arc::new(guarded);
    }

    /// Has connections ended soon. That it was done, or why not, is told in the log.
    pub fn end(&self, sweep: Sweep) {
        // As many as wait are done at once, and only admins and repairs ask: the queue needs no bound.
        let sweep = (Arc::clone(&self.guarded), sweep);
        if let Err(SendError((_, Sweep { which, done, .. }))) = self.asked.send(sweep) {
            error!(
                event = "connections-not-ended",
                "connections {which} were not ended: the thread that does it has ended"
            );
            if let Some(done) = done {
                done(Err("the thread that ends connections has ended".to_owned()));
            }
        }
    }
}

fn sweep_all(sweeps: &Receiver<(Arc<Guarded>, Sweep)>) {
    while let Ok((mut guarded, first)) = sweeps.recv() {
        // All that wait are done at once: the table is read through for each time.
        let later = sweeps.try_iter().map(|(newer, sweep)| {
            guarded = newer;
            sweep
        });
        let all: Vec<Sweep> = iter::once(first).chain(later).collect();
        let mut whose: Vec<&str> = all.iter().map(|sweep| sweep.which).collect();
        whose.dedup();
        let which = whose.join(", or ");
        let counts: Vec<Cell<usize>> = all.iter().map(|_| Cell::new(0)).collect();
        // Each counts its own, also those that another selects as well.
        let is_selected = |found: &Connection| {
            let selecting = all.iter().zip(&counts).filter(|(sweep, _)| (sweep.select)(found));
            selecting.map(|(_, count)| count.set(count.get() + 1)).count() > 0
        };
        let ended = end(&guarded, is_selected);
        match &ended {
            Ok(0) => {}
            Ok(connections) => {
                info!(connections, event = "connections-ended", "connections {which} were ended")
            }
            Err(error) => error!(
                event = "connections-not-ended",
                "connections {which} could not be ended: {error}"
            ),
        }
        for (sweep, count) in all.into_iter().zip(counts) {
            if let Some(done) = sweep.done {
                done(ended.as_ref().map(|_| count.get()).map_err(ToString::to_string));
            }
        }
    }
}

/// A socket to the kernel's conntrack.
struct Conntrack {
    socket: Socket,
    port: PortId,
    sequence: u32,
    buffer: Vec<u8>,
}

/// An entry, and how it is ended.
#[derive(Debug)]
pub struct Key {
    family: NetfilterProtoFamily,
    attributes: Vec<ConntrackAttribute>,
    entry: Entry,
    way: Way,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its entry is deleted.
    Deletion,
    /// Its entry loses our label.
    Unlabelling,
}

/// When a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Just now.
    Now,
    /// It had no label any more.
    Before,
}

impl Key {
    /// The message to the kernel that deletes the entry, with this number.
    #[must_use]
    pub fn deletion(&self, sequence: u32) -> Vec<u8> {
        let delete = ConntrackMessage::Delete(self.attributes.clone());
        request(self.family, NLM_F_ACK, sequence, delete)
    }

    /// The message to the kernel that takes our label off the entry, and nothing else, with this number.
    #[must_use]
    pub fn unlabelling(&self, sequence: u32) -> Vec<u8> {
        let bits = |kind, bits: u128| {
            ConntrackAttribute::Other(DefaultNla::new(kind, bits.to_ne_bytes().to_vec()))
        };
        let labels = [bits(CTA_LABELS, 0), bits(CTA_LABELS_MASK, 1 << LABEL)];
        let attributes = self.attributes.iter().cloned().chain(labels).collect();
        request(self.family, NLM_F_ACK, sequence, ConntrackMessage::New(attributes))
    }
}

impl Conntrack {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = PortId::new(socket.bind_auto()?.port_number());
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// The entries of the connections that are selected.
    fn find(&mut self, select: impl Fn(&Connection) -> bool) -> io::Result<Vec<Key>> {
        let all = ConntrackMessage::Get(Vec::new());
        let question = self.next_question();
        let request = request(NetfilterProtoFamily::Unspec, NLM_F_DUMP, question.sequence, all);
        self.socket.send(&request, 0)?;
        let mut found = Vec::new();
        loop {
            self.receive()?;
            if dump(&self.buffer, question, &select, &mut found)? == Progress::Complete {
                return Ok(found);
            }
        }
    }

    fn end(&mut self, key: &Key) -> io::Result<Ended> {
        match key.way {
            Way::Deletion => self.change(|sequence| key.deletion(sequence)),
            Way::Unlabelling => match self.change(|sequence| key.unlabelling(sequence)) {
                // It was made while no rule used labels, and has no room for one.
                Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                    self.change(|sequence| key.deletion(sequence))
                }
                Ok(()) if key.entry == Entry::Otherwise => return Ok(Ended::Before),
                result => result,
            },
        }
        .map(|()| Ended::Now)
    }

    fn change(&mut self, message: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        let question = self.next_question();
        self.socket.send(&message(question.sequence), 0)?;
        loop {
            self.receive()?;
            if answer::part(&self.buffer, question)?.progress == Progress::Complete {
                return Ok(());
            }
        }
    }

    fn next_question(&mut self) -> Question {
        self.sequence = self.sequence.wrapping_add(1);
        Question { sequence: self.sequence, port: self.port }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0).map(|_| ())
    }
}

fn request(
    family: NetfilterProtoFamily,
    flags: u16,
    sequence: u32,
    message: ConntrackMessage,
) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = NLM_F_REQUEST | flags;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one receive's part of all entries; what those are deleted by that are selected goes to `found`.
///
/// # Errors
/// What the kernel says, or that it can't be understood.
pub fn dump(
    received: &[u8],
    question: Question,
    select: impl Fn(&Connection) -> bool,
    found: &mut Vec<Key>,
) -> io::Result<Progress> {
    for message in messages(received) {
        let message = message?;
        if message.question() != question {
            continue;
        }
        match message.kind {
            NLMSG_DONE => return told(message.payload).map(|()| Progress::Complete),
            NLMSG_ERROR => told(message.payload)?,
            // One that can't be read is of a protocol that has no ports.
            _ => found.extend(
                read(message.payload)
                    .filter(|(connection, _)| select(connection))
                    .map(|(_, key)| key),
            ),
        }
    }
    Ok(Progress::More)
}

/// Reads an entry.
fn read(payload: &[u8]) -> Option<(Connection, Key)> {
    let ([family, ..], attributes) = payload.split_first_chunk::<4>()?;
    let (mut tuple, mut reply) = (None, None);
    let (mut entry, mut key, mut status) = (Entry::Otherwise, Vec::new(), 0);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            CTA_TUPLE_ORIG => {
                let original = ConntrackAttribute::parse(&attribute).ok()?;
                tuple = Some(Ends::read(&original)?);
                key.push(original);
            }
            CTA_TUPLE_REPLY => {
                reply = Some(Ends::read(&ConntrackAttribute::parse(&attribute).ok()?)?);
            }
            CTA_STATUS => {
                status = attribute.value().first_chunk().copied().map_or(0, u32::from_be_bytes)
            }
            CTA_LABELS if has_our_label(&attribute) => entry = Entry::ByADoor,
            CTA_ID | CTA_ZONE => {
                key.push(ConntrackAttribute::Other(DefaultNla::parse(&attribute).ok()?));
            }
            _ => {}
        }
    }
    let Ends { source: (source, _), destination: (destination, port) } = tuple?;
    let (answers_from, at) = reply?.source;
    let (port, leads_to) = (port?, (answers_from, at?));
    let is_translated = leads_to != (destination, port);
    let way = match is_translated && status & OFFLOADED == 0 {
        true => Way::Unlabelling,
        false => Way::Deletion,
    };
    let key = Key { family: (*family).into(), attributes: key, entry, way };
    Some((Connection { source, destination, port, leads_to, entry }, key))
}

/// One direction of a connection; a port is missing where it is 0, or the protocol has none that is guarded.
struct Ends {
    source: (IpAddr, Option<Port>),
    destination: (IpAddr, Option<Port>),
}

impl Ends {
    fn read(attribute: &ConntrackAttribute) -> Option<Self> {
        let (ConntrackAttribute::CtaTupleOrig(parts) | ConntrackAttribute::CtaTupleReply(parts)) =
            attribute
        else {
            return None;
        };
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let (mut from, mut to) = (None, None);
        for part in parts {
            match part {
                Tuple::Ip(addresses) => {
                    for address in addresses {
                        match address {
                            IPTuple::SourceAddress(address) => source = Some(*address),
                            IPTuple::DestinationAddress(address) => destination = Some(*address),
                            _ => {}
                        }
                    }
                }
                Tuple::Proto(fields) => {
                    for field in fields {
                        match field {
                            ProtoTuple::Protocol(found) => {
                                protocol = Protocol::from_number((*found).into());
                            }
                            ProtoTuple::SourcePort(port) => from = NonZeroU16::new(*port),
                            ProtoTuple::DestinationPort(port) => to = NonZeroU16::new(*port),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let protocol = protocol?;
        let port = |number: Option<NonZeroU16>| number.map(|number| Port { protocol, number });
        Some(Self { source: (source?, port(from)), destination: (destination?, port(to)) })
    }
}

/// nft writes a label as one number of 128 bits in the machine's own order.
fn has_our_label(labels: &NlaBuffer<&[u8]>) -> bool {
    let labels = labels.value().first_chunk().copied().map(u128::from_ne_bytes);
    labels.is_some_and(|labels| labels >> LABEL & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> (Guarded, HashSet<IpAddr>) {
        let service = |ports: &[&str], to: &[&str]| Service {
            name: "mqtts".parse().unwrap(),
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            to: to.iter().map(|to| to.parse().unwrap()).collect(),
        };
        let services = [service(&["tcp/8883"], &[]), service(&["tcp/1883"], &["10.78.0.2"])];
        let own = ["10.77.0.1", "127.0.0.1"].map(|own| own.parse().unwrap());
        (Guarded::new(&services, &["10.9.0.0/16".parse().unwrap()]), own.into())
    }

    /// The door of a connection that was sent to the first address and port and leads to the second.
    fn door(source: &str, sent_to: (&str, &str), leads_to: (&str, &str)) -> Option<String> {
        let (guarded, own) = guarded();
        let connection = Connection {
            source: source.parse().unwrap(),
            destination: sent_to.0.parse().unwrap(),
            port: sent_to.1.parse().unwrap(),
            leads_to: (leads_to.0.parse().unwrap(), leads_to.1.parse().unwrap()),
            entry: Entry::Otherwise,
        };
        guarded.door(&connection, &own).map(|port| port.to_string())
    }

    fn is_covered(source: &str, destination: &str, port: &str) -> bool {
        door(source, (destination, port), (destination, port)).is_some()
    }

    #[test]
    fn a_translated_connection_is_covered_by_what_it_was_sent_to_or_else_by_what_it_leads_to() {
        let here = "10.77.0.1";
        let stranger = |sent_to, leads_to| door("10.77.0.2", sent_to, leads_to);
        let published = stranger((here, "tcp/8883"), ("172.18.0.2", "tcp/1883"));
        assert_eq!(published.as_deref(), Some("tcp/8883"));
        let of_nobody = stranger(("10.0.2.100", "tcp/8883"), ("172.18.0.2", "tcp/1883"));
        assert_eq!(of_nobody.as_deref(), Some("tcp/8883"));
        let redirected = stranger((here, "tcp/80"), (here, "tcp/8883"));
        assert_eq!(redirected.as_deref(), Some("tcp/8883"));
        let routed = stranger((here, "tcp/80"), ("10.78.0.2", "tcp/1883"));
        assert_eq!(routed.as_deref(), Some("tcp/1883"));
        assert_eq!(stranger((here, "tcp/80"), ("172.18.0.2", "tcp/8883")), None);
        assert_eq!(door("10.9.1.1", (here, "tcp/80"), (here, "tcp/8883")), None);
    }

    #[test]
    fn connections_to_guarded_ports_are_covered_and_no_others() {
        assert!(is_covered("10.77.0.2", "10.77.0.1", "tcp/8883"));
        assert!(is_covered("10.77.0.2", "10.78.0.2", "tcp/1883"));
        assert!(!is_covered("10.77.0.2", "10.77.0.1", "tcp/1883"));
        assert!(!is_covered("10.77.0.2", "10.77.0.1", "udp/8883"));
    }

    #[test]
    fn connections_of_the_host_itself_and_through_it_and_of_allowed_networks_are_not_covered() {
        assert!(!is_covered("10.77.0.1", "10.77.0.1", "tcp/8883"));
        assert!(!is_covered("10.77.0.1", "192.0.2.1", "tcp/8883"));
        assert!(!is_covered("10.77.0.2", "192.0.2.1", "tcp/8883"));
        assert!(!is_covered("10.9.1.1", "10.77.0.1", "tcp/8883"));
    }
}
