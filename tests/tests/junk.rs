//! Datagrams that no key holder made: of every length, with every bit flipped, in pieces.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::SocketAddr;

use e2e::door::{AHEAD, KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::{Daemon, Door, Echo, Foreign, Settings, State, World, binaries, until};

/// All of it is for the daemon to judge, none for the kernel to drop. Sources are no matter either: any
/// may be the one for whom a packet would open, if it did.
const UNFILTERED: Settings<'_> = Settings {
    skew: WIDE,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "[prefilter]\nmode = \"off\"\n",
};

/// The longest datagram that IPv4 carries.
const LONGEST: u64 = 65_507;

fn knock_port(world: &World) -> String {
    SocketAddr::new(broker4(world), KNOCK_PORT).to_string()
}

/// Waits until the daemon has taken so many datagrams, and not one was lost.
fn has_taken(daemon: &Daemon, count: u64) {
    let counters = daemon.counters();
    until(&format!("the daemon has taken {count} datagrams"), || {
        counters.datagrams_taken() == count
    });
    assert_eq!(counters.datagrams_lost(), 0);
}

fn is_shut(world: &World, door: &Door<'_>, daemon: &Daemon) {
    assert_eq!((daemon.granted(), door.grants().len()), (0, 0));
    for host in [world.client(), world.attacker()] {
        assert_eq!(host.tcp(broker4(world), MQTTS), State::Filtered);
    }
}

#[test]
fn datagrams_of_every_length_open_nothing_and_a_knock_after_them_opens() {
    let world = World::new();
    world.crowd();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: 1, ..UNFILTERED });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let counters = daemon.counters();
    let before = counters.datagrams_taken();
    let (to, last) = (knock_port(&world), LONGEST.to_string());
    let lengths = ["lengths", "--to", &to, "--last", &last, "--counters", &counters.file()];
    world.attacker().packet(&lengths);
    has_taken(&daemon, before + LONGEST + 1);
    is_shut(&world, &door, &daemon);
    daemon.refuses("unknown-tag", 1);
    device.opens(&[]);
}

#[test]
fn a_knock_with_any_one_bit_flipped_opens_nothing_and_as_it_was_it_opens() {
    let world = World::new();
    world.crowd();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &UNFILTERED);
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let daemon = door.ready_for_ahead();
    let options = [&AHEAD[..], &["--address", "observed"]].concat();
    let packet = Foreign(world.client()).datagram(&device, &options);
    let bits = packet.len() * 4;
    let volley: String = (0..bits)
        .map(|bit| format!("10.80.{}.{} {}\n", bit / 256, bit % 256, flipped(&packet, bit)))
        .collect();
    let counters = daemon.counters();
    let before = counters.datagrams_taken();
    let (tool, to) = (binaries::path("packet"), knock_port(&world));
    let argv = [tool.as_str(), "volley", "--to", &to, "--counters", &counters.file()];
    world.attacker().run_with(&argv, &[], &volley).success();
    has_taken(&daemon, before + bits as u64);
    is_shut(&world, &door, &daemon);
    // The tag's 64 bits, and those of nonce, sealed request and mac.
    daemon.refuses("unknown-tag", 64);
    daemon.refuses("bad-mac", 864);
    world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
}

/// A packet in hex, with one bit of it flipped.
fn flipped(hex: &str, bit: usize) -> String {
    let mut digits: Vec<char> = hex.chars().collect();
    let digit = digits[bit / 4].to_digit(16).expect("hex") ^ (8 >> (bit % 4));
    digits[bit / 4] = char::from_digit(digit, 16).expect("a digit");
    digits.into_iter().collect()
}

/// Sends pieces of a knock as fragments, from a port that tells them from those of another knock.
fn send_pieces(world: &World, from: SocketAddr, hex: &str, pieces: &[&str]) {
    let to = SocketAddr::new(
        if from.is_ipv4() { world.broker().v4() } else { world.broker().v6() },
        KNOCK_PORT,
    );
    let (from, to) = (from.to_string(), to.to_string());
    let mut argv = vec!["udp", "--from", &from, "--to", &to, "--hex", hex];
    argv.extend(pieces.iter().flat_map(|piece| ["--piece", piece]));
    world.client().packet(&argv);
}

#[test]
fn fragments_of_a_knock_open_nothing_unless_they_make_a_whole_one_without_overlaps() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let client = world.client();
    for (port, address) in [(1000, client.v4()), (2000, client.v6())] {
        let knock = || Foreign(client).datagram(&device, &["--address", &address.to_string()]);
        let unfinished: [&[&str]; 6] = [
            // The header alone, with the tag, without its end; without its beginning; with a hole.
            &["0-8"],
            &["0-16"],
            &["0-120"],
            &["8-124"],
            &["0-16", "24-124"],
            // What came first and what comes later don't agree where one ends.
            &["0-64", "56-124"],
        ];
        for (n, pieces) in (0..).zip(unfinished) {
            send_pieces(&world, SocketAddr::new(address, port + n), &knock(), pieces);
        }
        let before = daemon.granted();
        assert_eq!(door.grants().len(), before);
        // In the wrong order, and cut inside the tag.
        let whole = ["16-24", "24-124", "0-16"];
        send_pieces(&world, SocketAddr::new(address, port + 100), &knock(), &whole);
        until("the whole one is granted", || daemon.granted() == before + 1);
        assert_eq!(door.grants().len(), before + 1);
    }
    assert!(!daemon.has_told(&["decision=\"refused\""]), "half a knock is none");
}
