//! Datagrams that a key holder can make and that open nothing: each field wrong alone.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::time::Duration;

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Door, Echo, Foreign, Settings, State, World};

#[test]
fn an_authentic_packet_with_any_field_malformed_is_refused_by_name_and_opens_nothing() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    Foreign(world.client()).knock(&device, &["--day", "20000"]);
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    let malformed: [&[&str]; 12] = [
        &["--action", "0"],
        &["--action", "3"],
        &["--flags", "2"],
        &["--flags", "128"],
        &["--reserved", "1"],
        &["--reserved", "256"],
        &["--service=-mqtts"],
        &["--service", "MQTTS"],
        &["--service", "mq tts"],
        &["--service", "mqtts\\0x"],
        &["--service", "\\0mqtts"],
        &["--service", "m\ngranted"],
    ];
    for (sent, options) in (1..).zip(malformed) {
        Foreign(world.client()).knock(&device, options);
        daemon.refuses("malformed", sent);
    }
    daemon.tells(&["client=press-17", "reason=\"malformed\""]);
    assert!(
        !daemon.log().lines().any(|line| line.starts_with("granted")),
        "a line of the device's own"
    );
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(daemon.granted(), 0);
}

#[test]
fn an_address_in_the_packet_that_is_no_hosts_is_malformed_and_opens_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let no_hosts = [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::1",
        "fe80::2",
        "ff02::1",
        "ff0e::1",
    ];
    for (sent, address) in (1..).zip(no_hosts) {
        Foreign(world.client()).knock(&device, &["--address", address]);
        daemon.refuses("malformed", sent);
    }
    // The client's own, in other words than the protocol's: another address, and not the source.
    for (sent, address) in (1..).zip(["::10.77.0.2", "64:ff9b::10.77.0.2", "2002:a4d:2::"]) {
        Foreign(world.client()).knock(&device, &["--address", address]);
        daemon.refuses("address-mismatch", sent);
    }
    assert_eq!((daemon.granted(), door.grants().len()), (0, 0));
}

#[test]
fn a_packet_under_the_tag_of_another_client_is_a_strangers_and_opens_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let (device, other) = (door.enrol("press-17"), door.enrol("press-18"));
    let daemon = door.ready();
    Foreign(world.client()).knock(&device, &["--tag-key", &other.key()]);
    Foreign(world.client()).knock(&other, &["--tag-key", &device.key()]);
    daemon.refuses("bad-mac", 2);
    assert!(!daemon.has_told(&["client="]), "nobody's name is told");
    assert_eq!((daemon.granted(), door.grants().len()), (0, 0));
}

#[test]
fn a_stamp_a_millisecond_beyond_the_skew_is_refused_and_one_a_millisecond_within_it_opens() {
    let world = World::new();
    let door = Door::new(&world, &Settings { skew: 2, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.start();
    // Stamps of up to start + skew would be refused for another reason.
    daemon.wait_out(Duration::from_secs(4));
    // On its way a packet only ages: what was too old stays so, what wasn't too new stays so.
    Foreign(world.client()).knock(&device, &["--clock-offset=-2.001"]);
    daemon.refuses("stale", 1);
    assert!(!daemon.has_told(&["forgotten"]), "it is the skew that was exceeded");
    Foreign(world.client()).knock(&device, &["--clock-offset", "1.999"]);
    daemon.tells(&["client=press-17", "decision=\"granted\""]);
    assert_eq!(daemon.granted(), 1);
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
