//! The limit: a daemon that receives as knockd does, in batches, and only counts.

use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

use crate::fleet::KNOCK_PORT;
use crate::rig::{DAEMON_CORE, Side};

/// As knockd's.
const BATCH: usize = 256;
const BUFFER_LEN: usize = 117;
const RECEIVE_BUFFER: usize = 16 << 20;

/// What was counted, and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) packets: u64,
    pub(crate) cpu: Duration,
}

/// A running loop that counts.
pub(crate) struct Counter {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Counted>,
}

impl Counter {
    /// Starts it in knockd's place, on knockd's core.
    pub(crate) fn start() -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen_end = Arc::clone(&end);
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            Side::Broker.join(Some(DAEMON_CORE));
            let socket = open();
            ready.send(()).expect("the one who waits");
            count(&socket, &seen_end)
        });
        is_ready.recv().expect("the counter");
        Self { end, thread }
    }

    pub(crate) fn finish(self) -> Counted {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the counter")
    }
}

fn open() -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("a socket");
    socket.set_only_v6(false).expect("a socket for both families");
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("a receive buffer");
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)).expect("a time limit");
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, KNOCK_PORT));
    socket.bind(&address.into()).expect("bind the knock port");
    socket
}

fn count(socket: &Socket, end: &AtomicBool) -> Counted {
    let mut buffers = [[0; BUFFER_LEN]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let start = used();
    let mut packets = 0;
    while !end.load(Ordering::Relaxed) {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        if let Ok(batch) =
            recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)
        {
            packets += u64::try_from(batch.count()).expect("a count");
        }
    }
    Counted { packets, cpu: used() - start }
}

/// The processor time of the calling thread.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock").into()
}
