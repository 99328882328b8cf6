//! Packets whose port the table can't read: none passes to what is guarded.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::{IpAddr, SocketAddr};

use e2e::door::MQTTS;
use e2e::table::counted;
use e2e::{Capture, Door, Echo, Host, Settings, World};

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

/// Keeps the attacker's own kernel from ending connections that it doesn't know.
fn quiet(world: &World) {
    world.attacker().nft(
        "table inet quiet { chain c { type filter hook prerouting priority -500; \
         tcp dport 40000-40999 drop; }; }",
    );
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
    let in_touch = "connected\nanswered\n";
    assert_eq!(hidden(world.attacker(), 40_000, to, "plain"), in_touch);
    assert_eq!(
        hidden(world.attacker(), 40_001, to, "nested"),
        in_touch,
        "a host puts them together"
    );

    Door::new(&world, &BEHIND).run(&["firewall", "install"]).success();
    let capture = Capture::answers_to(world.attacker());
    for (port, shape) in [(40_002, "plain"), (40_003, "nested")] {
        assert_eq!(hidden(world.attacker(), port, to, shape), "silence\n", "{shape}");
    }
    capture.saw_silence(world.attacker());
    assert!(counted(&world, "door", "can't be read") >= 2);
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
