//! Silence: whatever is sent, nothing comes back, and nothing tells the door from a dropped port.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{KNOCK_PORT, MQTTS};
use e2e::{Capture, Door, Echo, Foreign, Settings, World};

/// The broker's port as TCP and as UDP service, so that datagrams to it are its business too.
const SETTINGS: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"udp/8883\"]\n",
    tables: "",
};

/// Datagrams of any length, to both ports, over IPv4 and IPv6, and a TCP segment of each kind.
fn shout(world: &World) {
    let attacker = world.attacker();
    for (address, own) in
        [(world.broker().v4(), "10.77.0.3:999"), (world.broker().v6(), "[fd77::3]:999")]
    {
        for port in [KNOCK_PORT, MQTTS] {
            let to = std::net::SocketAddr::new(address, port).to_string();
            for size in ["0", "1", "115", "116", "117", "1400", "60000"] {
                attacker.packet(&["udp", "--to", &to, "--size", size, "--count", "3"]);
            }
        }
        let to = std::net::SocketAddr::new(address, MQTTS).to_string();
        for flags in ["S", "A", "F", "SA", "R", "FPU", "PA"] {
            let segment = ["tcp", "--from", own, "--to", &to, "--flags", flags];
            attacker.packet(&segment);
            attacker.packet(&[&segment[..], &["--fragments"]].concat());
        }
    }
}

#[test]
fn no_reply_of_any_kind_to_anything_while_the_daemon_runs() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "udp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let daemon = door.ready();
    let capture = Capture::answers_to(world.attacker());
    shout(&world);
    capture.saw_silence(world.attacker());
    daemon.tells(&["DEBUG", "source=10.77.0.3"]);
}

#[test]
fn no_reply_of_any_kind_to_anything_while_no_daemon_runs() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "udp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    door.start().kill9();
    let capture = Capture::answers_to(world.attacker());
    shout(&world);
    capture.saw_silence(world.attacker());
}

#[test]
fn no_reply_of_any_kind_after_firewall_install_without_a_daemon_or_a_broker() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    door.run(&["firewall", "install"]).success();
    let capture = Capture::answers_to(world.attacker());
    shout(&world);
    capture.saw_silence(world.attacker());
}

#[test]
fn no_reply_to_broadcast_and_multicast_with_or_without_a_daemon() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "udp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    // Hosts answer pings to all of them, if told to: the capture and the addresses are right.
    world.broker().run(&["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_broadcasts=0"]).success();
    let heard = Capture::answers_to(world.attacker());
    world.attacker().run(&["ping", "-b", "-c", "1", "-W", "1", "10.77.0.255"]);
    heard.saw_an_answer();

    let interface = world.attacker().run(&["ip", "-json", "link", "show", "eth0"]).json();
    let all_nodes = format!("[ff02::1%{}]", interface[0]["ifindex"]);
    world.attacker().run(&["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"]).success();
    world.attacker().run(&["ip", "route", "add", "255.255.255.255", "dev", "eth0"]).success();
    let shout = || {
        let capture = Capture::answers_to(world.attacker());
        for to in ["10.77.0.255", "224.0.0.1", "255.255.255.255", &all_nodes] {
            for port in [KNOCK_PORT, MQTTS] {
                let to = format!("{to}:{port}");
                world.attacker().packet(&["udp", "--to", &to, "--size", "116"]);
            }
        }
        capture.saw_silence(world.attacker());
    };
    let daemon = door.start();
    shout();
    assert!(!daemon.has_told(&["source=10.77.0.3"]), "a knock is sent to one host");
    daemon.kill9();
    shout();
}

#[test]
fn a_valid_knock_to_all_hosts_at_once_opens_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    for to in ["10.77.0.255", "224.0.0.1", "255.255.255.255"] {
        world.client().run(&["ip", "route", "replace", "224.0.0.0/3", "dev", "eth0"]).success();
        let packet = Foreign(world.client()).datagram(&device, &[]);
        world.client().send_udp(to.parse().unwrap(), KNOCK_PORT, &packet);
    }
    Foreign(world.client()).knock(&device, &[]);
    e2e::until("the one to this host is granted", || daemon.granted() == 1);
    assert!(!daemon.has_told(&["decision=\"refused\""]));
}

#[test]
fn a_valid_knock_has_no_answer_either() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let capture = Capture::answers_to(world.client());
    // Flag 1 asks for a reply: replies are off.
    for flags in ["0", "1"] {
        Foreign(world.client()).knock(&device, &["--flags", flags]);
    }
    e2e::until("both were granted", || daemon.granted() == 2);
    capture.saw_silence(world.client());
}
