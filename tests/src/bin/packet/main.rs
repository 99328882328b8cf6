//! A tool for the end-to-end tests: serves, connects, and sends what no honest program sends.
//! Everything it does is bounded in count and time.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tool fails by panicking, with a message that says what it was doing"
)]

mod flood;
mod hidden;
mod many;
mod serve;
mod sniff;
mod talk;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use clap::{Parser, Subcommand};
use e2e::wire::shapes::{Transport, shapes};
use e2e::wire::{
    Outside, Segment, TCP, ip_packet, ip_packet_as, tcp_flags, udp_fragment, udp_packet,
};
use knockd::local::NeverBanned;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The most packets that one run sends.
const MOST: u32 = 100_000;

#[derive(Parser)]
enum Command {
    /// Echo server on ports such as tcp/8883 and udp/5683; the line "reset" is answered with a RST,
    /// "chatter" with many lines.
    Serve { ports: Vec<String> },
    /// Connects, sends each line of standard input, prints what comes back.
    Talk {
        protocol: String,
        to: SocketAddr,
        #[arg(long, default_value_t = 0)]
        from_port: u16,
    },
    /// Prints each IP packet that passes by: source address, a space, the packet in hex.
    Sniff {
        /// Only packets from these addresses.
        #[arg(long)]
        from: Vec<IpAddr>,
        /// Only UDP datagrams to this port.
        #[arg(long)]
        udp_port: Option<u16>,
        /// Stop after so many.
        #[arg(long)]
        count: Option<u32>,
    },
    /// Says in nmap's words what one TCP connection finds.
    Probe {
        to: SocketAddr,
        #[arg(long, default_value_t = 0)]
        from_port: u16,
    },
    /// Connects over TCP by raw packets, says hello and prints what comes back.
    Hidden(hidden::Hidden),
    /// Prints each address that knockd would never ban here, and what it is to this host.
    NeverBanned,
    /// Sends datagrams of a knock's length at line rate, with forged sources.
    Flood(flood::Flood),
    #[command(flatten)]
    Raw(Raw),
    #[command(flatten)]
    Many(many::Many),
}

#[derive(Subcommand)]
enum Raw {
    /// Sends TCP segments without data.
    Tcp {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        flags: String,
        #[arg(long, default_value_t = 1_000)]
        seq: u32,
        #[arg(long, default_value_t = 2_000)]
        ack: u32,
        /// Cut in two inside the TCP header.
        #[arg(long)]
        fragments: bool,
        #[arg(long, default_value_t = 64)]
        hops: u8,
        /// IPv4 options, in hex.
        #[arg(long, default_value = "")]
        options: String,
        /// So many bytes of data.
        #[arg(long, default_value_t = 0)]
        size: usize,
    },
    /// Sends UDP datagrams; with --from, with a forged source.
    Udp {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        from: Option<SocketAddr>,
        #[arg(long, conflicts_with = "size")]
        hex: Option<String>,
        /// So many zero bytes instead.
        #[arg(long, default_value_t = 0)]
        size: usize,
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Only this piece of it, as 0-8: a fragment; 8 bytes of header count. Again for another piece.
        #[arg(long, requires = "from")]
        piece: Vec<String>,
    },
    /// Sends packets of every odd shape, each from a port of its own, from this one on.
    Shapes {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        udp: bool,
    },
    /// Sends a packet of a protocol, or for IPv6 of a first header, with 64 bytes of zeros.
    Ip {
        #[arg(long)]
        from: IpAddr,
        #[arg(long)]
        to: IpAddr,
        #[arg(long)]
        protocol: u8,
    },
}

fn main() {
    match Command::parse() {
        Command::Serve { ports } => serve::serve(&ports),
        Command::Talk { protocol, to, from_port } => talk::talk(&protocol, to, from_port),
        Command::Sniff { from, udp_port, count } => {
            sniff::sniff(&from, udp_port, count).expect("sniff");
        }
        Command::Probe { to, from_port } => println!("{}", probe(to, from_port)),
        Command::NeverBanned => {
            for (address, role) in NeverBanned::look().expect("look").iter() {
                println!("{address} is {role}");
            }
        }
        Command::Hidden(hidden) => hidden::connect(&hidden).expect("connect"),
        Command::Flood(flood) => flood::flood(&flood).expect("flood"),
        Command::Raw(raw) => send(raw).expect("send"),
        Command::Many(many) => many::send(many).expect("send"),
    }
}

