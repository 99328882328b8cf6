//! Devices' networks as they are: routers that say everything twice, names with dead addresses, proxies that accept for
//! others, two ways out.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use e2e::door::{MQTTS, broker4};
use e2e::process::Process;
use e2e::table::elements;
use e2e::{Device, Door, Echo, Host, Mosquitto, Settings, State, World, binaries, until};
use nix::sys::signal::Signal;
use serde_json::Value;

const REPLIES: Settings<'static> = Settings {
    skew: 1,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "[reply]\nenabled = true\n",
};

fn keep(device: &Device<'_>, host: Host<'_>, options: &[&str]) -> Process {
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let own = [knock.as_str(), "--config", &profile, "-4", "--keep"];
    host.spawn(&[&own[..], options].concat(), &[])
}

/// What `--check` found of a part, and how that stands.
fn leg<'r>(report: &'r Value, part: &str) -> (&'r str, &'r str) {
    let legs = report["legs"].as_array().expect("legs");
    let leg = legs.iter().find(|leg| leg["part"] == part);
    let leg = leg.unwrap_or_else(|| panic!("no {part} in {report}"));
    (leg["standing"].as_str().unwrap(), leg["what"].as_str().unwrap())
}

#[test]
fn a_default_route_that_is_set_again_brings_about_no_knock_and_another_gateway_one() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    world.ip(Some("client"), "route replace default via 10.77.0.1");
    let mut keeper = keep(&device, world.client(), &["--open-for", "600s"]);
    keeper.wait_for("kept open");
    assert_eq!(daemon.granted(), 1);
    for _ in 0..4 {
        world.ip(Some("client"), "route replace default via 10.77.0.1");
        world.ip(
            Some("client"),
            "addr change 10.77.0.2/24 dev eth0 valid_lft 3000 preferred_lft 3000",
        );
        // More than the shortest pause between two knocks; the absence of one can only be seen by waiting.
        sleep(Duration::from_millis(2_500));
    }
    assert_eq!(daemon.granted(), 1, "{}", daemon.log());
    world.ip(Some("client"), "route replace default via 10.77.0.3");
    until("it is knocked from another network", || daemon.granted() == 2);
    world.ip(Some("client"), "route replace default via 10.77.0.1");
    until("it is knocked from the first one", || daemon.granted() == 3);
}

#[test]
fn of_several_addresses_the_command_is_told_the_one_at_which_the_door_is_open() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    world.ip(
        Some("attacker"),
        "addr add 10.77.0.31/24 dev eth0\naddr add 10.77.0.32/24 dev eth0\naddr add fd77::31/64 dev eth0 nodad",
    );
    world.attacker().nft("table inet dead { chain in { type filter hook input priority 0; meta l4proto { tcp, udp } drop; }; }");
    let hosts = fs::read_to_string(world.dir().join("hosts")).expect("read the hosts");
    let dead = "10.77.0.31 several\n10.77.0.32 several\nfd77::31 several\n";
    fs::write(world.dir().join("hosts"), format!("{dead}10.77.0.1 several\n{hosts}"))
        .expect("write");
    let script = "echo \"at $KNOCK_HOST $KNOCK_ADDRESS $KNOCK_PORT $1\"";
    let line =
        ["--server", "several", "--wait=20s", "--", "sh", "-c", script, "sh", "{host}:{address}"];
    let told = device.knock(world.client(), &line).success();
    assert!(told.stdout.ends_with("at several 10.77.0.1 8883 several:10.77.0.1\n"), "{told}");
    // In the reverse order of what is alive, too: `--keep` tells its child the same.
    let line = [&["--server", "several"][..], &line[3..]].concat();
    let mut keeper = {
        let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
        let own = [knock.as_str(), "--config", &profile, "--keep"];
        world.client().spawn(&[&own[..], &line].concat(), &[])
    };
    keeper.wait_for("at several 10.77.0.1 8883 several:10.77.0.1");
    assert_eq!(keeper.wait().code(), Some(0));
}

/// Everything that a host sends to the service's port ends at a proxy of its own, which accepts for everybody.
fn behind_a_proxy(host: Host<'_>) -> Echo {
    let echo = Echo::start(host, &["tcp/9999"]);
    host.nft(
        "table inet proxy { chain out { type nat hook output priority -100; tcp dport 8883 redirect to :9999; }; }",
    );
    echo
}

#[test]
fn what_something_in_between_accepts_is_no_proof_and_a_reply_is_one() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &REPLIES);
    let (device, stranger) = (door.enrol("press-17"), door.enrol("press-18"));
    let _daemon = door.ready();
    door.run(&["client", "disable", "press-18"]).success();
    let _proxy = behind_a_proxy(world.client());

    let told = stranger.knock(world.client(), &["-4", "--wait=5s"]).success();
    assert!(told.stdout.contains("accepts at 10.77.0.1, as it did before the knock"), "{told}");
    assert!(!told.stdout.contains("open at"), "{told}");
    let told = stranger.knock(world.client(), &["-4", "--check", "--json"]).success().json();
    assert_eq!(leg(&told, "door").0, "doubtful", "{told}");
    assert!(leg(&told, "door").1.contains("before the knock"), "{told}");
    stranger.knock(world.client(), &["-4", "--wait=5s", "--reply=700ms"]).exits(75);
    let mut keeper = keep(&stranger, world.client(), &["--open-for", "9s"]);
    keeper.wait_for("accepts at 10.77.0.1, as it did before the knock");
    assert!(!keeper.stdout().contains("kept open"));
    keeper.signal(Signal::SIGTERM);
    assert_eq!(keeper.wait().code(), Some(0));

    let told =
        device.knock(world.client(), &["-4", "--wait=5s", "--reply=20s", "--json"]).success();
    assert_eq!(told.json()["open"]["proven"], true, "{told}");
    let told = device.knock(world.client(), &["-4", "--check", "--json"]).success().json();
    assert_eq!((leg(&told, "door").0, leg(&told, "reply").0), ("ok", "ok"), "{told}");
}

