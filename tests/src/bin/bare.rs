//! The limit that the benchmark measures clients against: an otherwise empty program that sends one
//! datagram to an address, and then probes a TCP port as `knock --wait` does; without arguments it does
//! nothing. Built static, by `make bench`.
#![allow(clippy::expect_used, reason = "what it needs and can't have ends it, with a message")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn main() {
    if std::env::args().len() == 1 {
        return;
    }
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> SocketAddr {
        arguments.next().and_then(|text| text.parse().ok()).expect("two addresses with their ports")
    };
    let (knock, service) = (address(), address());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.send_to(&[0; 116], knock).expect("send");
    let mut time = Duration::from_millis(1);
    for _ in 0..12 {
        let start = Instant::now();
        if TcpStream::connect_timeout(&service, time).is_ok() {
            return;
        }
        sleep(time.saturating_sub(start.elapsed()));
        time *= 2;
    }
    std::process::exit(1);
}
