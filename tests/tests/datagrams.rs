//! Datagrams that a key holder can make and that open nothing: each field wrong alone.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Door, Echo, Foreign, Settings, State, World};

#[test]
fn an_authentic_packet_with_any_field_malformed_is_refused_by_name_and_opens_nothing() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let malformed: [&[&str]; 13] = [
        &["--action", "0"],
        &["--action", "3"],
        &["--flags", "2"],
        &["--flags", "128"],
        &["--reserved", "1"],
        &["--service=-mqtts"],
        &["--service", "MQTTS"],
        &["--service", "mq tts"],
        &["--address", "00000000000000000000ffff00000000"],
        &["--address", "224.0.0.1"],
        &["--address", "127.0.0.1"],
        &["--address", "fe80::1"],
        &["--day", "20000"],
    ];
    for (sent, options) in malformed.iter().enumerate() {
        Foreign(world.client()).knock(&device, options);
        let is_of_another_day = options[0] == "--day";
        let told = ["source=10.77.0.2", "reason=\"unknown-tag\""];
        if is_of_another_day { daemon.tells(&told) } else { daemon.refuses("malformed", sent + 1) }
    }
    daemon.tells(&["client=press-17", "reason=\"malformed\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(daemon.granted(), 0);
}

#[test]
fn a_packet_with_one_bit_flipped_is_a_strangers_and_opens_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    // Tag, nonce, sealed request and mac: the first bit of each, and the last of all.
    for (at, reason) in [
        ("0", "unknown-tag"),
        ("64", "bad-mac"),
        ("160", "bad-mac"),
        ("672", "bad-mac"),
        ("927", "bad-mac"),
    ] {
        Foreign(world.client()).knock(&device, &["--flip", at]);
        daemon.tells(&["DEBUG", "source=10.77.0.2", &format!("reason=\"{reason}\"")]);
    }
    daemon.refuses("bad-mac", 4);
    assert_eq!(daemon.granted(), 0);
}

#[test]
fn a_packet_cut_or_extended_opens_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let packet = Foreign(world.client()).datagram(&device, &[]);
    let longer = format!("{packet}00");
    for wrong in ["", &packet[..2], &packet[..230], &longer, &packet.repeat(2)] {
        world.client().send_udp(broker4(&world), KNOCK_PORT, wrong);
    }
    // What is whole passes: the wrong ones before it were all seen.
    world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    daemon.tells(&["client=press-17", "decision=\"granted\""]);
    assert_eq!(daemon.granted(), 1);
}

#[test]
fn a_packet_for_another_realm_means_nothing_here() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    Foreign(world.client()).knock(&device, &["--realm", "elsewhere"]);
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    assert_eq!(daemon.granted(), 0);
}

#[test]
fn an_address_other_than_the_source_is_refused_and_both_are_told() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    for other in ["10.77.0.3", "fd77::2", "8.8.8.8"] {
        Foreign(world.client()).knock(&device, &["--address", other]);
        daemon.tells(&["reason=\"address-mismatch\"", other, "10.77.0.2"]);
    }
    assert_eq!(door.grants().len(), 0);
}
