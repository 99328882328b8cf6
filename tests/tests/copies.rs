//! Copies of a knock, wherever and whenever they arrive: one of them opens, once.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::net::IpAddr;

use e2e::door::{AHEAD, KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::{Daemon, Device, Door, Echo, Foreign, Settings, State, World};

const SETTINGS: Settings<'_> = Settings {
    skew: WIDE,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "",
};

/// A second address of the broker's host.
const OTHER: &str = "10.77.0.101";

/// A packet of the client's that the daemon would accept; short-lived, so that its end is soon seen.
fn packet(world: &World, device: &Device<'_>, more: &[&str]) -> String {
    let options = [&AHEAD[..], &["--open-for", "2"], more].concat();
    Foreign(world.client()).datagram(device, &options)
}

/// Waits until the packet has been granted once and refused as replayed once.
fn is_granted_once(daemon: &Daemon) {
    daemon.refuses("replayed", 1);
    e2e::until("one is granted", || daemon.granted() == 1);
}

#[test]
fn of_two_copies_in_one_batch_one_opens() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let packet = packet(&world, &device, &[]);
    daemon.frozen(|| {
        for _ in 0..2 {
            world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
        }
    });
    is_granted_once(&daemon);
}

/// Copies to two addresses at the same moment, where the daemon listens at these.
fn of_copies_to_two_addresses_one_opens(listen: &str, address: &str, to: [IpAddr; 2]) {
    let world = World::new();
    world.broker().run(&["ip", "addr", "add", &format!("{OTHER}/24"), "dev", "eth0"]).success();
    let door = Door::new(&world, &SETTINGS);
    door.set("listen", listen);
    let device = door.enrol_with("press-17", &["--service", "mqtts", "--address", "observed"]);
    let daemon = door.ready_for_ahead();
    let packet = packet(&world, &device, &["--address", address]);
    daemon.frozen(|| {
        for to in to {
            world.client().send_udp(to, KNOCK_PORT, &packet);
        }
    });
    is_granted_once(&daemon);
    assert_eq!(door.grants().len(), 1);
}

#[test]
fn of_copies_to_two_listening_addresses_at_the_same_moment_one_opens() {
    let listen = format!("[\"10.77.0.1:{KNOCK_PORT}\", \"{OTHER}:{KNOCK_PORT}\"]");
    let to = ["10.77.0.1", OTHER].map(|to| to.parse().unwrap());
    of_copies_to_two_addresses_one_opens(&listen, "10.77.0.2", to);
}

#[test]
fn of_copies_over_ipv4_and_ipv6_at_the_same_moment_one_opens_for_one_address() {
    let listen = format!("[\"0.0.0.0:{KNOCK_PORT}\", \"[::]:{KNOCK_PORT}\"]");
    let to = ["10.77.0.1", "fd77::1"].map(|to| to.parse().unwrap());
    of_copies_to_two_addresses_one_opens(&listen, "observed", to);
}

#[test]
fn a_close_sent_again_does_not_shut_what_was_opened_since() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let open = || packet(&world, &device, &["--open-for", "600"]);
    let close = packet(&world, &device, &["--action", "2"]);
    let send = |packet: &str| world.client().send_udp(broker4(&world), KNOCK_PORT, packet);
    send(&open());
    send(&close);
    daemon.tells(&["decision=\"closed\""]);
    send(&open());
    send(&close);
    daemon.refuses("replayed", 1);
    assert_eq!(door.grants().len(), 1);
}

#[test]
fn a_replay_opens_nothing_after_a_reload_nor_after_its_client_was_away() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let packet = packet(&world, &device, &[]);
    let send = || world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    send();
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    door.wait_until_over();

    door.enrol("press-18");
    daemon.reload();
    daemon.tells(&["clients: 1 added, 0 changed, 0 removed"]);
    send();
    daemon.refuses("replayed", 1);

    let entries = fs::read_dir(door.clients()).expect("list").flatten();
    let mut entries = entries.map(|entry| entry.path());
    let entry = entries.find(|path| path.ends_with("press-17.toml")).expect("an entry");
    let away = world.dir().join("away.toml");
    fs::rename(&entry, &away).expect("move an entry away");
    daemon.reload();
    daemon.tells(&["clients: 0 added, 0 changed, 1 removed"]);
    fs::rename(&away, &entry).expect("move an entry back");
    daemon.reload();
    e2e::until("the client is back", || daemon.log().matches("clients: 1 added").count() == 2);
    send();
    daemon.refuses("replayed", 2);
    assert_eq!(door.grants().len(), 0);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_packet_that_opened_one_gateway_opens_no_other_with_a_realm_of_its_own() {
    let world = World::with(&["broker", "client", "friend"]);
    let (one, other) = (world.broker(), world.host("friend"));
    let _echoes = [one, other].map(|host| Echo::start(host, &["tcp/8883"]));
    let doors = [one, other].map(|host| Door::on(host, &SETTINGS));
    let device = doors[0].enrol("press-17");
    for entry in fs::read_dir(doors[0].clients()).expect("list").flatten() {
        fs::copy(entry.path(), doors[1].clients().join(entry.file_name())).expect("copy an entry");
    }
    doors[1].set("realm", "\"plant-2\"");
    let daemons = doors.each_ref().map(Door::ready_for_ahead);
    for (realm, opened, shut) in [("", 0, 1), ("plant-2", 1, 0)] {
        let packet = packet(&world, &device, &["--realm", realm, "--open-for", "600"]);
        for host in [one, other] {
            world.client().send_udp(host.v4(), KNOCK_PORT, &packet);
        }
        e2e::until("one gateway opens", || daemons[opened].granted() == 1);
        daemons[shut].refuses("unknown-tag", 1);
        assert_eq!(daemons[opened].granted(), 1);
    }
    for host in [one, other] {
        assert_eq!(world.client().tcp(host.v4(), MQTTS), State::Open, "{}", host.name());
    }
}
