//! The echo server.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use socket2::Socket;

/// How often, and in how many lines, a server chatters.
const CHATTER: Duration = Duration::from_millis(50);
const LINES: u32 = 600;

/// Serves until it is killed, printing `serving` when all ports are bound.
pub(crate) fn serve(ports: &[String]) {
    let mut servers = Vec::new();
    for port in ports {
        let (protocol, number) = port.split_once('/').expect("protocol/port");
        let address = (Ipv6Addr::UNSPECIFIED, number.parse().expect("port"));
        servers.push(match protocol {
            "tcp" => {
                let listener = TcpListener::bind(address).expect("bind");
                thread::spawn(move || serve_tcp(&listener))
            }
            "udp" => {
                let socket = UdpSocket::bind(address).expect("bind");
                thread::spawn(move || serve_udp(&socket))
            }
            other => panic!("unknown protocol {other:?}"),
        });
    }
    println!("serving");
    for server in servers {
        server.join().expect("a server thread");
    }
}

fn serve_tcp(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || echo(&stream));
    }
}

fn echo(mut stream: &TcpStream) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line == "reset" {
            let socket: Socket = stream.try_clone().expect("clone").into();
            // Closing with unsent time 0 sends a RST (RFC 9293 calls it ABORT).
            socket.set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
            return;
        }
        if line == "chatter" {
            let mut stream = stream.try_clone().expect("clone");
            chatter(move |said| stream.write_all(said).is_ok());
            continue;
        }
        if writeln!(stream, "echo {line}").is_err() {
            return;
        }
    }
}

fn serve_udp(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let said = buffer.get(..length).unwrap_or_default();
        if said == b"chatter\n" {
            let socket = socket.try_clone().expect("clone");
            chatter(move |said| socket.send_to(said, from).is_ok());
            continue;
        }
        let _ = socket.send_to(&[b"echo ", said].concat(), from);
    }
}

/// Goes on talking without being asked, until nobody can be reached.
fn chatter(mut say: impl FnMut(&[u8]) -> bool + Send + 'static) {
    thread::spawn(move || {
        for _ in 0..LINES {
            if !say(b"chatter\n") {
                return;
            }
            thread::sleep(CHATTER);
        }
    });
}
