//! Who is banned, for what and for how long; and who never is.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::net::{IpAddr, SocketAddr};

use e2e::door::{KNOCK_PORT, MQTTS, broker4};
use e2e::flood::{forge, forge_with};
use e2e::table::{counted, elements, holds};
use e2e::{Daemon, Door, Echo, Foreign, Settings, State, World, until};

/// Lets six packets in a row reach the daemon: of junk without a tag the kernel lets through no more than five
/// in a millisecond otherwise.
const SETTINGS: Settings<'_> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "[prefilter]\njunk-budget = 1000000\n",
};

const BY_FAILURES: &str = "banned by its failures";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// So many datagrams of this many zero bytes from the attacker's own address.
fn junk(world: &World, size: &str, count: &str) {
    let to = SocketAddr::new(broker4(world), KNOCK_PORT).to_string();
    world.attacker().packet(&["udp", "--to", &to, "--size", size, "--count", count]);
}

/// How many packets of this source the daemon has refused.
fn refused(daemon: &Daemon, source: &str) -> usize {
    let source = format!("source={source} ");
    let log = daemon.log();
    let refusals = log.lines().filter(|line| line.contains("decision=\"refused\""));
    refusals.filter(|line| line.contains(&source)).count()
}

/// Waits until the daemon has dealt with all that was sent before: packets on one wire keep their order.
#[track_caller]
fn settled(world: &World, daemon: &Daemon) {
    const MARK: &str = "192.0.2.99";
    let before = refused(daemon, MARK);
    forge(world, address(MARK), 1);
    until("the daemon has seen the mark", || refused(daemon, MARK) > before);
}

fn is_banned(world: &World, source: &str) -> bool {
    let set = if source.contains(':') { "ban6" } else { "ban4" };
    holds(world, set, source)
}

#[track_caller]
fn bans(world: &World, daemon: &Daemon, source: &str) {
    daemon.tells(&["WARN", &format!("source={source}"), "decision=\"banned\"", "expires="]);
    let shown = source.split('/').next().expect("an address");
    until(&format!("{source} is banned in the kernel"), || is_banned(world, shown));
}

#[test]
fn the_sixth_failure_bans_and_the_fifth_does_not_and_packets_of_any_length_count() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    door.enrol("press-17");
    let daemon = door.ready();
    for (sent, size) in ["0", "1", "115", "117", "1400"].iter().enumerate() {
        junk(&world, size, "1");
        daemon.refuses("malformed", sent + 1);
    }
    assert_eq!(elements(&world, "ban4"), [], "five failures are tolerated");
    junk(&world, "60000", "1");
    bans(&world, &daemon, "10.77.0.3");
    let left = elements(&world, "ban4")[0].1;
    assert!((6 * 3_600 - 60..=6 * 3_600).contains(&left), "{left} s are left of six hours");

    // From here on its junk ends in the kernel, whatever its length, and nobody else's does.
    for size in ["0", "1", "115", "116", "117", "1400"] {
        junk(&world, size, "5");
    }
    settled(&world, &daemon);
    assert_eq!(refused(&daemon, "10.77.0.3"), 6);
    assert_eq!(counted(&world, "knock", BY_FAILURES), 30);
}

#[test]
fn every_kind_of_failure_of_a_strangers_packet_counts() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let sniffed = Foreign(world.client()).datagram(&device, &[]);
    let spoilt = Foreign(world.client()).datagram(&device, &["--spoil-seal"]);
    for (source, begins, reason) in [
        ("198.51.100.1", "", "unknown-tag"),
        ("198.51.100.2", &sniffed[..16], "bad-mac"),
        ("198.51.100.3", &spoilt, "bad-seal"),
    ] {
        forge_with(&world, address(source), begins, 5);
        settled(&world, &daemon);
        assert!(!is_banned(&world, source), "five failures are tolerated: {reason}");
        forge_with(&world, address(source), begins, 1);
        bans(&world, &daemon, source);
        daemon.tells(&[source, &format!("reason=\"{reason}\"")]);
        assert_eq!(refused(&daemon, source), 6);
    }
}

