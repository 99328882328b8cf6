//! `knock --check`: the device's half of the doctor, through a real door.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::{Door, Echo, Settings, World, until};
use serde_json::Value;

/// Each leg, and how it stands.
fn legs(report: &Value) -> Vec<(&str, &str)> {
    let legs = report["legs"].as_array().expect("legs");
    legs.iter()
        .map(|leg| (leg["part"].as_str().unwrap(), leg["standing"].as_str().unwrap()))
        .collect()
}

#[test]
fn through_a_sound_door_every_leg_is_well_and_the_last_one_is_the_open_port() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let report = device.knock(world.client(), &["--check", "--json"]).success().json();
    let legs = legs(&report);
    assert_eq!(legs.last(), Some(&("door", "ok")), "{report}");
    // The clock is the machine's own.
    assert!(legs.iter().all(|(part, standing)| *part == "clock" || *standing == "ok"), "{report}");
    // Through a door that is open still, nothing is shown of this knock.
    let again = device.knock(world.client(), &["-4", "--check"]).success();
    let again = again.says("doubtful  door");
    assert!(again.stdout.contains("as it did before the knock"), "{again}");
    device.knock(world.client(), &["--close"]).success();
    until("the door is shut", || door.grants().is_empty());
    device.knock(world.client(), &["-4", "--check"]).success().says("ok        door");
}

#[test]
fn a_knock_that_is_refused_in_silence_fails_at_the_door_and_what_to_look_at_is_told() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    door.run(&["client", "disable", "press-17"]).success();
    let failed = device.knock(world.client(), &["--check", "--wait=2s", "--json"]).exits(69).json();
    assert_eq!(legs(&failed).last(), Some(&("door", "failed")), "{failed}");
    let why = failed["error"].as_str().expect("an error");
    assert!(why.contains("knockd doctor") && why.contains("journalctl -t knockd"), "{why}");
}

#[test]
fn without_a_network_it_is_the_route_that_fails() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    for family in ["-4", "-6"] {
        world.client().run(&["ip", family, "route", "flush", "table", "main"]).success();
    }
    let failed = device.knock(world.client(), &["--check", "--json"]).exits(69).json();
    assert_eq!(legs(&failed).last(), Some(&("route", "failed")), "{failed}");
}
