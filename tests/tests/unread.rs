//! Packets whose port the table can't read: none passes to what is guarded.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::door::MQTTS;
use e2e::table::counted;
use e2e::wire::shapes::{self, Kind, Transport};
use e2e::wire::{TCP, UDP};
use e2e::{Capture, Door, Echo, Host, Settings, World, until};

/// What the tests here guard, on this host and behind it.
const PORTS: [&str; 2] = ["tcp/8883", "udp/8883"];
const HERE: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"udp/8883\"]\n",
    tables: "",
};
const BEHIND: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"udp/8883\"]\n\
               to = [\"10.78.0.2\", \"fd78::2\"]\n",
    tables: "",
};

/// The port that odd shapes begin with.
const FIRST_PORT: u16 = 40_000;

/// How often they are sent at most until each kind has an answer, and how long after that one is waited for.
const TIMES: usize = 20;
const BETWEEN: Duration = Duration::from_secs(3);

/// Keeps the attacker's own kernel from ending connections that it doesn't know.
fn quiet(world: &World) {
    let last = FIRST_PORT + shapes::PORTS - 1;
    world.attacker().nft(&format!(
        "table inet quiet {{ chain c {{ type filter hook prerouting priority -500; \
         tcp dport {FIRST_PORT}-{last} drop; }}; }}",
    ));
}

/// What a client finds that sends all its segments in this shape, from a port of its own.
fn hidden(from: Host<'_>, port: u16, to: IpAddr, shape: &str) -> String {
    let own = SocketAddr::new(if to.is_ipv4() { from.v4() } else { from.v6() }, port);
    let (own, to) = (own.to_string(), SocketAddr::new(to, MQTTS).to_string());
    from.packet(&["hidden", "--from", &own, "--to", &to, "--shape", shape]).stdout
}

#[test]
fn fragments_within_fragments_reach_no_service_behind_this_host() {
    let world = World::new();
    let inner = world.behind_broker();
    let _echo = Echo::start(inner, &PORTS);
    let to: IpAddr = "fd78::2".parse().unwrap();
    quiet(&world);
    // As on any host that filters by state or translates addresses: conntrack puts fragments together, once.
    world.broker().nft(
        "table inet tracked { chain c { type filter hook forward priority 0; ct state new accept; }; }",
    );
    // A piece that is lost is not sent again: another port is another attempt.
    let mut ports = 41_000..;
    for shape in ["plain", "nested"] {
        until(&format!("without the table, {shape} segments are put together"), || {
            let port = ports.next().expect("a port");
            hidden(world.attacker(), port, to, shape) == "connected\nanswered\n"
        });
    }

    Door::new(&world, &BEHIND).run(&["firewall", "install"]).success();
    let capture = Capture::answers_to(world.attacker());
    for (port, shape) in [(40_002, "plain"), (40_003, "nested")] {
        assert_eq!(hidden(world.attacker(), port, to, shape), "silence\n", "{shape}");
    }
    capture.saw_silence(world.attacker());
    assert!(counted(&world, "whole", "a fragment") >= 2);
}

#[test]
fn fragments_within_fragments_to_this_host_have_no_answer() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &PORTS);
    quiet(&world);
    let broker = world.broker().v6();
    let capture = Capture::answers_to(world.attacker());
    hidden(world.attacker(), 40_000, broker, "nested");
    capture.saw_an_answer();

    Door::new(&world, &HERE).run(&["firewall", "install"]).success();
    let capture = Capture::answers_to(world.attacker());
    for (port, shape) in [(40_002, "plain"), (40_003, "nested")] {
        assert_eq!(hidden(world.attacker(), port, broker, shape), "silence\n", "{shape}");
    }
    capture.saw_silence(world.attacker());
}

/// Sends packets of every odd shape to a guarded port, over TCP and UDP.
fn shapes(world: &World, targets: &[IpAddr]) {
    let attacker = world.attacker();
    for to in targets {
        let own = if to.is_ipv4() { attacker.v4() } else { attacker.v6() };
        let (from, to) =
            (SocketAddr::new(own, FIRST_PORT).to_string(), SocketAddr::new(*to, MQTTS));
        let to = to.to_string();
        attacker.packet(&["shapes", "--from", &from, "--to", &to]);
        attacker.packet(&["shapes", "--from", &from, "--to", &to, "--udp"]);
    }
}

