//! What a sniffer sees, and the proof that there is nothing to see.

use std::collections::BTreeSet;
use std::net::IpAddr;

use data_encoding::HEXLOWER;

use crate::binaries;
use crate::door::KNOCK_PORT;
use crate::process::Process;
use crate::until::until_some;
use crate::wire::{TCP, UDP, tcp_flags};
use crate::world::{Host, World};

/// The port of the datagram that marks the end of a capture (9: discard).
const END: u16 = 9;

/// The protocol and port of a TCP segment or a UDP datagram behind a bare IP header.
fn destination(packet: &[u8]) -> Option<(u8, u16)> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4),
        _ => (*packet.get(6)?, 40),
    };
    let port = packet.get(header + 2..)?.first_chunk::<2>()?;
    [TCP, UDP].contains(&protocol).then(|| (protocol, u16::from_be_bytes(*port)))
}

/// A running sniffer, `packet sniff`.
#[derive(Debug)]
pub struct Capture(Process);

impl Capture {
    /// Captures what reaches `host` from the broker's host, but for neighbour discovery.
    #[track_caller]
    pub fn answers_to(host: Host<'_>) -> Self {
        Self::answers_from(host, &[])
    }

    /// Captures what reaches `host` from the broker's host or from these addresses, but for neighbour discovery.
    #[track_caller]
    pub fn answers_from(host: Host<'_>, others: &[IpAddr]) -> Self {
        let broker = host.world().broker();
        let from = [&[broker.v4(), broker.v6()], others].concat();
        let from = from.iter().flat_map(|address| ["--from".to_owned(), address.to_string()]);
        let from: Vec<String> = from.collect();
        let packet = binaries::path("packet");
        let argv: Vec<&str> =
            [packet.as_str(), "sniff"].into_iter().chain(from.iter().map(String::as_str)).collect();
        Self::ready(host.spawn(&argv, &[]))
    }

    /// Captures every datagram to this port on the wire, as one who sits on the path can.
    #[track_caller]
    pub fn on_the_wire(world: &World, port: u16) -> Self {
        let (packet, port) = (binaries::path("packet"), port.to_string());
        let argv = [packet.as_str(), "sniff", "--udp-port", &port];
        Self::ready(world.on_the_wire(&argv, "wire-sniff"))
    }

    #[track_caller]
    fn ready(mut process: Process) -> Self {
        process.wait_for("sniffing");
        Self(process)
    }

    /// All packets so far, in hex.
    fn packets(&self) -> Vec<String> {
        let text = self.0.stdout();
        // The last line may not be complete yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().skip(1).filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    }

    /// The payload, in hex, of the first datagram over IPv4 that was captured.
    #[track_caller]
    pub fn first_payload(&self) -> String {
        until_some("a datagram was captured", || {
            // An IPv4 header of 20 bytes and a UDP header of 8.
            let packet = self.packets().into_iter().find(|packet| packet.starts_with('4'))?;
            packet.get((20 + 8) * 2..).map(str::to_owned)
        })
    }

    /// Panics if the broker's host sent anything to `host` since the capture began.
    #[track_caller]
    pub fn saw_silence(self, host: Host<'_>) {
        let answers = self.answers(host);
        assert!(answers.is_empty(), "the broker's host answered:\n{}", answers.join("\n"));
    }

    /// The payloads, in hex, of what the broker's host sent to `host` since the capture began: datagrams over IPv4
    /// from the port of the knocks, and nothing else, or it panics.
    #[track_caller]
    pub fn replies(&self, host: Host<'_>) -> Vec<String> {
        let port = format!("{KNOCK_PORT:04x}");
        let payload = |packet: String| {
            // An IPv4 header of 20 bytes, with UDP (17) at 9; then its source port.
            let is_reply = packet.starts_with("45")
                && packet.get(18..20) == Some("11")
                && packet.get(40..44) == Some(&port);
            assert!(is_reply, "the broker's host sent {packet}");
            packet.get((20 + 8) * 2..).unwrap_or_default().to_owned()
        };
        self.answers(host).into_iter().map(payload).collect()
    }

    /// The types and codes, in hex, of what the broker's host sent to `host` since the capture began: ICMP messages, and
    /// nothing else, or it panics.
    #[track_caller]
    pub fn icmp(self, host: Host<'_>) -> Vec<String> {
        let of_ipv4 = |packet: &str| {
            let is_one = packet.starts_with("45") && packet.get(18..20) == Some("01");
            is_one.then(|| packet.get(40..44).map(str::to_owned))?
        };
        let of_ipv6 = |packet: &str| {
            let is_one = packet.starts_with('6') && packet.get(12..14) == Some("3a");
            is_one.then(|| packet.get(80..84).map(str::to_owned))?
        };
        let answers = self.answers(host);
        let kind = |packet: &String| of_ipv4(packet).or_else(|| of_ipv6(packet));
        answers.iter().map(|packet| kind(packet).unwrap_or_else(|| panic!("{packet}"))).collect()
    }

    /// Panics if the broker's host sent anything over IPv4 but TCP segments with RST.
    #[track_caller]
    pub fn saw_resets_at_most(self, host: Host<'_>) {
        self.saw_segments_at_most(host, |flags| flags & tcp_flags("R") != 0);
    }

    /// Panics if the broker's host sent anything over IPv4 but plain SYNs, with which it connects itself.
    #[track_caller]
    pub fn saw_syns_at_most(self, host: Host<'_>) {
        self.saw_segments_at_most(host, |flags| flags & tcp_flags("FSRPA") == tcp_flags("S"));
    }

    #[track_caller]
    fn saw_segments_at_most(&self, host: Host<'_>, may_be: impl Fn(u8) -> bool) {
        // The protocol is byte 9; TCP's flags are in byte 13 behind an IP header of 20 bytes.
        let byte =
            |packet: &str, at: usize| u8::from_str_radix(packet.get(2 * at..2 * at + 2)?, 16).ok();
        let is_one = |packet: &str| {
            packet.starts_with("45")
                && byte(packet, 9) == Some(6)
                && byte(packet, 33).is_some_and(&may_be)
        };
        let mut answers = self.answers(host);
        answers.retain(|packet| !is_one(packet));
        assert!(answers.is_empty(), "the broker's host answered:\n{}", answers.join("\n"));
    }

    /// What the broker's host sent to `host` since the capture began.
    ///
    /// It sends one last datagram, and all that came before it counts: packets on one wire don't
    /// overtake each other.
    #[track_caller]
    fn answers(&self, host: Host<'_>) -> Vec<String> {
        host.world().broker().send_udp(host.v4(), END, "00");
        let end = format!("{END:04x}");
        let is_end = |packet: &String| packet.starts_with('4') && packet.get(44..48) == Some(&end);
        until_some("the capture has seen its end", || {
            let mut packets = self.packets();
            let last = packets.iter().position(is_end)?;
            packets.truncate(last);
            Some(packets)
        })
    }

    /// The protocols and ports here that TCP segments and UDP datagrams went to so far.
    pub fn ports(&self) -> BTreeSet<(u8, u16)> {
        let packets = self.packets();
        let bytes = |packet: &String| HEXLOWER.decode(packet.as_bytes()).expect("hex");
        packets.iter().map(bytes).filter_map(|packet| destination(&packet)).collect()
    }

    /// Panics unless the broker's host sent something: the counterpart, which shows that a
    /// capture sees an answer where there is one.
    #[track_caller]
    pub fn saw_an_answer(&self) {
        until_some("an answer was captured", || self.packets().into_iter().next());
    }
}