#[test]
fn what_is_not_a_strangers_fault_is_not_counted() {
    let world = World::with(&["broker", "client", "attacker", "friend"]);
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"ssh\"\nports = [\"tcp/22\"]\n";
    let door = Door::new(&world, &Settings { services, ..SETTINGS });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let client = Foreign(world.client());
    let (broker, friend) = (broker4(&world), world.host("friend").v4());

    // A device with a wrong clock.
    client.knock(&device, &["--clock-offset", "-100", "--count", "8"]);
    daemon.refuses("stale", 8);
    // A device that writes its requests wrong.
    client.knock(&device, &["--reserved", "1", "--count", "8"]);
    daemon.refuses("malformed", 8);
    // Copies of an authentic packet, from its own source, from another one, and from a forged one.
    let genuine = client.datagram(&device, &["--open-for", "1"]);
    world.client().send_udp(broker, KNOCK_PORT, &genuine);
    daemon.tells(&["decision=\"granted\""]);
    forge_with(&world, world.client().v4(), &genuine, 8);
    daemon.refuses("replayed", 8);
    forge_with(&world, world.attacker().v4(), &genuine, 8);
    forge_with(&world, friend, &genuine, 8);
    daemon.refuses("address-mismatch", 16);
    // A client that asks for what it may not have: its admin hears of it.
    client.knock(&device, &["--service", "ssh", "--count", "8"]);
    daemon.refuses("service-not-allowed", 8);
    daemon.tells(&["WARN", "client=press-17", "service=ssh", "reason=\"service-not-allowed\""]);
    // Not even while nothing is granted to it any more.
    door.wait_until_over();
    client.knock(&device, &["--service", "ssh"]);
    daemon.refuses("service-not-allowed", 9);

    for source in [world.client().v4(), world.attacker().v4(), friend] {
        forge(&world, source, 5);
        settled(&world, &daemon);
        assert_eq!(elements(&world, "ban4"), [], "{source} had all its five failures left");
    }
}

#[test]
fn a_ban_ends_by_itself() {
    let world = World::new();
    let settings = Settings {
        tables: "[prefilter]\njunk-budget = 1000000\n[ban]\nduration = \"2s\"\n",
        ..SETTINGS
    };
    let door = Door::new(&world, &settings);
    door.enrol("press-17");
    let daemon = door.ready();
    junk(&world, "116", "6");
    bans(&world, &daemon, "10.77.0.3");
    until("the ban is over in the kernel", || elements(&world, "ban4").is_empty());
    let before = refused(&daemon, "10.77.0.3");
    junk(&world, "116", "1");
    until("the daemon hears of it again", || refused(&daemon, "10.77.0.3") > before);
}

#[test]
fn ipv6_is_banned_by_the_64_and_a_device_in_it_still_gets_in() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let to = SocketAddr::new(world.broker().v6(), KNOCK_PORT).to_string();
    let from = |source: &str| {
        let from = format!("[{source}]:999");
        world.attacker().packet(&["udp", "--to", &to, "--from", &from, "--size", "116"]);
    };
    for host in 0..6 {
        from(&format!("2001:db8:1:2:{host}::1"));
    }
    bans(&world, &daemon, "2001:db8:1:2::/64");
    from("2001:db8:1:2:ffff:ffff:ffff:ffff");
    from("2001:db8:1:3::1");
    until("its neighbour is heard", || refused(&daemon, "2001:db8:1:3::1") == 1);
    assert_eq!(counted(&world, "knock", BY_FAILURES), 1);
    assert_eq!(elements(&world, "ban6").len(), 1);

    // The client moves there.
    let batch = "addr del fd77::2/64 dev eth0\naddr add 2001:db8:1:2::2/64 dev eth0 nodad\n\
                 route add fd77::/64 dev eth0\n";
    world.client().run_with(&["ip", "-batch", "-"], &[], batch).success();
    let route = ["ip", "route", "add", "2001:db8:1:2::/64", "dev", "eth0"];
    world.broker().run(&route).success();
    device.knock(world.client(), &["-6", "--wait=20s"]).success();
    daemon.tells(&["decision=\"ban-lifted\"", "source=2001:db8:1:2::/64"]);
    assert_eq!(elements(&world, "ban6"), []);
}

#[test]
fn the_hosts_own_addresses_its_gateways_and_resolvers_and_named_networks_are_never_banned() {
    let world = World::with(&["broker", "attacker", "friend", "home"]);
    fs::write(world.dir().join("resolv.conf"), "nameserver 10.77.0.4\n").expect("write");
    let tables = "[prefilter]\njunk-budget = 1000000\n[ban]\nnever = [\"192.0.2.0/25\", \"2001:db8:7::/48\"]\n\
                  [allow]\nnetworks = [\"10.77.0.5/32\"]\n";
    let door = Door::new(&world, &Settings { tables, ..SETTINGS });
    door.enrol("press-17");
    let broker = world.broker();
    // So that a packet in the host's own name isn't dropped as one that can't be.
    broker.run(&["sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=1"]).success();
    broker.run(&["ip", "route", "add", "default", "via", "10.77.0.3"]).success();
    let daemon = door.ready();
    for never in [
        "10.77.0.1",
        "10.77.0.3",
        "10.77.0.4",
        "10.77.0.5",
        "192.0.2.7",
        "fd77::3",
        "fd77::dead:beef",
        "2001:db8:7:8::9",
    ] {
        forge(&world, address(never), 8);
        until(&format!("{never} was refused each time"), || refused(&daemon, never) == 8);
    }
    forge(&world, address("198.51.100.7"), 6);
    bans(&world, &daemon, "198.51.100.7");
    assert_eq!((elements(&world, "ban4").len(), elements(&world, "ban6").len()), (1, 0));

    // Who is a gateway no longer is spared no longer.
    broker.run(&["ip", "route", "del", "default"]).success();
    until("it is banned", || {
        junk(&world, "116", "1");
        is_banned(&world, "10.77.0.3")
    });
}

