//! A right is checked when it is used: a grant ends with what it followed from.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;

use e2e::door::{MQTTS, broker4, write_private};
use e2e::{Door, Echo, Settings, State, World};

/// Adds a line to a client's entry.
fn add(door: &Door<'_>, name: &str, line: &str) {
    let file = door.clients().join(format!("{name}.toml"));
    let entry = fs::read_to_string(&file).expect("read an entry");
    write_private(&file, &format!("{entry}{line}\n"));
}

#[test]
fn a_grant_ends_with_its_clients_entry_and_with_the_networks_that_it_was_from() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let (guest, device) = (door.enrol("guest"), door.enrol("press-17"));
    let _daemon = door.ready();
    let end = jiff::Timestamp::now().as_second() + 20;
    let end = jiff::Timestamp::from_second(end).expect("a time").to_string();
    add(&door, "guest", &format!("expires = {end}"));
    door.run(&["reload"]).success();
    guest.opens(&["--open-for", "600s"]);
    let grants = door.grants();
    assert!(grants[0]["remaining-s"].as_u64() <= Some(20), "{grants:?}");
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    device.opens(&["--open-for", "600s"]);
    add(&door, "press-17", "from = [\"10.9.0.0/16\"]");
    door.run(&["reload"]).success();
    assert!(door.grants().is_empty());
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}