fn probe(to: SocketAddr, from_port: u16) -> &'static str {
    let socket = talk::socket(Type::STREAM, to, from_port).expect("make a socket");
    match socket.connect_timeout(&to.into(), Duration::from_millis(900)) {
        Ok(()) => "open",
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => "closed",
        Err(e) if e.kind() == io::ErrorKind::TimedOut => "filtered",
        Err(e) => panic!("connect to {to}: {e}"),
    }
}

fn send(raw: Raw) -> io::Result<()> {
    match raw {
        Raw::Tcp { from, to, flags, seq, ack, fragments, hops, options, size } => {
            let segment = Segment { from, to, flags: tcp_flags(&flags), seq, ack };
            let socket = raw_socket(to)?;
            let address = without_port(to);
            if fragments {
                for part in segment.fragments(from.port()) {
                    socket.send_to(&part, &address)?;
                }
            } else {
                let options = unhex(&options);
                let outside = Outside { hops, options: &options };
                let bytes = segment.bytes_with(&vec![0; size]);
                let packet = ip_packet_as(outside, from.ip(), to.ip(), TCP, &bytes);
                socket.send_to(&packet, &address)?;
            }
        }
        Raw::Shapes { from, to, udp } => {
            let transport = if udp { Transport::Udp } else { Transport::Tcp };
            let socket = raw_socket(to)?;
            for packet in shapes(from, to, transport).iter().flat_map(|shape| &shape.packets) {
                socket.send_to(packet, &without_port(to))?;
            }
        }
        Raw::Ip { from, to, protocol } => {
            let packet = ip_packet(from, to, protocol, &[0; 64]);
            let to = SocketAddr::new(to, 0);
            raw_socket(to)?.send_to(&packet, &to.into())?;
        }
        Raw::Udp { to, from, hex, size, count, piece } => {
            let payload = hex.map_or_else(|| vec![0; size], |hex| unhex(&hex));
            let (socket, packets, address) = match from {
                Some(from) => {
                    let pieces = piece.iter().map(|piece| range(piece));
                    let id = from.port();
                    let mut packets: Vec<Vec<u8>> =
                        pieces.map(|piece| udp_fragment(from, to, &payload, id, piece)).collect();
                    if packets.is_empty() {
                        packets.push(udp_packet(from, to, &payload));
                    }
                    (raw_socket(to)?, packets, without_port(to))
                }
                None => (udp_socket(to)?, vec![payload], to.into()),
            };
            for packet in (0..count.min(MOST)).flat_map(|_| &packets) {
                socket.send_to(packet, &address)?;
            }
        }
    }
    Ok(())
}

/// A socket that takes whole packets, IP header and all.
fn raw_socket(to: SocketAddr) -> io::Result<Socket> {
    // 255 is IPPROTO_RAW.
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(255)))?;
    if to.is_ipv6() {
        socket.set_header_included_v6(true)?;
    } else {
        socket.set_header_included_v4(true)?;
    }
    Ok(socket)
}

fn udp_socket(to: SocketAddr) -> io::Result<Socket> {
    let socket = talk::socket(Type::DGRAM, to, 0)?;
    socket.set_broadcast(true)?;
    Ok(socket)
}

/// Raw sockets take no port.
fn without_port(mut to: SocketAddr) -> SockAddr {
    to.set_port(0);
    to.into()
}

/// A range written as 0-8.
fn range(text: &str) -> Range<usize> {
    let (start, end) = text.split_once('-').expect("start-end");
    start.parse().expect("a number")..end.parse().expect("a number")
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.is_ascii() && hex.len().is_multiple_of(2), "not hex: {hex:?}");
    let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..hex.len()).step_by(2).map(|at| byte(at).expect("a byte in hex")).collect()
}