/// A world whose middle host tracks connections, and tells nobody that a fragment's rest never came.
fn tracked() -> World {
    let world = World::new();
    quiet(&world);
    world.broker().nft(
        "table inet tracked { chain c { type filter hook prerouting priority 0; ct state new accept; }; }",
    );
    let patience = ["net.ipv4.ipfrag_time=600", "net.netfilter.nf_conntrack_frag6_timeout=600"];
    world.broker().run(&[&["sysctl", "-qw"][..], &patience].concat()).success();
    world
}

/// The kinds of shapes of which a host takes some, over IPv4 and IPv6. It takes none that is cut off or has no end.
const SOUND4: &[Kind] = &[Kind::Options, Kind::Fragments, Kind::Turned, Kind::Overlapping];
const SOUND6: &[Kind] = &[
    Kind::Headers(1),
    Kind::Headers(2),
    Kind::Headers(3),
    Kind::Fragments,
    Kind::Turned,
    Kind::Drawn,
];
/// Behind a router that tracks connections this one as well: that puts the outer fragments together, and the host the
/// inner ones. One host for both is done with them once.
const BEHIND_TOO: Kind = Kind::Within;

/// Without the table the service answers each kind of shape that a host takes, at each address, over TCP and UDP: what
/// it answered is known by the port that the answer goes to.
fn are_answered(world: &World, targets: [(IpAddr, &[Kind]); 2]) {
    let attacker = world.attacker();
    for (target, sound) in targets {
        let own = if target.is_ipv4() { attacker.v4() } else { attacker.v6() };
        let (from, to) = (SocketAddr::new(own, FIRST_PORT), SocketAddr::new(target, MQTTS));
        let sent = [(Transport::Tcp, TCP), (Transport::Udp, UDP)]
            .map(|(transport, number)| (number, shapes::shapes(from, to, transport)));
        let capture = Capture::answers_from(attacker, &[target]);
        let mut wanted: BTreeSet<(u8, Kind)> = [TCP, UDP]
            .into_iter()
            .flat_map(|it| sound.iter().map(move |kind| (it, *kind)))
            .collect();
        // They come at once, and a socket's queue is short: what doesn't fit into it is lost, and sent again.
        for _ in 0..TIMES {
            if wanted.is_empty() {
                break;
            }
            shapes(world, &[target]);
            let until = Instant::now() + BETWEEN;
            while !wanted.is_empty() && Instant::now() < until {
                sleep(Duration::from_millis(50));
                let answered = capture.ports();
                for (number, shapes) in &sent {
                    let answered =
                        shapes.iter().filter(|it| answered.contains(&(*number, it.port)));
                    answered.for_each(|shape| {
                        wanted.remove(&(*number, shape.kind));
                    });
                }
            }
        }
        assert!(wanted.is_empty(), "no answer from {target} to {wanted:?}, as (protocol, kind)");
    }
}

/// ICMPv6, Parameter Problem: "unrecognized Next Header type encountered" (RFC 4443, 3.4).
const NO_SUCH_PROTOCOL: &str = "0401";

/// Nothing was answered but that there is no such protocol. A piece of a drawn packet can be read as a header of any
/// protocol, by what happens to be in it: one that has no ports passes, and what a host says of it tells of none.
fn has_no_port_in(capture: Capture, world: &World) {
    let told = capture.icmp(world.attacker());
    assert!(told.iter().all(|kind| kind == NO_SUCH_PROTOCOL), "{told:?}");
}

