//! A stream of TCP connections to the guarded port, from the devices' host, hundreds a second: whether it was open,
//! or answered at all, at any time in between. Every tenth goes to a port without a door, which shows when the
//! network is up: a refusal there, and nothing from the guarded port, is a door that is shut.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::lan::{self, MQTTS, UNGUARDED};

/// Between one connection and the next.
const EVERY: Duration = Duration::from_millis(2);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(400);

/// What was found, and when, since the stream began.
#[derive(Debug)]
pub(crate) struct Seen {
    began: Instant,
    /// Connections to the guarded port.
    pub(crate) probes: u32,
    /// Of those, the ones that were accepted,
    pub(crate) open: Vec<Duration>,
    /// and refused: something answered.
    pub(crate) refused: Vec<Duration>,
    /// When the other port answered.
    pub(crate) network: Vec<Duration>,
}

impl Seen {
    /// Panics unless the port was silent all the time, with the network up before and after a gap.
    #[track_caller]
    pub(crate) fn never_answered(&self) {
        assert!(
            self.open.is_empty() && self.refused.is_empty(),
            "of {} probes, {} were accepted (at {:?}) and {} refused (at {:?})",
            self.probes,
            self.open.len(),
            self.open.first(),
            self.refused.len(),
            self.refused.first()
        );
        assert!(!self.network.is_empty(), "the port without a door never answered: no network?");
    }

    /// The longest time in which not even the port without a door answered: how long the machine was away.
    pub(crate) fn longest_gap(&self) -> Duration {
        self.network.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }

    /// When the port without a door answered for the first time after that.
    pub(crate) fn back(&self) -> Option<Instant> {
        let gaps = self.network.windows(2).max_by_key(|two| two[1] - two[0])?;
        Some(self.began + gaps[1])
    }
}

/// A running stream.
pub(crate) struct Probes {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Probes {
    /// Starts it, against the broker.
    pub(crate) fn start() -> Self {
        Self::at(lan::broker())
    }

    /// Starts it, against these addresses of one machine.
    pub(crate) fn at(addresses: [IpAddr; 2]) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen_end = Arc::clone(&end);
        let thread = thread::spawn(move || {
            lan::join();
            stream(addresses, &seen_end)
        });
        Self { end, thread }
    }

    /// Ends it, when the last answers are in.
    pub(crate) fn stop(self) -> Seen {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the stream of probes")
    }
}

/// One connection under way.
struct Attempt {
    socket: Socket,
    guarded: bool,
    begun: Duration,
}

fn stream(addresses: [IpAddr; 2], end: &AtomicBool) -> Seen {
    let start = Instant::now();
    let mut seen = Seen {
        began: start,
        probes: 0,
        open: Vec::new(),
        refused: Vec::new(),
        network: Vec::new(),
    };
    let mut under_way: VecDeque<Attempt> = VecDeque::new();
    for number in 0_u32.. {
        let ending = end.load(Ordering::Relaxed);
        while let Some(attempt) = under_way.front() {
            if !ending && start.elapsed() < attempt.begun + PATIENCE {
                break;
            }
            sleep((attempt.begun + PATIENCE).saturating_sub(start.elapsed()));
            conclude(&under_way.pop_front().expect("looked at"), &mut seen);
        }
        if ending {
            break;
        }
        let address = addresses[number as usize % 2];
        let guarded = number % 20 >= 2;
        if let Some(socket) = begin(address, if guarded { MQTTS } else { UNGUARDED }) {
            under_way.push_back(Attempt { socket, guarded, begun: start.elapsed() });
        }
        seen.probes += u32::from(guarded);
        sleep((EVERY * (number + 1)).saturating_sub(start.elapsed()));
    }
    seen
}

/// Begins a connection; `None` where there is no way to the host at all.
fn begin(address: IpAddr, port: u16) -> Option<Socket> {
    let to = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("make a socket");
    socket.set_nonblocking(true).expect("a socket that doesn't wait");
    match socket.connect(&to.into()) {
        Ok(()) => Some(socket),
        // EINPROGRESS has no kind of its own.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {
            Some(socket)
        }
        Err(_) => None,
    }
}

fn conclude(attempt: &Attempt, seen: &mut Seen) {
    let error = attempt.socket.take_error().expect("ask a socket");
    let refused = error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let open = attempt.socket.peer_addr().is_ok();
    match (attempt.guarded, open, refused) {
        (true, true, _) => seen.open.push(attempt.begun),
        (true, false, true) => seen.refused.push(attempt.begun),
        (false, open, refused) if open || refused => seen.network.push(attempt.begun),
        _ => {}
    }
}
