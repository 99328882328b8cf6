//! The harness itself: a test that can't see an open port, an answer or a leak proves nothing.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::MQTTS;
use e2e::until::until;
use e2e::{Capture, Echo, Foreign, Mosquitto, State, Talk, World, binaries};

#[test]
fn hosts_reach_each_other_over_ipv4_and_ipv6_and_see_open_closed_and_filtered_ports() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "udp/5683"]);
    world.broker().nft(
        "table inet t { chain c { type filter hook input priority 0; th dport 7 counter drop; }; }",
    );
    for address in [world.broker().v4(), world.broker().v6()] {
        for (port, state) in [(MQTTS, State::Open), (1, State::Closed), (7, State::Filtered)] {
            assert_eq!(world.client().nmap(address, port), state, "{address} {port}");
            assert_eq!(world.attacker().tcp(address, port), state, "{address} {port}");
        }
        Talk::tcp(world.client(), address, MQTTS, Some(4000)).works();
        Talk::udp(world.client(), address, 5683, None).works();
    }
}

#[test]
fn everything_in_a_world_ends_with_it() {
    let world = World::with(&["broker"]);
    let process = world.broker().spawn(&["sleep", "1000"], &[]);
    let stat = format!("/proc/{}", process.id());
    assert!(std::fs::exists(&stat).expect("look"));
    drop(world);
    until("the process is gone", || !process_runs(&stat));
}

fn process_runs(proc_folder: &str) -> bool {
    let status = std::fs::read_to_string(format!("{proc_folder}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn a_capture_sees_an_answer_where_there_is_one() {
    let world = World::new();
    let capture = Capture::answers_to(world.attacker());
    // A closed port answers with an ICMP "port unreachable".
    world.attacker().send_udp(world.broker().v4(), 1, "00");
    capture.saw_an_answer();
}

#[test]
fn a_capture_on_the_wire_has_the_datagram_that_was_sent() {
    let world = World::new();
    let capture = Capture::on_the_wire(&world, 62201);
    let sent = "00112233445566778899aabbccddeeff".repeat(8);
    world.client().send_udp(world.broker().v4(), 62201, &sent);
    assert_eq!(capture.first_payload(), sent);
}

#[test]
fn raw_segments_arrive_whole_and_in_fragments() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    for (from, to) in [("10.77.0.3:5", "10.77.0.1:8883"), ("[fd77::3]:5", "[fd77::1]:8883")] {
        for more in [&[][..], &["--fragments"]] {
            let capture = Capture::answers_to(world.attacker());
            let args = ["tcp", "--from", from, "--to", to, "--flags", "S"];
            world.attacker().packet(&[&args, more].concat());
            capture.saw_an_answer();
        }
    }
}

#[test]
fn mosquitto_with_tls_takes_who_has_the_password_and_nobody_else() {
    let world = World::new();
    let mosquitto = Mosquitto::start(world.broker());
    let mut subscriber = mosquitto.subscribe(world.client(), "t");
    assert!(mosquitto.publish(world.client(), "t", "hello", &[]));
    subscriber.wait_for("got [0] t: hello");
    assert!(!mosquitto.publish(world.client(), "t", "hello", &["-P", "wrong"]));
}

#[test]
fn the_foreign_client_makes_every_vector_of_the_protocol_byte_for_byte() {
    let world = World::with(&["client"]);
    let vectors = binaries::repository().join("common/vectors/wire-format-1.json");
    Foreign(world.client())
        .run(&["--check", vectors.to_str().expect("a path in UTF-8")])
        .success()
        .says("byte for byte");
}