#[test]
fn packets_of_every_odd_shape_reach_no_service_on_this_host_and_have_no_answer() {
    let world = tracked();
    let _echo = Echo::start(world.broker(), &PORTS);
    are_answered(&world, [(world.broker().v4(), SOUND4), (world.broker().v6(), SOUND6)]);

    // Another world: the answers of that one are repeated for a while.
    let world = tracked();
    let _echo = Echo::start(world.broker(), &PORTS);
    Door::new(&world, &HERE).run(&["firewall", "install"]).success();
    let capture = Capture::answers_to(world.attacker());
    shapes(&world, &[world.broker().v4(), world.broker().v6()]);
    has_no_port_in(capture, &world);
    assert!(counted(&world, "whole", "can't be read") > 0);
    assert!(counted(&world, "whole", "a fragment") > 0);
    assert!(counted(&world, "gate", "everybody else") > 0);
}

#[test]
fn packets_of_every_odd_shape_reach_no_service_behind_this_host() {
    let targets: [IpAddr; 2] = ["10.78.0.2", "fd78::2"].map(|to| to.parse().unwrap());
    let world = tracked();
    let inner = world.behind_broker();
    let _echo = Echo::start(inner, &PORTS);
    let sound6 = [SOUND6, &[BEHIND_TOO]].concat();
    are_answered(&world, [(targets[0], SOUND4), (targets[1], &sound6)]);

    let world = tracked();
    let inner = world.behind_broker();
    let _echo = Echo::start(inner, &PORTS);
    Door::new(&world, &BEHIND).run(&["firewall", "install"]).success();
    let capture = Capture::answers_from(world.attacker(), &targets);
    shapes(&world, &targets);
    has_no_port_in(capture, &world);
    assert!(counted(&world, "whole", "can't be read") > 0);
}

/// Protocols without ports: GRE, ESP, AH.
const OTHERS: [u8; 3] = [47, 50, 51];

#[test]
fn what_has_no_port_and_what_goes_through_to_others_passes_as_before() {
    let world = World::new();
    let (attacker, broker) = (world.attacker(), world.broker());
    let inner = world.behind_broker();
    let services = "[[service]]\nname = \"here\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"behind\"\nports = [\"tcp/1883\"]\n\
                    to = [\"10.78.0.2\", \"fd78::2\"]\n";
    Door::new(&world, &Settings { services, ..HERE }).run(&["firewall", "install"]).success();
    quiet(&world);
    let _echo = Echo::start(inner, &["tcp/22", "tcp/8883"]);
    for host in [broker, inner] {
        host.nft(
            "table inet seen { chain c { type filter hook input priority 0; \
             meta l4proto gre counter comment \"47\"; meta l4proto esp counter comment \"50\"; \
             meta l4proto ah counter comment \"51\"; }; }",
        );
    }
    let behind = ["10.78.0.2", "fd78::2"].map(|to| to.parse::<IpAddr>().unwrap());
    for (host, to) in
        [(broker, broker.v4()), (broker, broker.v6()), (inner, behind[0]), (inner, behind[1])]
    {
        let own = if to.is_ipv4() { attacker.v4() } else { attacker.v6() }.to_string();
        let text = to.to_string();
        // In fragments, and with an answer in fragments.
        attacker.run(&["ping", "-c", "1", "-W", "10", "-s", "4000", &text]).success();
        for (n, protocol) in OTHERS.iter().enumerate() {
            attacker.packet(&[
                "ip",
                "--from",
                &own,
                "--to",
                &text,
                "--protocol",
                &protocol.to_string(),
            ]);
            until(&format!("protocol {protocol} has reached {to}"), || {
                let listed = host.run(&["nft", "list", "table", "inet", "seen"]).success().stdout;
                let wanted = if to.is_ipv4() { "packets 1 " } else { "packets 2 " };
                listed
                    .lines()
                    .filter(|line| line.contains("counter"))
                    .nth(n)
                    .expect("a rule")
                    .contains(wanted)
            });
        }
    }
    for to in behind {
        for port in [22, MQTTS] {
            // No service of the door.
            attacker.tcp_until(to, port, e2e::State::Open);
        }
        assert_eq!(attacker.tcp(to, 1883), e2e::State::Filtered);
    }
    // An address of the same host that isn't guarded: what goes there is between it and its peers.
    world.ip(Some("inner"), "addr add fd78::3/64 dev eth0 nodad");
    let other = "fd78::3".parse().unwrap();
    assert_eq!(hidden(attacker, 40_000, other, "nested"), "connected\nanswered\n");
}
