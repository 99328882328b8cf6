//! Packets that claim to come from somebody else.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::net::{IpAddr, SocketAddr};

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::{Capture, Door, Echo, Foreign, Settings, State, World};

/// Sends a datagram from the attacker's host with this source.
fn send_as(world: &World, source: IpAddr, hex: &str) {
    let to = if source.is_ipv4() { world.broker().v4() } else { world.broker().v6() };
    let (from, to) = (SocketAddr::new(source, 40_000), SocketAddr::new(to, KNOCK_PORT));
    world.attacker().packet(&[
        "udp",
        "--from",
        &from.to_string(),
        "--to",
        &to.to_string(),
        "--hex",
        hex,
    ]);
}

#[test]
fn a_sniffed_knock_sent_again_in_its_devices_name_opens_nothing() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: 20, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let capture = Capture::on_the_wire(&world, KNOCK_PORT);
    Foreign(world.client()).knock(&device, &["--clock-offset", "19", "--open-for", "2"]);
    let packet = capture.first_payload();
    e2e::until("the genuine one opens", || daemon.granted() == 1);
    door.wait_until_over();
    send_as(&world, world.client().v4(), &packet);
    daemon.refuses("replayed", 1);
    assert_eq!(door.grants().len(), 0);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_knock_held_back_and_delivered_by_somebody_else_opens_for_its_device_alone() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let packet = Foreign(world.client()).datagram(&device, &[]);
    send_as(&world, world.client().v4(), &packet);
    daemon.tells(&["source=10.77.0.2", "decision=\"granted\""]);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn junk_in_a_devices_name_opens_nothing_and_does_not_keep_its_knocks_out() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let tag = Foreign(world.client()).datagram(&device, &[])[..16].to_owned();
    for junk in [
        "".to_owned(),
        "00".repeat(115),
        "00".repeat(116),
        "00".repeat(117),
        tag + &"00".repeat(108),
    ] {
        for _ in 0..4 {
            send_as(&world, world.client().v4(), &junk);
        }
    }
    assert_eq!(daemon.granted(), 0);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    device.opens(&[]);
}

#[test]
fn no_door_opens_for_a_source_that_can_be_nobodys() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let daemon = door.ready();
    let knock = || Foreign(world.client()).datagram(&device, &["--address", "observed"]);
    for source in [
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "ff02::1",
        "::ffff:10.77.0.3",
        "fe80::3",
    ] {
        send_as(&world, source.parse().unwrap(), &knock());
    }
    // A source that is somebody's: whatever was sent before it has been judged.
    send_as(&world, world.attacker().v4(), &knock());
    daemon.tells(&["source=10.77.0.3", "decision=\"granted\""]);
    let grants = door.grants();
    let addresses: Vec<_> = grants.iter().map(|grant| &grant["address"]).collect();
    assert_eq!(addresses, ["10.77.0.3"], "{grants:?}");
}
