//! Many datagrams, from many sources.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use clap::Subcommand;
use e2e::counters;

use crate::unhex;

/// Datagrams from one source: fewer than failures that any sensible ban allows.
const PER_SOURCE: u16 = 4;

#[derive(Subcommand)]
pub(crate) enum Many {
    /// Sends a datagram of each length, random bytes, a few from each address of 10.80.0.0/16.
    Lengths {
        #[arg(long)]
        to: SocketAddr,
        /// The longest.
        #[arg(long)]
        last: u16,
        /// The counters of the host that they go to: no more are sent than its socket holds.
        #[arg(long)]
        counters: PathBuf,
    },
    /// Sends a datagram for each line of standard input: an address of this host, a space, the
    /// payload in hex.
    Volley {
        #[arg(long)]
        to: SocketAddr,
        /// The counters of the host that they go to: no more are sent than its socket holds.
        #[arg(long)]
        counters: Option<PathBuf>,
    },
}

pub(crate) fn send(many: Many) -> io::Result<()> {
    match many {
        Many::Lengths { to, last, counters } => lengths(to, last, Pace::of(counters)?),
        Many::Volley { to, counters } => volley(to, counters.map(Pace::of).transpose()?),
    }
}

/// Keeps what is under way within what the receiver's socket holds.
struct Pace {
    counters: PathBuf,
    room: usize,
    /// What the receiver had taken when it was last looked at.
    taken: u64,
    /// What has been sent since and isn't taken yet, as far as known.
    waiting: VecDeque<usize>,
    in_all: usize,
}

impl Pace {
    fn of(counters: PathBuf) -> io::Result<Self> {
        let room = fs::read_to_string("/proc/sys/net/core/rmem_max")?;
        let room = room.trim().parse().expect("a number");
        let taken = counters::udp(&counters, "InDatagrams");
        Ok(Self { counters, room, taken, waiting: VecDeque::new(), in_all: 0 })
    }

    /// Waits until there is room for so many bytes more.
    fn wait_for_room(&mut self, length: usize) {
        // The kernel counts a datagram's buffers; a socket has room for twice rmem_max (socket(7)).
        let cost = 2 * length + 1024;
        let start = Instant::now();
        while self.in_all > 0 && self.in_all + cost > self.room {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the receiver doesn't take any more"
            );
            let taken = counters::udp(&self.counters, "InDatagrams");
            let new = usize::try_from(taken - self.taken).expect("a number of datagrams");
            self.in_all -= self.waiting.drain(..new.min(self.waiting.len())).sum::<usize>();
            self.taken = taken;
            if new == 0 {
                sleep(Duration::from_micros(50));
            }
        }
        self.waiting.push_back(cost);
        self.in_all += cost;
    }
}

fn lengths(to: SocketAddr, last: u16, mut pace: Pace) -> io::Result<()> {
    let mut bytes = vec![0; usize::from(last)];
    getrandom::fill(&mut bytes).expect("random bytes");
    let mut socket = None;
    for length in 0..=last {
        if length.is_multiple_of(PER_SOURCE) {
            let [high, low] = (length / PER_SOURCE).to_be_bytes();
            socket = Some(UdpSocket::bind((Ipv4Addr::new(10, 80, high, low), 0))?);
        }
        let payload = bytes.get(..usize::from(length)).unwrap_or_default();
        pace.wait_for_room(payload.len());
        socket.as_ref().expect("a socket").send_to(payload, to)?;
    }
    Ok(())
}

fn volley(to: SocketAddr, mut pace: Option<Pace>) -> io::Result<()> {
    for line in io::stdin().lines() {
        let line = line?;
        let (source, hex) = line.split_once(' ').expect("an address and a payload");
        let source: IpAddr = source.parse().expect("an address");
        let payload = unhex(hex);
        if let Some(pace) = &mut pace {
            pace.wait_for_room(payload.len());
        }
        UdpSocket::bind((source, 0))?.send_to(&payload, to)?;
    }
    Ok(())
}
