//! What the kernel does about junk before the daemon wakes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::KNOCK_PORT;
use e2e::table::{counted, elements};
use e2e::{Capture, Door, Echo, Flood, Settings, World, binaries, until};

/// How many tags the kernel lets past.
fn tags(world: &World) -> usize {
    elements(world, "tags").len()
}

fn junk(world: &World, count: &str) {
    let packet = binaries::path("packet");
    let to = format!("{}:62201", world.broker().v4());
    let junk = [&packet, "udp", "--to", &to, "--size", "116", "--count", count];
    world.attacker().run(&junk).success();
}

#[test]
fn junk_beyond_the_budget_is_dropped_by_the_kernel_and_a_knock_behind_it_opens() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let settings = Settings { tables: "[prefilter]\njunk-budget = 10\n", ..Settings::default() };
    let door = Door::new(&world, &settings);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    until("far more came than the budget lets through", || {
        junk(&world, "1000");
        counted(&world, "knock", "the junk budget") > 500
    });
    let before = counted(&world, "knock", "a client's tag: always through");
    device.opens(&[]);
    assert!(counted(&world, "knock", "a client's tag: always through") > before);
}

#[test]
fn a_flood_with_a_sniffed_tag_fills_no_connection_table_and_a_repeated_knock_opens() {
    const FLOOD: u64 = 100_000;
    let world = World::new();
    world.crowd();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    // Packets wait behind those that came before them, and age: as little as any skew in use.
    let door = Door::new(&world, &Settings { skew: 5, ..Settings::default() });
    let device = door.enrol("press-17");
    let _daemon = door.ready_as_installed();
    let capture = Capture::on_the_wire(&world, KNOCK_PORT);
    device.opens(&["--open-for", "1s"]);
    let packet = capture.first_payload();
    drop(capture);
    door.wait_until_over();

    let (tag, count) = (&packet[..16], FLOOD.to_string());
    let flood = ["--sources", "4000000", "--begins", tag, "--count", &count, "--rate", "20000"];
    let tracked = world.broker().connections_tracked();
    let arrived = || counted(&world, "knock", "a client's tag: always through");
    let mut flood = Flood::start(&world, &flood);
    until("the flood is in full spate", || arrived() > FLOOD / 10);
    assert!(flood.goes_on());
    // What the socket has no room for is lost, a knock as well: one of some is not.
    device.opens(&["--repeat", "30"]);
    assert_eq!(flood.sent(), FLOOD);
    assert!(arrived() > FLOOD);
    // The client's own connections, and no more.
    let more = world.broker().connections_tracked().saturating_sub(tracked);
    assert!(more < 50, "{more} connections more are tracked");
}

#[test]
fn where_the_filter_is_off_junk_reaches_the_daemon() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let settings = Settings { tables: "[prefilter]\nmode = \"off\"\n", ..Settings::default() };
    let door = Door::new(&world, &settings);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    junk(&world, "50");
    daemon.refuses("unknown-tag", 50);
    device.opens(&[]);
    assert_eq!(tags(&world), 0);
}

#[test]
fn the_tag_of_a_client_that_a_reload_brings_is_let_past_at_once() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let daemon = door.ready();
    // Near midnight a client has the tags of two days there.
    let one = tags(&world);
    assert!((1..=2).contains(&one), "{one}");
    door.enrol("press-18");
    daemon.reload();
    until("the second client's tag is there", || tags(&world) > one);
}
