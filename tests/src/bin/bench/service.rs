//! What is behind the door, how it is probed, and the bare limit of opening it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use knockd::firewall::netlink::{Element, Netlink, Step};

use crate::fleet::{KNOCK_PORT, SERVICE_PORT};
use crate::rig::{BROKER, Side};

/// A server that accepts connections, and ends them.
pub(crate) fn serve() {
    let listener = Side::Broker.within(None, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVICE_PORT)).expect("bind the service's port")
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
}

/// Probes the service as `knock --wait` does: with a fresh connection each time, given up after a
/// millisecond, then after twice that. Call it at the device's end.
pub(crate) fn opens_within(limit: Duration) -> bool {
    let start = Instant::now();
    let mut time = Duration::from_millis(1);
    while start.elapsed() < limit {
        let attempt = Instant::now();
        let to = SocketAddr::from((BROKER, SERVICE_PORT));
        if TcpStream::connect_timeout(&to, time).is_ok() {
            return true;
        }
        sleep(time.saturating_sub(attempt.elapsed()));
        time *= 2;
    }
    false
}

/// A daemon that believes everyone: one datagram, one element in knockd's set of doors.
pub(crate) struct Credulous {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Credulous {
    pub(crate) fn start(core: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen_end = Arc::clone(&end);
        let (mut netlink, socket) = Side::Broker.within(None, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, KNOCK_PORT));
            (Netlink::open().expect("a netlink socket"), socket.expect("bind the knock port"))
        });
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let thread = thread::spawn(move || {
            Side::Broker.join(Some(core));
            let mut buffer = [0; 200];
            while !seen_end.load(Ordering::Relaxed) {
                if let Ok((_, SocketAddr::V4(from))) = socket.recv_from(&mut buffer) {
                    let element = Element {
                        set: "door4",
                        key: door_key(*from.ip()),
                        timeout: Some(Duration::from_secs(30)),
                    };
                    netlink.transact(&[Step::Add(vec![element])]).expect("add an element");
                }
            }
        });
        Self { end, thread: Some(thread) }
    }
}

impl Drop for Credulous {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The key of a door's element: address, protocol, port, each padded to four bytes.
fn door_key(address: Ipv4Addr) -> Vec<u8> {
    let [high, low] = SERVICE_PORT.to_be_bytes();
    [address.octets(), [6, 0, 0, 0], [high, low, 0, 0]].concat()
}
