//! The door: shut to all, opened by a knock for one address and for a while.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{MQTTS, broker4};
use e2e::{Door, Echo, Host, Settings, State, Talk, World};

/// A world where the broker's port is served and guarded.
fn guarded<'w>(world: &'w World, settings: &Settings<'_>) -> (Echo, Door<'w>) {
    (Echo::start(world.broker(), &["tcp/8883", "tcp/1883", "udp/5683"]), Door::new(world, settings))
}

const CUT: Settings<'_> = Settings { tables: "[grant]\nsessions = \"cut\"", ..MQTT };
const MQTT: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "",
};
const THREE_PORTS: Settings<'_> = Settings {
    services: "[[service]]\nname = \"mqtt\"\nports = [\"tcp/8883\", \"tcp/1883\"]\n\
               [[service]]\nname = \"coap\"\nports = [\"udp/5683\"]\n",
    ..MQTT
};

#[test]
fn a_knock_opens_the_port_for_its_sender_alone_and_only_for_its_time() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &MQTT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let broker = broker4(&world);
    assert_eq!(world.client().nmap(broker, MQTTS), State::Filtered);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);

    device.opens(&["--open-for", "8s"]);
    assert_eq!(world.client().nmap(broker, MQTTS), State::Open);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);

    door.wait_until_over();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Filtered);
    assert_eq!(world.client().nmap(broker, MQTTS), State::Filtered);
}

#[test]
fn a_knock_over_ipv6_opens_the_port_for_its_sender_alone_and_only_for_its_time() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &MQTT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let broker = world.broker().v6();
    assert_eq!(world.client().nmap(broker, MQTTS), State::Filtered);

    device.knock(world.client(), &["-6", "--wait=20s", "--open-for", "6s"]).success();
    assert_eq!(world.client().nmap(broker, MQTTS), State::Open);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Filtered);
}

#[test]
fn a_name_with_both_addresses_is_knocked_at_both() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &MQTT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.knock(world.client(), &["--wait=20s"]).success();
    for address in [world.broker().v4(), world.broker().v6()] {
        world.client().tcp_until(address, MQTTS, State::Open);
    }
}

#[test]
fn an_established_session_lives_on_after_the_grant_where_sessions_are_kept() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &MQTT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "2s"]);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    session.works();
}

#[test]
fn an_established_session_ends_with_the_grant_where_sessions_are_cut() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &CUT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "4s"]);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    session.is_dead();
}

#[test]
fn one_knock_opens_all_services_of_the_client_with_all_their_ports() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &THREE_PORTS);
    let both = ["--service", "mqtt", "--service", "coap"];
    let device = door.enrol_with("press-17", &both);
    let _daemon = door.ready();
    device.knock(world.client(), &["-4", "--wait=20s", "--port", "tcp/8883"]).success();
    let broker = broker4(&world);
    assert_eq!(world.client().nmap(broker, MQTTS), State::Open);
    assert_eq!(world.client().nmap(broker, 1883), State::Open);
    Talk::udp(world.client(), broker, 5683, None).works();
    assert_eq!(world.attacker().nmap(broker, 1883), State::Filtered);
    Talk::udp(world.attacker(), broker, 5683, None).is_dead();
}

#[test]
fn a_knock_for_one_service_opens_no_other() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &THREE_PORTS);
    let device = door.enrol_with("press-17", &["--service", "mqtt", "--service", "coap"]);
    let _daemon = door.ready();
    device.opens(&["--service", "mqtt", "--port", "tcp/1883"]);
    Talk::udp(world.client(), broker4(&world), 5683, None).is_dead();
}

#[test]
fn a_client_opens_no_service_that_is_not_its_own() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &THREE_PORTS);
    let device = door.enrol_with("press-17", &["--service", "coap"]);
    let daemon = door.ready();
    device.knock(world.client(), &["-4", "--service", "mqtt"]).success();
    daemon.refuses("service-not-allowed", 1);
    assert_eq!(world.client().tcp(broker4(&world), 1883), State::Filtered);
}

#[test]
fn a_client_knocks_from_its_own_networks_only() {
    let world = World::new();
    let (_echo, door) = guarded(&world, &MQTT);
    let options = ["--service", "mqtts", "--from", "10.77.0.2/32"];
    let device = door.enrol_with("press-17", &options);
    let daemon = door.ready();
    device.knock(world.attacker(), &["-4"]).success();
    daemon.refuses("network-not-allowed", 1);
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    device.opens(&[]);
}

#[test]
fn allowed_networks_and_interfaces_and_the_host_itself_need_no_knock() {
    let world = World::with(&["broker", "client", "attacker", "friend"]);
    let inner = world.behind_broker();
    let tables =
        "[allow]\ninterfaces = [\"inner\"]\nnetworks = [\"10.77.0.4/32\", \"fd77::4/128\"]";
    let (_echo, door) = guarded(&world, &Settings { tables, ..MQTT });
    door.run(&["firewall", "install"]).success();
    let friend = world.host("friend");
    let open = |from: Host<'_>, address| assert_eq!(from.tcp(address, MQTTS), State::Open);
    open(friend, world.broker().v4());
    open(friend, world.broker().v6());
    open(inner, world.broker().v4());
    open(world.broker(), world.broker().v4());
    open(world.broker(), "127.0.0.1".parse().unwrap());
    open(world.broker(), "::1".parse().unwrap());
    assert_eq!(world.attacker().tcp(world.broker().v4(), MQTTS), State::Filtered);
    assert_eq!(world.attacker().tcp(world.broker().v6(), MQTTS), State::Filtered);
}

#[test]
fn a_port_published_by_destination_nat_is_guarded_as_docker_publishes_ports() {
    let world = World::new();
    let container = world.container(MQTTS);
    let _echo = Echo::start(container, &["tcp/8883"]);
    let broker = broker4(&world);
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open, "published, before the door");
    let door = Door::new(&world, &MQTT);
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    assert_eq!(world.client().nmap(broker, MQTTS), State::Filtered);
    device.opens(&["--open-for", "4s"]);
    assert_eq!(world.attacker().nmap(broker, MQTTS), State::Filtered);
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Filtered);
}

#[test]
fn a_service_routed_behind_the_host_is_guarded_by_its_address() {
    let world = World::new();
    let inner = world.behind_broker();
    let _echo = Echo::start(inner, &["tcp/8883", "tcp/22"]);
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    to = [\"10.78.0.2\", \"fd78::2\"]\n";
    let door = Door::new(&world, &Settings { services, ..MQTT });
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let inside = ["10.78.0.2", "fd78::2"].map(|address| address.parse().unwrap());
    for address in inside {
        assert_eq!(world.client().tcp(address, MQTTS), State::Filtered);
        assert_eq!(world.client().tcp(address, 22), State::Open, "no service of the door");
    }
    device.knock(world.client(), &[]).success();
    for address in inside {
        world.client().tcp_until(address, MQTTS, State::Open);
        assert_eq!(world.attacker().tcp(address, MQTTS), State::Filtered);
    }
}