#[test]
fn a_second_knock_through_a_door_that_is_open_still_goes_on_and_says_what_it_does_not_show() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "60s"]).says("open at 10.77.0.1");
    let again = device.opens(&["--", "echo", "it ran"]).says("as it did before the knock");
    assert!(again.stdout.ends_with("it ran\n"), "{again}");
}

#[test]
fn a_knock_and_a_connection_that_leave_by_different_addresses_are_told_apart_by_the_reply() {
    let world = World::with(&["broker", "home"]);
    let (lamp, _) = world.behind_nat();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    world.ip(Some("home"), "addr add 10.77.0.55/24 dev eth0");
    world.host("home").nft(
        "table ip two { chain out { type nat hook postrouting priority srcnat - 5; \
         oifname eth0 meta l4proto tcp snat to 10.77.0.55; }; }",
    );
    let door = Door::new(&world, &REPLIES);
    let device = door.enrol_with("lamp", &["--service", "mqtts", "--address", "observed"]);
    let _daemon = door.ready();
    let seen = format!("the knock came from {} and is granted", world.host("home").v4());
    for line in [&["-4", "--reply=20s", "--wait=1s"][..], &["-4", "--check", "--wait=1s"]] {
        let told = device.knock(lamp, line).exits(69);
        assert!(told.stderr.contains(&seen), "{told}");
        assert!(told.stderr.contains("the connection comes from elsewhere"), "{told}");
    }
}

#[test]
fn an_address_that_the_device_has_no_more_is_found_by_check() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let line = ["-4", "--check", "--wait=300ms", "--address", "10.77.0.200", "--json"];
    let told = device.knock(world.client(), &line).exits(69).json();
    let (standing, what) = leg(&told, "address");
    assert_eq!(standing, "doubtful", "{told}");
    assert!(what.contains("no interface of this device has 10.77.0.200"), "{told}");
    assert!(what.contains("it leaves from 10.77.0.2"), "{told}");
}

#[test]
fn a_restart_of_the_brokers_host_that_forgot_the_grant_is_noticed_long_before_the_renewal() {
    let world = World::new();
    let mut echo = Some(Echo::start(world.broker(), &["tcp/8883"]));
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    // Renewals come after more than three minutes.
    let mut keeper = keep(&device, world.client(), &["--open-for", "600s"]);
    keeper.wait_for("kept open");
    daemon.kill9();
    fs::remove_dir_all(door.state()).expect("remove the state folder");
    fs::create_dir(door.state()).expect("make the state folder");
    world.broker().nft("delete table inet knockd");
    door.run(&["firewall", "install"]).success();
    let daemon = door.ready();
    until("it is granted again", || daemon.granted() >= 1);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    keeper.wait_for("shut before its time");

    // A broker that is away behind an open door is another matter, and told as that.
    let granted = daemon.granted();
    drop(echo.take());
    keeper.wait_for("connection refused, so the door is open and nothing listens behind it");
    assert_eq!(daemon.granted(), granted, "no knock mends that");
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    until("it is told that it is back", || keeper.stdout().matches("and kept open").count() >= 2);
}

#[test]
fn replies_say_how_long_grants_are_and_keep_open_what_has_no_handshake() {
    let world = World::new();
    let settings = Settings {
        services: "[[service]]\nname = \"mqtts\"\nports = [\"udp/14567\"]\n",
        tables: "[reply]\nenabled = true\n[grant]\nopen-for = \"2s\"\nmax = \"3s\"\n",
        ..REPLIES
    };
    let door = Door::new(&world, &settings);
    let device = door.enrol("press-17");
    let mut daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--reply", "--open-for", "600s"]);
    keeper.wait_for("open at 10.77.0.1 for 10.77.0.2, and kept open");
    let granted = daemon.granted();
    until("it is renewed 4 times", || {
        assert_eq!(elements(&world, "door4").len(), 1, "the door is never without its element");
        daemon.granted() >= granted + 4
    });
    daemon.terminate();
    keeper.wait_for("no reply came");
    daemon = door.ready();
    until("it is granted again", || daemon.granted() >= 1);
    keeper.signal(Signal::SIGTERM);
    assert_eq!(keeper.wait().code(), Some(0));
    daemon.tells(&["client=press-17", "decision=\"closed\""]);
    device.knock(world.client(), &["-4", "--wait"]).success();
}

#[test]
fn looks_at_the_door_leave_no_line_in_the_brokers_log() {
    let world = World::new();
    let mosquitto = Mosquitto::start(world.broker());
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let mut keeper = keep(&device, world.client(), &["--open-for", "3s"]);
    keeper.wait_for("kept open");
    let granted = daemon.granted();
    until("it is renewed 4 times, each with a look", || daemon.granted() >= granted + 4);
    assert!(mosquitto.publish(world.broker(), "press/17", "one connection", &[]));
    let log = mosquitto.log();
    assert_eq!(log.matches("New connection from 10.77.0.2").count(), 0, "{log}");
    assert!(log.contains("New connection from"), "{log}");
}
