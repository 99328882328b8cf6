//! Port scans: to nmap a guarded port and the knock port are dropped ports like any other.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::{IpAddr, SocketAddr};

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Capture, Door, Echo, Host, Process, Settings, State, World};

/// A port that a rule of somebody else's drops, over TCP and UDP.
const DROPPED: u16 = 7;
/// A port that nobody drops and nobody listens at.
const CLOSED: u16 = 1;
/// A guarded port at which nobody listens.
const UNSERVED: u16 = 1883;

/// A scan under way.
struct Scan {
    nmap: Process,
    kind: &'static str,
    ports: [u16; 4],
}

impl Scan {
    fn start(from: Host<'_>, kind: &'static str, address: IpAddr, port: u16) -> Self {
        let ports = [DROPPED, CLOSED, MQTTS, port];
        let list = ports.map(|port| port.to_string()).join(",");
        let text = address.to_string();
        let mut argv =
            vec!["nmap", "-n", "-Pn", "--reason", "--max-retries", "1", kind, "-p", &list];
        // A wire without delay needs little patience.
        argv.extend(["--initial-rtt-timeout", "200ms", "--max-rtt-timeout", "500ms", &text]);
        argv.extend(address.is_ipv6().then_some("-6"));
        Self { nmap: from.spawn(&argv, &[]), kind, ports }
    }

    /// Waits for its end; to it all ports but the closed one are alike.
    fn sees_no_difference(mut self) {
        assert!(self.nmap.wait().success(), "nmap {}: {}", self.kind, self.nmap.stderr());
        let text = self.nmap.stdout();
        let [dropped, closed, guarded, port] = self.ports.map(|port| {
            let start = format!("{port}/");
            let line = text.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("no line for port {port} in {text}"));
            // "8883/tcp filtered secure-mqtt no-response": all but what names the port.
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1], words[3..].join(" "))
        });
        assert_ne!(dropped, closed, "nmap {} can tell ports apart: {text}", self.kind);
        assert_eq!(guarded, dropped, "{text}");
        assert_eq!(port, dropped, "{text}");
    }
}

/// Scans in every way, over IPv4 and IPv6.
fn no_scan_sees_a_difference(world: &World) {
    let mut scans = Vec::new();
    for address in [world.broker().v4(), world.broker().v6()] {
        for kind in ["-sS", "-sT", "-sA", "-sN"] {
            scans.push(Scan::start(world.attacker(), kind, address, UNSERVED));
        }
        scans.push(Scan::start(world.attacker(), "-sU", address, KNOCK_PORT));
    }
    scans.into_iter().for_each(Scan::sees_no_difference);
}

#[test]
fn no_scan_tells_a_guarded_port_or_the_knock_port_from_a_dropped_one_at_any_time() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "udp/8883"]);
    let services =
        "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"udp/8883\", \"tcp/1883\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    world.broker().nft(
        "table inet other { chain in { type filter hook input priority 0; \
         udp dport 7 drop; tcp dport 7 drop; }; }",
    );
    // Hosts limit how often they answer that a port is closed: not here, where nmap has to see each.
    let limits = ["net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratelimit=0"];
    world.broker().run(&[&["sysctl", "-qw"][..], &limits].concat()).success();
    let device = door.enrol("press-17");
    let daemon = door.ready();
    no_scan_sees_a_difference(&world);

    device.opens(&["--open-for", "600s"]);
    no_scan_sees_a_difference(&world);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open, "while it was open");

    device.knock(world.client(), &["-4", "--close"]).success();
    daemon.tells(&["decision=\"closed\""]);
    no_scan_sees_a_difference(&world);

    daemon.kill9();
    no_scan_sees_a_difference(&world);
}

/// What comes back for a SYN to a port of this address that looks so from outside.
fn answers(world: &World, to: IpAddr, port: u16, outside: &[&str]) -> Vec<String> {
    let attacker = world.attacker();
    let own = if to.is_ipv4() { attacker.v4() } else { attacker.v6() };
    let (from, to) = (SocketAddr::new(own, 40_000).to_string(), SocketAddr::new(to, port));
    let to = to.to_string();
    let capture = Capture::answers_to(attacker);
    let segment = ["tcp", "--from", &from, "--to", &to, "--flags", "S"];
    attacker.packet(&[&segment, outside].concat());
    capture.icmp(attacker)
}

#[test]
fn what_the_kernel_answers_before_it_looks_at_ports_is_the_same_for_a_guarded_and_a_dropped_port() {
    let world = World::new();
    let inner = world.behind_broker();
    let _echo = (Echo::start(world.broker(), &["tcp/8883"]), Echo::start(inner, &["tcp/1883"]));
    let services = "[[service]]\nname = \"here\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"behind\"\nports = [\"tcp/1883\"]\n\
                    to = [\"10.78.0.2\", \"fd78::2\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    door.run(&["firewall", "install"]).success();
    let broker = world.broker();
    broker.nft(
        "table inet other { chain in { type filter hook input priority 0; tcp dport 7 drop; }; \
         chain through { type filter hook forward priority 0; tcp dport 7 drop; }; }",
    );
    world.ip(Some("broker"), "link set inner mtu 1280");
    let limits = ["net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratelimit=0"];
    broker.run(&[&["sysctl", "-qw"][..], &limits].concat()).success();

    let answered = |to: &str, guarded: u16, outside: &[&str], due: &[&str]| {
        let to: IpAddr = to.parse().unwrap();
        for port in [DROPPED, guarded] {
            assert_eq!(answers(&world, to, port, outside), due, "{to} port {port} {outside:?}");
        }
    };
    let (last_hop, long, wrong) = (["--hops", "1"], ["--size", "1350"], ["--options", "07030100"]);
    // The types and codes of ICMP and ICMPv6 that are due: RFC 792, RFC 4443.
    for here in ["10.77.0.1", "fd77::1"] {
        answered(here, MQTTS, &last_hop, &[]);
        answered(here, MQTTS, &long, &[]);
    }
    answered("10.77.0.1", MQTTS, &wrong, &["0c00"]);
    answered("10.78.0.2", UNSERVED, &last_hop, &["0b00"]);
    answered("10.78.0.2", UNSERVED, &long, &["0304"]);
    answered("10.78.0.2", UNSERVED, &wrong, &["0c00"]);
    answered("fd78::2", UNSERVED, &last_hop, &["0300"]);
    answered("fd78::2", UNSERVED, &long, &["0200"]);
    answered("fd78::2", UNSERVED, &[], &[]);
}
