//! A server that sends back each line, a client that keeps a connection to it, and the packets
//! that the `packet` tool makes.

use std::net::{IpAddr, SocketAddr};

use crate::binaries;
use crate::process::{Output, Process};
use crate::world::Host;

/// A server for any number of ports; the line `reset` makes it end the connection with a RST.
#[derive(Debug)]
pub struct Echo(#[expect(dead_code, reason = "held so that it is ended with this")] Process);

impl Echo {
    /// Serves ports given as `tcp/8883` or `udp/5683`, on IPv4 and IPv6.
    pub fn start(host: Host<'_>, ports: &[&str]) -> Self {
        let packet = binaries::path("packet");
        let argv: Vec<&str> = [packet.as_str(), "serve"].iter().chain(ports).copied().collect();
        let mut process = host.spawn(&argv, &[]);
        process.wait_for("serving");
        Self(process)
    }
}

/// A connection to an [`Echo`] server.
#[derive(Debug)]
pub struct Talk {
    process: Process,
    said: u32,
}

impl Talk {
    /// Connects over TCP, from a fixed port of `host` if one is given.
    #[track_caller]
    pub fn tcp(host: Host<'_>, address: IpAddr, port: u16, from_port: Option<u16>) -> Self {
        Self::start(host, "tcp", address, port, from_port)
    }

    /// "Connects" over UDP.
    #[track_caller]
    pub fn udp(host: Host<'_>, address: IpAddr, port: u16, from_port: Option<u16>) -> Self {
        Self::start(host, "udp", address, port, from_port)
    }

    #[track_caller]
    fn start(host: Host<'_>, protocol: &str, to: IpAddr, port: u16, from: Option<u16>) -> Self {
        let (packet, to) = (binaries::path("packet"), SocketAddr::new(to, port).to_string());
        let from = from.unwrap_or(0).to_string();
        let mut process = host.spawn(&[&packet, "talk", protocol, &to, "--from-port", &from], &[]);
        process.wait_for("connected");
        Self { process, said: 0 }
    }

    /// Says something, and waits for the echo.
    #[track_caller]
    pub fn works(&mut self) {
        self.said += 1;
        let line = format!("line {}.", self.said);
        self.process.write_line(&line);
        self.process.wait_for(&format!("echo {line}"));
    }

    /// Has the server send lines by itself from now on, for half a minute.
    #[track_caller]
    pub fn be_chattered_at(&mut self) {
        self.process.write_line("chatter");
        self.process.wait_for("chatter");
    }

    /// Says something, and has no echo of it within a second.
    #[track_caller]
    pub fn is_dead(&mut self) {
        assert!(!self.is_answered(), "a connection that should have ended still works");
    }

    /// Whether there is an echo of what it says, within a second.
    pub fn is_answered(&mut self) -> bool {
        self.said += 1;
        let line = format!("line {}.", self.said);
        self.process.write_line(&line);
        // The absence of something can only be seen by waiting.
        std::thread::sleep(std::time::Duration::from_secs(1));
        self.process.stdout().contains(&format!("echo {line}"))
    }

    /// Has the server end the connection with a RST, and waits for it.
    #[track_caller]
    pub fn be_reset(mut self) {
        self.process.write_line("reset");
        self.process.wait_for("ended");
    }
}

impl Host<'_> {
    /// Runs the `packet` tool on this host.
    #[track_caller]
    pub fn packet(self, args: &[&str]) -> Output {
        let packet = binaries::path("packet");
        let argv: Vec<&str> = [packet.as_str()].iter().chain(args).copied().collect();
        self.run(&argv).success()
    }

    /// Sends a datagram, given in hex.
    #[track_caller]
    pub fn send_udp(self, to: IpAddr, port: u16, hex: &str) {
        self.packet(&["udp", "--to", &SocketAddr::new(to, port).to_string(), "--hex", hex]);
    }
}
