//! A real mosquitto with TLS and a password, behind the door.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{MQTTS, broker4};
use e2e::{Door, Mosquitto, Settings, State, World};

#[test]
fn a_subscriber_and_a_publisher_exchange_a_qos_1_and_a_retained_message_through_the_door() {
    let world = World::new();
    let mut mosquitto = Mosquitto::start(world.broker());
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    assert!(!mosquitto.publish(world.client(), "press/17", "before", &["-W", "1"]));

    device.knock(world.client(), &["--wait=20s", "--open-for", "8s"]).success();
    let mut subscriber = mosquitto.subscribe(world.client(), "press/#");
    assert!(mosquitto.publish(world.client(), "press/17", "hello", &[]));
    subscriber.wait_for("got [0] press/17: hello");
    assert!(mosquitto.publish(world.client(), "press/state", "running", &["--retain"]));
    subscriber.wait_for("got [0] press/state: running");
    let mut latecomer = mosquitto.subscribe(world.client(), "press/state");
    latecomer.wait_for("got [1] press/state: running");

    door.wait_until_over();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(world.client().tcp(world.broker().v6(), MQTTS), State::Filtered);
    assert!(mosquitto.publish(world.broker(), "press/17", "still there?", &[]));
    subscriber.wait_for("got [0] press/17: still there?");
    assert!(mosquitto.is_running());
}
