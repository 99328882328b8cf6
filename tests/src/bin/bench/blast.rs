//! Packets at line rate: a raw socket, sendmmsg, whatever source is wanted. Never UDP_SEGMENT: its
//! super-packets are none that a network would carry.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::fleet::address;
use crate::rig::BROKER;

/// Packets in one system call at most.
const BATCH: usize = 64;
/// Where an IPv4 header has its source, and a packet its UDP checksum and payload.
const SOURCE: std::ops::Range<usize> = 12..16;
const CHECKSUM: std::ops::Range<usize> = 26..28;
const PAYLOAD: usize = 28;

/// Sends whole IP packets. Make it in the thread that uses it.
pub(crate) struct Blast {
    socket: Socket,
    headers: MultiHeaders<SockaddrIn>,
}

impl Blast {
    pub(crate) fn new() -> Self {
        // IPPROTO_RAW (255): the packets bring their own headers.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        let socket = socket.expect("a raw socket");
        socket.connect(&SocketAddr::from((BROKER, 0)).into()).expect("connect a raw socket");
        socket.set_send_buffer_size(8 << 20).expect("set the send buffer");
        Self { socket, headers: MultiHeaders::preallocate(BATCH, None) }
    }

    /// Sends all of them, as fast as it goes.
    pub(crate) fn send<P: AsRef<[u8]>>(&mut self, packets: &[P]) {
        let nowhere = [None::<SockaddrIn>; BATCH];
        for batch in packets.chunks(BATCH) {
            let mut slices: Vec<[IoSlice<'_>; 1]> = Vec::with_capacity(BATCH);
            slices.extend(batch.iter().map(|packet| [IoSlice::new(packet.as_ref())]));
            let mut sent = 0;
            while let Some(rest) = slices.get(sent..).filter(|rest| !rest.is_empty()) {
                let fd = self.socket.as_raw_fd();
                let results = sendmmsg(fd, &mut self.headers, rest, nowhere, [], MsgFlags::empty());
                sent += results.expect("send packets").count();
            }
        }
    }
}

/// What fills a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Junk {
    /// A length like a knock's, and random bytes.
    NoTag,
    /// The tag of a client, and then random bytes: its mac is wrong.
    Tag([u8; 8]),
}

/// Whose name the junk is sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// That of 16 million addresses in turn, so many packets in a row each.
    Strangers { each: u64 },
    /// That of so many devices in turn.
    Devices(u32),
}

/// A stream of junk from forged sources, with valid knocks in it at even intervals.
pub(crate) struct Stream<'a> {
    pub(crate) junk: Junk,
    pub(crate) sources: Sources,
    /// Packets a second; `None` for as fast as it goes.
    pub(crate) rate: Option<u32>,
    /// It ends after this time,
    pub(crate) lasts: Duration,
    /// or after so many packets.
    pub(crate) most: u64,
    /// Makes the knocks, each just before it is sent.
    pub(crate) knocks: &'a mut (dyn FnMut(usize) -> (Ipv4Addr, Vec<u8>) + Send),
    pub(crate) knock_count: usize,
    /// It also ends when this is true.
    pub(crate) end: &'a AtomicBool,
}

/// For a stream that nobody ends.
pub(crate) static GOES_ON: AtomicBool = AtomicBool::new(false);

/// What was sent.
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) took: Duration,
    /// When each valid knock went out, and from which address.
    pub(crate) knocks: Vec<(Ipv4Addr, Instant)>,
}

impl Stream<'_> {
    /// Sends the stream. Runs in the calling thread.
    pub(crate) fn send(self) -> Sent {
        let mut blast = Blast::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let payload: [u8; 116] = std::array::from_fn(|_| next(&mut random).to_be_bytes()[0]);
        let mut template = crate::fleet::packet(Ipv4Addr::new(10, 0, 0, 1), &payload);
        template[CHECKSUM].fill(0);
        let mut batch = vec![template; BATCH];
        let first = self.lasts / u32::try_from(self.knock_count.max(1)).expect("few knocks") / 2;
        let interval = first * 2;
        // At a rate, a batch for each millisecond.
        let in_batch = match self.rate {
            Some(rate) => (rate as usize / 1000).clamp(1, BATCH),
            None => BATCH,
        };
        let start = Instant::now();
        let mut sent = Sent { packets: 0, took: Duration::ZERO, knocks: Vec::new() };
        while start.elapsed() < self.lasts
            && sent.packets < self.most
            && !self.end.load(Ordering::Relaxed)
        {
            for packet in &mut batch[..in_batch] {
                let number = next(&mut random);
                let source = match self.sources {
                    Sources::Devices(devices) => {
                        address((sent.packets % u64::from(devices)) as u32)
                    }
                    // All of 10.0.0.0/8 but the two ends of the wire: distinct for 16 million packets.
                    // All of 10.0.0.0/8 but the two ends of the wire.
                    Sources::Strangers { each } => {
                        forged(((sent.packets / each) & 0xff_ffff) as u32)
                    }
                };
                packet[SOURCE].copy_from_slice(&source.octets());
                let tag = match self.junk {
                    Junk::NoTag => number.to_be_bytes(),
                    Junk::Tag(tag) => tag,
                };
                packet[PAYLOAD..PAYLOAD + 8].copy_from_slice(&tag);
                packet[PAYLOAD + 8..PAYLOAD + 16].copy_from_slice(&number.to_le_bytes());
                sent.packets += 1;
            }
            if sent.knocks.len() < self.knock_count {
                let due = first + interval * u32::try_from(sent.knocks.len()).expect("few knocks");
                if start.elapsed() >= due {
                    let (from, knock) = (self.knocks)(sent.knocks.len());
                    sent.knocks.push((from, Instant::now()));
                    blast.send(&[knock]);
                }
            }
            blast.send(&batch[..in_batch]);
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(sent.packets as f64 / f64::from(rate));
                sleep(due.saturating_sub(start.elapsed()));
            }
        }
        sent.took = start.elapsed();
        sent
    }
}

/// A source that is neither end of the wire.
fn forged(number: u32) -> Ipv4Addr {
    let address = Ipv4Addr::from(0x0a00_0000 | number);
    match address.octets() {
        [10, 77, 0, _] => Ipv4Addr::new(10, 78, 0, 1),
        [10, 0, 0, 0] | [10, 255, 255, 255] => Ipv4Addr::new(10, 78, 0, 2),
        _ => address,
    }
}

/// xorshift64: fast, and random enough for junk.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
