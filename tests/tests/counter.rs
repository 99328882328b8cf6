//! Devices without a clock: their packets carry a number that rises, and none is accepted twice, whatever is lost.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use e2e::clock::FakeClock;
use e2e::door::{AHEAD, Daemon, Device, KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::table::elements;
use e2e::{Capture, Door, Echo, Foreign, Settings, State, World, until};

/// A daemon that runs, and a device without a clock that is enrolled then, as it is done.
fn enrolled<'w>(door: &Door<'w>) -> (Daemon, Device<'w>) {
    let daemon = door.start();
    let device = door.enrol_with("sensor-3", &["--service", "mqtts", "--clock", "counter"]);
    daemon.reload();
    daemon.tells(&["1 added"]);
    (daemon, device)
}

/// Where the device has its counter, in this world.
fn counter(world: &World) -> String {
    world.dir().join("sensor-3.counter").display().to_string()
}

/// A clock that shows 1970, as that of a device does that has none.
fn none(world: &World) -> FakeClock {
    let clock = FakeClock::new(world);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    clock.show(-i64::try_from(now.as_secs()).expect("a time"));
    clock
}

#[test]
fn a_device_that_believes_it_is_1970_gets_in_by_its_counter_and_no_copy_does_even_after_kill_9() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let (daemon, device) = enrolled(&door);
    assert_eq!(elements(&world, "tags").len(), 1, "the one tag that it ever has");
    let (file, clock) = (counter(&world), none(&world));
    let own = ["-4", "--counter-file", &file];
    let knock = |more: &[&str]| device.knock_by(&clock, world.client(), &[&own, more].concat());
    knock(&["--set-counter", "0"]).success();

    let wire = Capture::on_the_wire(&world, KNOCK_PORT);
    knock(&["--wait=20s"]).success();
    let captured = wire.first_payload();
    knock(&["--close"]).success();
    until("the door is shut", || world.client().tcp(broker4(&world), MQTTS) == State::Filtered);

    let again = || world.client().send_udp(broker4(&world), KNOCK_PORT, &captured);
    again();
    daemon.refuses("counter-behind", 1);
    daemon.kill9();
    let daemon = door.start();
    again();
    world.attacker().send_udp(broker4(&world), KNOCK_PORT, &captured);
    daemon.refuses("counter-behind", 2);
    assert_eq!(daemon.granted(), 0);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    knock(&["--wait=20s"]).success();
    assert_eq!(fs::read_to_string(&file).expect("read the counter"), "3\n");
}

#[test]
fn a_device_that_lost_its_counter_is_brought_back_and_no_packet_it_ever_made_gets_in_then() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let (daemon, device) = enrolled(&door);
    let file = counter(&world);
    let own = ["-4", "--counter-file", &file];
    let knock = |more: &[&str]| device.knock(world.client(), &[&own, more].concat());
    knock(&["--set-counter", "0"]).success();
    knock(&["--wait=20s"]).success();

    // Made before the loss, and held back by somebody on the way.
    let held_back = Foreign(world.client()).datagram(&device, &["--counter", "--timestamp", "2"]);
    fs::remove_file(&file).expect("lose the counter");
    let lost = knock(&[]).exits(78);
    assert!(lost.stderr.contains("knockd client resync NAME"), "{lost}");
    // Whoever begins anew on his own is refused, and the event says what helps.
    knock(&["--set-counter", "0"]).success();
    knock(&[]).success();
    daemon.refuses("counter-behind", 1);
    daemon.tells(&["counter-behind", "knockd client resync"]);

    let answer = door.run(&["client", "resync", "sensor-3", "--json"]).success().json();
    let number = answer["counter"].as_u64().expect("a number").to_string();
    knock(&["--set-counter", &number]).success();
    world.client().send_udp(broker4(&world), KNOCK_PORT, &held_back);
    daemon.refuses("counter-behind", 2);
    let granted = daemon.granted();
    knock(&["--wait=20s"]).success();
    until("it got in", || daemon.granted() == granted + 1);
}

#[test]
fn a_daemon_that_lost_its_counters_lets_nobody_in_who_has_one_says_so_and_is_helped_by_resync() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let (daemon, device) = enrolled(&door);
    let file = counter(&world);
    let own = ["-4", "--counter-file", &file];
    let knock = |more: &[&str]| device.knock(world.client(), &[&own, more].concat());
    knock(&["--set-counter", "0"]).success();
    knock(&["--wait=20s"]).success();
    daemon.terminate();
    fs::remove_file(door.state().join("counters")).expect("lose the counters");

    // It is still so after one more start, though there is a file again.
    door.start().terminate();
    let daemon = door.start();
    daemon.tells(&["ERROR", "nothing is accepted from sensor-3", "knockd client resync NAME"]);
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!(status["counters-lost"], serde_json::json!(["sensor-3"]));
    knock(&[]).success();
    daemon.refuses("counter-lost", 1);
    let printed = door.run(&["client", "resync", "sensor-3"]).success().stdout;
    let number = printed.split_whitespace().last().expect("a number");
    knock(&["--set-counter", number]).success();
    knock(&["--wait=20s"]).success();
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!(status["counters-lost"], serde_json::json!([]));
}

#[test]
fn resync_says_what_stands_in_its_way() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    assert_eq!(door.run(&["client", "resync", "press-17"]).code, Some(69));
    let _daemon = door.start();
    door.run(&["client", "resync", "press-17"]).exits(65).says("it has a clock");
    door.run(&["client", "resync", "press-18"]).exits(66).says("knows no client press-18");
}

#[test]
fn a_clock_that_drifts_is_listed_as_last_seen_and_warned_of_before_it_shuts_the_device_out() {
    let world = World::new();
    let door = Door::new(&world, &Settings { skew: WIDE, ..Settings::default() });
    let (device, other) = (door.enrol("press-17"), door.enrol("press-18"));
    let listed = |name: &str| {
        let list = door.run(&["client", "list", "--json"]).success().json();
        let clients = list["clients"].as_array().expect("a list").clone();
        clients.into_iter().find(|client| client["name"] == name).expect("listed")
    };
    let daemon = door.ready_for_ahead();
    assert_eq!(listed("press-17").get("skew-ms"), Some(&serde_json::Value::Null));
    for _ in 0..3 {
        Foreign(world.client()).knock(&device, &AHEAD);
    }
    until("three were granted", || daemon.granted() == 3);
    let warnings = daemon.log().lines().filter(|line| line.contains("its clock is +")).count();
    assert_eq!(warnings, 1, "told once, and not with every knock");
    daemon.tells(&["WARN", "client=press-17", "beyond 20 s"]);
    let skew = listed("press-17")["skew-ms"].as_i64().expect("a skew");
    assert!((10_000..=20_000).contains(&skew), "{skew}");
    assert_eq!(listed("press-18")["skew-ms"], serde_json::Value::Null);
    assert_ne!(device.key(), other.key());
    let human = door.run(&["client", "list"]).success().stdout;
    assert!(human.lines().any(|line| line.starts_with("press-17") && line.contains("utc+1")));
}
