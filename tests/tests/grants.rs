//! Grants: what extends them, what ends them, and that they outlive the daemon.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{MQTTS, broker4};
use e2e::until::until;
use e2e::{Door, Echo, Settings, State, Talk, World};

#[test]
fn a_second_knock_extends_a_grant() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "5s"]);
    device.opens(&["--open-for", "60s"]);
    until("the second grant is in", || daemon.granted() == 2);
    let grants = door.grants();
    assert_eq!(grants.len(), 1, "{grants:?}");
    assert!(grants[0]["remaining-s"].as_u64() > Some(20), "{grants:?}");
}

#[test]
fn a_second_knock_never_shortens_a_grant() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "60s"]);
    device.opens(&["--open-for", "1s"]);
    until("both were accepted", || daemon.granted() == 2);
    let grants = door.grants();
    assert!(grants[0]["remaining-s"].as_u64() > Some(20), "{grants:?}");
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn a_client_cannot_ask_for_more_than_the_maximum() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = "[grant]\nmax = \"40s\"";
    let door = Door::new(&world, &Settings { tables, ..Settings::default() });
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "9000s"]);
    let grants = door.grants();
    assert!(grants[0]["remaining-s"].as_u64() <= Some(40), "{grants:?}");
}

#[test]
fn close_ends_the_grant_at_once() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    device.knock(world.client(), &["-4", "--close"]).success();
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn close_leaves_the_door_open_for_a_neighbour_behind_the_same_address() {
    let world = World::with(&["broker", "attacker", "home"]);
    let (lamp, heater) = world.behind_nat();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let options = ["--service", "mqtts", "--address", "observed"];
    let lamps = door.enrol_with("lamp", &options);
    let heaters = door.enrol_with("heater", &options);
    let daemon = door.ready();
    let open = ["-4", "--wait=20s", "--open-for", "600s", "--address", "observed"];
    let close = ["-4", "--close", "--address", "observed"];

    lamps.knock(lamp, &open).success();
    heaters.knock(heater, &open).success();
    lamps.knock(lamp, &close).success();
    daemon.tells(&["client=lamp", "decision=\"closed\""]);
    assert_eq!(heater.tcp(broker4(&world), MQTTS), State::Open);
    heaters.knock(heater, &close).success();
    daemon.tells(&["client=heater", "decision=\"closed\""]);
    assert_eq!(heater.tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn a_packet_without_an_address_is_refused_unless_the_client_may_send_one() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.knock(world.client(), &["-4", "--address", "observed"]).success();
    daemon.refuses("address-mismatch", 1);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn grants_are_listed_with_names_after_kill_9_and_a_restart() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    daemon.kill9();
    let is_listed = || {
        let grants = door.grants();
        assert_eq!(grants.len(), 1, "{grants:?}");
        assert_eq!(grants[0]["client"], "press-17");
        assert_eq!(grants[0]["address"], "10.77.0.2");
        assert_eq!(grants[0]["service"], "mqtts");
        assert_eq!(grants[0]["ports"][0], "tcp/8883");
        assert!(grants[0]["remaining-s"].as_u64() > Some(500), "{grants:?}");
    };
    is_listed();
    let daemon = door.start();
    is_listed();
    daemon.terminate();
    is_listed();
    door.run(&["grants"]).success().says("press-17");
}

#[test]
fn a_grant_ends_on_time_with_the_daemon_killed_and_never_opens_to_anyone_else() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let broker = broker4(&world);
    device.opens(&["--open-for", "6s"]);
    daemon.kill9();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Filtered);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);
}

#[test]
fn sigterm_and_a_restart_leave_the_door_as_it_was() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let broker = broker4(&world);
    device.opens(&["--open-for", "600s"]);
    let mut session = Talk::tcp(world.client(), broker, MQTTS, None);
    session.works();
    daemon.terminate();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open);
    assert_eq!(world.attacker().tcp(broker, MQTTS), State::Filtered);
    let _daemon = door.start();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open);
    assert_eq!(world.attacker().tcp(broker, MQTTS), State::Filtered);
    session.works();
}

#[test]
fn every_decision_is_one_event_with_the_same_fields() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "60s"]);
    let granted = ["client=press-17", "source=10.77.0.2", "service=mqtts"];
    daemon.tells(&[&granted[..], &["decision=\"granted\"", "expires="]].concat());
    device.knock(world.client(), &["-4", "--address", "10.77.0.9"]).success();
    let refused = ["client=press-17", "source=10.77.0.2", "decision=\"refused\""];
    daemon.tells(&[&refused[..], &["reason=\"address-mismatch\"", "10.77.0.9"]].concat());
    world.attacker().send_udp(broker4(&world), 62201, &"00".repeat(116));
    daemon.tells(&["DEBUG", "source=10.77.0.3", "reason=\"unknown-tag\""]);
}
