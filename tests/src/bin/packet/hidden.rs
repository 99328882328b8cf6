//! A TCP client whose every segment goes out in a shape of its own, as no kernel sends it.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use e2e::wire::headers::nested_fragments;
use e2e::wire::{Segment, TCP, ip_packet, tcp_flags};
use socket2::{Domain, Protocol, Socket, Type};

/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to send a segment.
#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// As it is.
    Plain,
    /// In fragments within fragments.
    Nested,
}

/// Connects, says a line, and prints `connected` and `answered`, or `silence`. Its own kernel must be kept from
/// answering.
#[derive(Args)]
pub(crate) struct Hidden {
    #[arg(long)]
    from: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    shape: Shape,
}

pub(crate) fn connect(hidden: &Hidden) -> io::Result<()> {
    let mut wire = Wire::open(hidden)?;
    wire.send("S", 1_000, 0, &[])?;
    let Some((seq, _)) = wire.hear(|flags, _| flags == tcp_flags("SA"))? else {
        println!("silence");
        return Ok(());
    };
    println!("connected");
    wire.send("A", 1_001, seq.wrapping_add(1), &[])?;
    wire.send("PA", 1_001, seq.wrapping_add(1), b"hello\n")?;
    let answer = wire.hear(|_, data| !data.is_empty())?;
    println!("{}", if answer.is_some() { "answered" } else { "silence" });
    Ok(())
}

struct Wire<'a> {
    hidden: &'a Hidden,
    out: Socket,
    ears: Socket,
    sent: u32,
}

impl<'a> Wire<'a> {
    fn open(hidden: &'a Hidden) -> io::Result<Self> {
        let all = Protocol::from(i32::from(super::sniff::ALL.to_be()));
        let ears = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        ears.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { hidden, out: super::raw_socket(hidden.to)?, ears, sent: 0 })
    }

    fn send(&mut self, flags: &str, seq: u32, ack: u32, data: &[u8]) -> io::Result<()> {
        let Hidden { from, to, shape } = *self.hidden;
        let tcp = Segment { from, to, flags: tcp_flags(flags), seq, ack }.bytes_with(data);
        self.sent += 10;
        let packets = match shape {
            Shape::Plain => vec![(TCP, tcp)],
            Shape::Nested => nested_fragments(TCP, &tcp, self.sent).into(),
        };
        for (first, bytes) in packets {
            let packet = ip_packet(from.ip(), to.ip(), first, &bytes);
            self.out.send_to(&packet, &super::without_port(to))?;
        }
        Ok(())
    }

    /// The first segment of the other side that is wanted: its sequence number and data.
    fn hear(&mut self, wanted: impl Fn(u8, &[u8]) -> bool) -> io::Result<Option<(u32, Vec<u8>)>> {
        let start = Instant::now();
        let mut buffer = [0; 2048];
        while start.elapsed() < PATIENCE {
            let length = match self.ears.read(&mut buffer) {
                Ok(length) => length,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock) => continue,
                Err(e) => return Err(e),
            };
            let packet = buffer.get(..length).unwrap_or_default();
            let found =
                segment(packet, self.hidden).filter(|(flags, _, data)| wanted(*flags, data));
            if let Some((_, seq, data)) = found {
                return Ok(Some((seq, data)));
            }
        }
        Ok(None)
    }
}

/// A segment from the other side of the connection: its flags, sequence number and data.
fn segment(packet: &[u8], hidden: &Hidden) -> Option<(u8, u32, Vec<u8>)> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4),
        _ => (*packet.get(6)?, 40),
    };
    let tcp = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let is_ours = protocol == TCP
        && super::sniff::source(packet)? == hidden.to.ip()
        && port(0)? == hidden.to.port()
        && port(2)? == hidden.from.port();
    let seq = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
    let data = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    is_ours.then(|| (*tcp.get(13).unwrap_or(&0), seq, data.to_vec()))
}