#[test]
fn bans_survive_the_daemons_end_its_start_a_reload_and_the_loss_of_the_table() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    door.enrol("press-17");
    let daemon = door.ready();
    junk(&world, "116", "6");
    bans(&world, &daemon, "10.77.0.3");
    let mut left = elements(&world, "ban4")[0].1;
    let mut still_banned = |when: &str| {
        let now = elements(&world, "ban4")[0].1;
        assert!(is_banned(&world, "10.77.0.3") && now <= left, "{when}: {now} s of {left} s");
        left = now;
        let before = counted(&world, "knock", BY_FAILURES);
        junk(&world, "116", "3");
        assert_eq!(counted(&world, "knock", BY_FAILURES), before + 3, "{when}");
    };
    door.enrol("press-18");
    daemon.reload();
    daemon.tells(&["clients=2"]);
    still_banned("after a reload");
    daemon.terminate();
    still_banned("after SIGTERM");
    let daemon = door.start();
    daemon.tells(&["grants=0 bans=1"]);
    still_banned("after a start");
    daemon.kill9();
    still_banned("after kill -9");
    door.start().kill9();
    still_banned("after a second start");
    door.run(&["firewall", "install"]).success();
    still_banned("after firewall install");
    world.broker().run(&["nft", "delete", "table", "inet", "knockd"]).success();
    let daemon = door.start();
    still_banned("after the table was lost");
    assert_eq!(refused(&daemon, "10.77.0.3"), 0);
}

#[test]
fn where_the_filter_is_off_what_has_a_knocks_length_reaches_the_daemon_and_the_rest_is_dropped() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let settings = Settings { tables: "[prefilter]\nmode = \"off\"\n", ..SETTINGS };
    let door = Door::new(&world, &settings);
    let device = door.enrol("press-17");
    let daemon = door.ready();
    forge(&world, world.client().v4(), 6);
    bans(&world, &daemon, "10.77.0.2");
    // Only the daemon can tell a key holder's packet from junk here: so it gets both.
    forge(&world, world.client().v4(), 10);
    until("the daemon has seen them", || refused(&daemon, "10.77.0.2") == 16);
    let to = SocketAddr::new(broker4(&world), KNOCK_PORT).to_string();
    for size in ["0", "115", "117", "1400"] {
        let junk = ["udp", "--to", &to, "--from", "10.77.0.2:9", "--size", size];
        world.attacker().packet(&junk);
    }
    settled(&world, &daemon);
    assert_eq!(refused(&daemon, "10.77.0.2"), 16);
    assert_eq!(counted(&world, "knock", BY_FAILURES), 4);
    device.opens(&[]);
    daemon.tells(&["decision=\"ban-lifted\"", "10.77.0.2"]);
    assert_eq!(elements(&world, "ban4"), []);
    assert_eq!(world.client().tcp(broker4(&world), 8883), State::Open);
}

#[test]
fn behind_a_translator_a_ban_of_one_address_shuts_out_no_other() {
    let world = World::new();
    let (server, one, other) = ("64:ff9b::1", "64:ff9b::c000:207", "64:ff9b::c000:208");
    for (host, address) in [("broker", server), ("client", one), ("attacker", other)] {
        world.ip(Some(host), &format!("addr add {address}/96 dev eth0 nodad"));
    }
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let _daemon = door.ready();
    let to = server.parse().expect("an address");
    let hosts = [world.client(), world.attacker()];
    for host in hosts {
        device.knock(host, &["--server", "[64:ff9b::1]", "--wait=20s"]).success();
    }
    door.run(&["ban", other]).success();
    assert_eq!(hosts.map(|host| host.tcp(to, MQTTS)), [State::Open, State::Filtered]);
    device.knock(world.client(), &["--server", "[64:ff9b::1]", "--wait=20s"]).success();
    // All of them at once are never meant.
    door.run(&["ban", "64:ff9b::/64"]).exits(65).says("64:ff9b::/96");
}
