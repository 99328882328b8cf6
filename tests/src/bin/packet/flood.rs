//! Floods: datagrams at line rate from forged sources, as whoever has a raw socket sends them.
#![allow(clippy::indexing_slicing, reason = "a test's tool fails by panicking")]

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use common::DATAGRAM_LEN;
use e2e::wire::udp_packet;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use socket2::Socket;

/// The most packets that one flood sends, and the longest that it lasts.
const MOST: u64 = 20_000_000;
const LONGEST: u64 = 60;

/// Packets in one system call.
const BATCH: usize = 64;
/// Where an IP header has the part of its source that tells one forged source from another: an IPv4
/// address, or the first 64 bits of an IPv6 address.
const SOURCE4: Range<usize> = 12..16;
const SOURCE6: Range<usize> = 8..16;
/// Where a packet's UDP header is.
const UDP4: usize = 20;
const UDP6: usize = 40;
/// So many bytes differ from packet to packet.
const FRESH: usize = 8;

/// What to send, from whom, and for how long.
#[derive(Args)]
pub(crate) struct Flood {
    #[arg(long)]
    to: SocketAddr,
    /// The source that all packets claim.
    #[arg(long, required_unless_present = "sources")]
    from: Option<IpAddr>,
    /// So many sources instead: of 11.0.0.0/8, or /64 networks of fdf0::/16.
    #[arg(long, conflicts_with = "from")]
    sources: Option<u32>,
    /// So many packets in a row from each of them.
    #[arg(long, default_value_t = 1)]
    each: u32,
    /// What each payload begins with, in hex: a tag, or a whole packet. The rest up to a knock's length is
    /// random.
    #[arg(long, default_value = "")]
    begins: String,
    /// Packets a second; as many as go out unless given.
    #[arg(long)]
    rate: Option<u32>,
    #[arg(long, default_value_t = MOST)]
    count: u64,
    #[arg(long, default_value_t = LONGEST)]
    seconds: u64,
}

/// Sends it, and says how many packets went out.
pub(crate) fn flood(flood: &Flood) -> io::Result<()> {
    let socket = super::raw_socket(flood.to)?;
    socket.connect(&super::without_port(flood.to))?;
    socket.set_send_buffer_size(8 << 20)?;
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut packets = Packets::new(flood);
    let mut batch = vec![packets.template.clone(); BATCH];
    // At a rate, as many as are due in a millisecond.
    let in_batch = flood.rate.map_or(BATCH, |rate| BATCH.min(1.max(rate as usize / 1_000)));

    println!("flooding");
    let start = Instant::now();
    let (count, lasts) = (flood.count.min(MOST), Duration::from_secs(flood.seconds.min(LONGEST)));
    while packets.made < count && start.elapsed() < lasts {
        let left = usize::try_from(count - packets.made).unwrap_or(BATCH);
        let batch = &mut batch[..in_batch.min(left)];
        batch.iter_mut().for_each(|packet| packets.next(packet));
        send(&socket, &mut headers, batch)?;
        if let Some(rate) = flood.rate {
            let due = Duration::from_secs(packets.made) / rate.max(1);
            sleep(due.saturating_sub(start.elapsed()));
        }
    }
    println!("sent {} in {} ms", packets.made, start.elapsed().as_millis());
    Ok(())
}

fn send(
    socket: &Socket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    packets: &[Vec<u8>],
) -> io::Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> =
        packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
    let nowhere = vec![None; packets.len()];
    let mut sent = 0;
    while sent < slices.len() {
        let rest = &slices[sent..];
        let results =
            sendmmsg(socket.as_raw_fd(), headers, rest, &nowhere[sent..], [], MsgFlags::empty())?;
        sent += results.count();
    }
    Ok(())
}

/// Makes one packet after another from a template, at a fraction of what it takes to make a whole one.
struct Packets<'a> {
    flood: &'a Flood,
    template: Vec<u8>,
    source: Range<usize>,
    /// The two bytes that make up for all others, so that the checksum stays as it is: the source port.
    balance: Range<usize>,
    /// What differs in the payload, if a whole packet wasn't given.
    fresh: Range<usize>,
    random: u64,
    made: u64,
}

impl<'a> Packets<'a> {
    fn new(flood: &'a Flood) -> Self {
        let mut payload = super::unhex(&flood.begins);
        let given = payload.len();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id()) << 32;
        payload.extend((given..DATAGRAM_LEN).map(|_| next(&mut random).to_be_bytes()[0]));
        let from = flood.from.unwrap_or_else(|| forged(flood.to, 0));
        let template = udp_packet(SocketAddr::new(from, 4_321), flood.to, &payload);
        let (source, udp) = if from.is_ipv4() { (SOURCE4, UDP4) } else { (SOURCE6, UDP6) };
        let (start, end) = (udp + 8 + given, template.len());
        let fresh = start..end.min(start + FRESH);
        Self { flood, template, source, balance: udp..udp + 2, fresh, random, made: 0 }
    }

    fn next(&mut self, packet: &mut [u8]) {
        packet.copy_from_slice(&self.template);
        let mut balance = Balance::of(&packet[self.balance.clone()]);
        if let Some(sources) = self.flood.sources {
            let number = self.made / u64::from(self.flood.each.max(1)) % u64::from(sources.max(1));
            let number = u32::try_from(number).expect("below a number of 32 bits");
            let part: [u8; 8] = match forged(self.flood.to, number) {
                IpAddr::V4(v4) => {
                    let mut part = [0; 8];
                    part[..4].copy_from_slice(&v4.octets());
                    part
                }
                IpAddr::V6(v6) => *v6.octets().first_chunk().expect("16 bytes"),
            };
            balance.replace(&mut packet[self.source.clone()], &part);
        }
        let random = next(&mut self.random).to_be_bytes();
        balance.replace(&mut packet[self.fresh.clone()], &random);
        packet[self.balance.clone()].copy_from_slice(&balance.bytes());
        self.made += 1;
    }
}

/// A 16-bit word that is changed with others so that the Internet checksum over all of them stays as it is
/// (RFC 1624).
struct Balance(u32);

impl Balance {
    fn of(word: &[u8]) -> Self {
        Self(sum(word))
    }

    /// Puts as many bytes of `new` as there is room for in the place of `old`.
    fn replace(&mut self, old: &mut [u8], new: &[u8]) {
        let new = &new[..old.len()];
        // The complement of a word is what it takes to make up for it: both together are 0xffff, which is
        // nothing in this arithmetic.
        self.0 += sum(old) + sum_of(new.chunks(2).map(|pair| !word(pair)));
        old.copy_from_slice(new);
    }

    fn bytes(&self) -> [u8; 2] {
        let mut word = self.0;
        while word > 0xffff {
            word = (word & 0xffff) + (word >> 16);
        }
        word.to_be_bytes()[2..].try_into().expect("two bytes")
    }
}

fn sum(bytes: &[u8]) -> u32 {
    sum_of(bytes.chunks(2).map(word))
}

fn sum_of(words: impl Iterator<Item = u16>) -> u32 {
    words.map(u32::from).sum()
}

fn word(pair: &[u8]) -> u16 {
    u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])
}

/// One of many sources, which no host of a test has.
fn forged(to: SocketAddr, number: u32) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::from_bits(0x0b00_0000 | (number & 0xff_ffff)).into(),
        SocketAddr::V6(_) => {
            Ipv6Addr::from_bits(0xfdf0 << 112 | u128::from(number) << 64 | 1).into()
        }
    }
}

/// xorshift64: fast, and random enough for junk.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
