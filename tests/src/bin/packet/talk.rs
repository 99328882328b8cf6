//! The client that keeps a connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Connects, then sends each line of standard input and prints what comes back, until the peer
/// ends the connection or standard input ends.
pub(crate) fn talk(protocol: &str, to: SocketAddr, from_port: u16) {
    let kind = match protocol {
        "tcp" => Type::STREAM,
        "udp" => Type::DGRAM,
        other => panic!("unknown protocol {other:?}"),
    };
    let socket = socket(kind, to, from_port).expect("make a socket");
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).expect("connect");
    println!("connected");

    let reader = socket.try_clone().expect("clone");
    thread::spawn(move || {
        print_all(reader);
        println!("ended");
    });
    let mut socket = socket;
    for line in io::stdin().lines().map_while(Result::ok) {
        if socket.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn print_all(mut from: Socket) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut out = io::stdout();
        let _ = out.write_all(buffer.get(..length).unwrap_or_default()).and_then(|()| out.flush());
    }
}

/// A socket that goes out from this port (0: any).
pub(crate) fn socket(kind: Type, to: SocketAddr, from_port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    socket.set_reuse_address(true)?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, from_port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, from_port).into(),
    };
    socket.bind(&any.into())?;
    Ok(socket)
}
