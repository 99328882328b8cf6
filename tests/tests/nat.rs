//! Devices behind network address translation.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use e2e::door::{MQTTS, broker4};
use e2e::process::Process;
use e2e::{Device, Door, Echo, Host, Settings, State, Talk, World, binaries, until};
use nix::sys::signal::Signal;

const OBSERVED: [&str; 4] = ["--service", "mqtts", "--address", "observed"];

fn keep(device: &Device<'_>, host: Host<'_>, says: &str) -> Process {
    let (knock, profile) = (binaries::path("knock"), device.profile().display().to_string());
    let mut keeper =
        host.spawn(&[&knock, "--config", &profile, "-4", "--keep", "--open-for", "6s"], &[]);
    keeper.wait_for(says);
    keeper
}

#[test]
fn of_two_devices_behind_one_address_one_closes_and_the_others_door_stays_and_is_renewed() {
    let world = World::with(&["broker", "attacker", "home"]);
    let (lamp, heater) = world.behind_nat();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = "[grant]\nsessions = \"cut\"";
    let door = Door::new(&world, &Settings { tables, ..Settings::default() });
    let (lamps, heaters) =
        (door.enrol_with("lamp", &OBSERVED), door.enrol_with("heater", &OBSERVED));
    let daemon = door.ready();
    let mut of_lamp = keep(&lamps, lamp, "kept open");
    // Open already, by the other's knock: what accepts it shows nothing of this device's own.
    let mut of_heater = keep(&heaters, heater, "knocking on");
    let owners = || {
        let grants = door.grants();
        assert!(grants.iter().all(|grant| grant["address"] == "10.77.0.5"), "{grants:?}");
        grants.len()
    };
    assert_eq!(owners(), 2);
    let mut session = Talk::tcp(heater, broker4(&world), MQTTS, None);
    session.works();

    of_lamp.signal(Signal::SIGTERM);
    assert_eq!(of_lamp.wait().code(), Some(0));
    daemon.tells(&["client=lamp", "decision=\"closed\""]);
    let of_heater_alone =
        || daemon.log().lines().filter(|line| line.contains("client=heater")).count();
    let before = of_heater_alone();
    until("the heater's is renewed 4 times", || of_heater_alone() >= before + 4);
    session.works();
    assert_eq!(owners(), 1);

    of_heater.signal(Signal::SIGTERM);
    assert_eq!(of_heater.wait().code(), Some(0));
    daemon.tells(&["client=heater", "decision=\"closed\""]);
    assert_eq!(heater.tcp(broker4(&world), MQTTS), State::Filtered);
    assert!(!daemon.has_told(&["decision=\"refused\""]));
}

#[test]
fn a_strict_profile_behind_nat_is_warned_before_it_knocks_at_a_public_server_and_an_observed_one_gets_in()
 {
    let world = World::with(&["broker", "attacker", "home"]);
    let (lamp, _) = world.behind_nat();
    // Addresses for documentation (RFC 5737) stand for the internet.
    world.ip(Some("broker"), "addr add 203.0.113.1/24 dev eth0");
    world.ip(Some("home"), "addr add 203.0.113.5/24 dev eth0");
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let (strict, observed) = (door.enrol("strict"), door.enrol_with("observed", &OBSERVED));
    let daemon = door.ready();
    let server = ["--server", "203.0.113.1", "--json"];

    let dry = strict.knock(lamp, &[&server[..], &["--dry-run"]].concat()).success();
    let dry = dry.says("warning: the packet to 203.0.113.1 names 192.168.7.11").json();
    assert!(dry["warnings"][0].as_str().is_some_and(|text| text.contains("--address observed")));
    assert!(!daemon.has_told(&["client=strict"]));

    let answer = strict.knock(lamp, &server).success();
    assert_eq!(answer.json()["warnings"].as_array().map(Vec::len), Some(1), "{answer}");
    daemon.tells(&["client=strict", "source=203.0.113.5", "reason=\"address-mismatch\""]);

    let answer = observed.knock(lamp, &[&server[..], &["--wait=20s"]].concat()).success();
    assert_eq!(answer.json()["warnings"].as_array().map(Vec::len), Some(0), "{answer}");
    assert_eq!(answer.stderr, "");
    assert_eq!(door.grants()[0]["address"], "203.0.113.5");
}
