//! `knockd status`, the lists, and the events: what somebody who watches the host is told is what happened.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use e2e::door::{KNOCK_PORT, MQTTS, broker4, write_private};
use e2e::table::counted;
use e2e::{Door, Echo, Output, Settings, State, World, binaries, until};
use serde_json::Value;

const SERVICES: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                        [[service]]\nname = \"ssh\"\nports = [\"tcp/22\"]\n";
/// Lets six packets in a row reach the daemon.
const TABLES: &str = "[prefilter]\njunk-budget = 1000000\n";

fn junk(world: &World, count: &str) {
    let to = SocketAddr::new(broker4(world), KNOCK_PORT).to_string();
    world.attacker().packet(&["udp", "--to", &to, "--size", "9", "--count", count]);
}

#[track_caller]
fn status(door: &Door<'_>) -> Value {
    door.run(&["status", "--json"]).success().json()
}

/// What the kernel has dropped by a rule, as the status tells it.
#[track_caller]
fn dropped(status: &Value, chain: &str, rule: &str) -> u64 {
    let drops = status["kernel-drops"].as_array().expect("a list");
    let found = drops.iter().find(|drops| drops["chain"] == chain && drops["rule"] == rule);
    found.unwrap_or_else(|| panic!("no {rule} in {status}"))["packets"].as_u64().expect("a number")
}

/// A command that may do nothing but what any user may, and that no file of the daemon's lets in.
fn powerless(door: &Door<'_>, world: &World, args: &[&str]) -> Output {
    let (knockd, config) = (binaries::path("knockd"), door.config());
    let mut argv =
        vec!["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"];
    argv.extend([knockd.as_str(), "--config", config.to_str().expect("a path in UTF-8")]);
    argv.extend_from_slice(args);
    world.broker().run(&argv)
}

#[test]
fn status_tells_what_was_granted_refused_and_dropped_by_which_rule_in_one_screen() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: 1, services: SERVICES, tables: TABLES });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    device.knock(world.client(), &["-4", "--service", "ssh"]).success();
    junk(&world, "6");
    until("the attacker is banned", || status(&door)["bans-by-failures"] == 1);
    junk(&world, "4");
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    daemon.refuses("service-not-allowed", 1);

    let told = status(&door);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&told["clients"], &told["grants"]), (&1.into(), &1.into()), "{told}");
    assert_eq!(told["decisions"]["granted"], 1, "{told}");
    assert_eq!(told["decisions"]["banned"], 1, "{told}");
    let refused = &told["decisions"]["refused"];
    assert_eq!((&refused["malformed"], &refused["service-not-allowed"]), (&6.into(), &1.into()));
    assert_eq!(dropped(&told, "knock", "banned by its failures"), 4, "{told}");
    let by_the_gate = dropped(&told, "gate", "everybody else");
    assert!(by_the_gate > 0, "{told}");
    assert_eq!(by_the_gate, counted(&world, "gate", "everybody else"));
    assert_eq!(told["receive-buffer-drops"], 0, "{told}");
    assert_eq!(told["table"]["whole"], true, "{told}");
    assert_eq!(told["replay-memory"]["capacity"], 1_048_576, "{told}");
    assert_eq!((&told["errors"], &told["last-error"]), (&0.into(), &Value::Null), "{told}");

    let human = door.run(&["status"]).success().stdout;
    for part in ["live grants      1", "6 malformed", "4 banned by its failures (knock)", "whole"] {
        assert!(human.contains(part), "{part}: {human}");
    }
    assert!(human.lines().count() <= 24, "one screen:\n{human}");
}

#[test]
fn status_tells_of_a_table_that_was_put_right_and_of_the_last_error() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let daemon = door.start();
    world.broker().nft("delete table inet knockd");
    // While it looks at what it has put in at the start, the deletion can be found, and then be told of again.
    until("the table is put right", || {
        status(&door)["table"]["repairs"].as_u64().is_some_and(|repairs| repairs > 0)
    });
    let told = status(&door);
    assert_eq!(told["table"]["whole"], true, "{told}");
    let lacked = told["table"]["lacked"].as_str().expect("what it lacked");
    assert!(lacked.starts_with("the whole table"), "{told}");

    // One mistake, and so one error.
    write_private(&door.clients().join("wrong.toml"), "[[client]\n");
    daemon.reload();
    until("an error is told", || status(&door)["errors"] == 1);
    let told = status(&door);
    let message = told["last-error"]["message"].as_str().expect("a message");
    assert!(message.contains("wrong.toml"), "{message}");
    assert!(told["last-error"]["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{told}");
    let human = door.run(&["status"]).success().stdout;
    assert!(human.contains("errors           1, the last at "), "{human}");
}

#[test]
fn status_tells_whether_the_clock_is_synchronised_and_where_nobody_knows_it_says_so() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let _daemon = door.start();
    let synchronized = || status(&door)["clock"]["synchronized"].clone();
    assert_eq!(synchronized(), Value::Null);
    // As systemd-timesyncd has it.
    world.broker().run(&["mkdir", "-p", "/run/systemd/timesync"]).success();
    assert_eq!(synchronized(), false);
    assert!(door.run(&["status"]).success().stdout.contains("NOT synchronised"));
    world.broker().run(&["touch", "/run/systemd/timesync/synchronized"]).success();
    assert_eq!(synchronized(), true);
}

#[test]
fn who_may_talk_to_the_daemon_lists_grants_and_bans_without_any_other_right_and_who_may_not_does_not()
 {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    door.run(&["ban", "192.0.2.7", "--reason", "stolen"]).success();
    let closed = [door.state(), door.clients()];
    let set_mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set a mode");
    };
    closed.iter().for_each(|folder| set_mode(folder, 0o000));
    let grants = powerless(&door, &world, &["grants", "--json"]).success().json();
    let bans = powerless(&door, &world, &["bans", "--json"]).success().json();
    powerless(&door, &world, &["status"]).success();
    let readers = door.control().with_file_name("control-read.sock");
    [door.control(), readers].iter().for_each(|socket| set_mode(socket, 0o000));
    for command in ["grants", "bans", "status"] {
        let refused = powerless(&door, &world, &[command]).exits(77);
        assert!(refused.stderr.contains("as a member of the group knockd"), "{refused}");
    }
    closed.iter().for_each(|folder| set_mode(folder, 0o700));
    assert_eq!(grants["grants"][0]["client"], "press-17");
    assert_eq!(grants["grants"][0]["ports"][0], "tcp/8883");
    assert_eq!(
        (&bans["bans"][0]["source"], &bans["bans"][0]["reason"]),
        (&"192.0.2.7".into(), &"stolen".into())
    );

    // Without a daemon, root is told the same by the kernel and the state folder, and nobody else is.
    daemon.kill9();
    let of_files = door.run(&["grants", "--json"]).success().json();
    assert_eq!(of_files["grants"][0]["address"], grants["grants"][0]["address"]);
    let bans_of_files = door.run(&["bans", "--json"]).success().json();
    assert_eq!(bans_of_files["bans"][0]["reason"], "stolen");
    assert_ne!(powerless(&door, &world, &["bans"]).code, Some(0));
}

#[test]
fn a_table_of_an_older_configuration_is_followed_and_one_that_was_changed_is_put_right() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.start().terminate();
    door.configure(&Settings {
        services: SERVICES,
        tables: "[ban]\nscope = \"host\"\n",
        ..Settings::default()
    });
    let daemon = door.start();
    daemon.tells(&["INFO", "follows the configuration", "event=\"table-followed\""]);
    assert!(!daemon.has_told(&["event=\"table-changed\""]), "{}", daemon.log());
    daemon.terminate();

    for change in
        ["flush chain inet knockd input", "add element inet knockd protected { tcp . 99 }"]
    {
        world.broker().nft(change);
        door.configure(&Settings::default());
        let daemon = door.start();
        daemon.tells(&["WARN", "is put right", "event=\"table-changed\""]);
        assert!(!daemon.has_told(&["event=\"table-followed\""]), "{}", daemon.log());
        daemon.terminate();
    }
}

/// The fields of a line, by name, as the daemon writes them where there is no journal.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in line.split(' ') {
        if let Some((name, value)) = part.split_once('=')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            found.insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    found
}

/// The fields that each event of a kind has, by `config/EVENTS.md`.
fn documented() -> BTreeMap<String, Vec<String>> {
    let text = knockd::telemetry::catalogue::EVENTS;
    let (_, kinds) = text.split_once("## Kinds").expect("a section");
    let (kinds, _) = kinds.split_once("## Fields").expect("a section");
    let rows = kinds.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let fields = cells[2].split_whitespace().filter(|field| !field.starts_with('['));
        let names = fields.map(|field| field.trim_matches('`').to_owned()).collect();
        (cells[0].trim_matches('`').to_owned(), names)
    })
    .collect()
}

#[test]
fn every_event_of_a_story_has_the_fields_that_are_documented() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: 1, services: SERVICES, tables: TABLES });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    device.knock(world.client(), &["-4", "--service", "ssh"]).success();
    junk(&world, "7");
    daemon.tells(&["event=\"banned\"", "by=\"failures\""]);
    door.run(&["ban", "192.0.2.7", "--reason", "stolen"]).success();
    door.run(&["unban", "all"]).success();
    door.run(&["ban", &world.broker().v4().to_string()]).exits(65);
    device.knock(world.client(), &["-4", "--close"]).success();
    daemon.tells(&["event=\"closed\""]);
    door.enrol("press-18");
    daemon.reload();
    daemon.tells(&["event=\"reloaded\""]);
    write_private(&door.clients().join("wrong.toml"), "[[client]");
    daemon.reload();
    daemon.tells(&["event=\"reload-refused\""]);
    world.broker().nft("delete table inet knockd");
    daemon.tells(&["event=\"table-repaired\""]);
    let log = daemon.log();
    daemon.terminate();

    let documented = documented();
    let mut kinds: Vec<String> = Vec::new();
    let is_event = |line: &&str| line.as_bytes().first().is_some_and(u8::is_ascii_digit);
    for line in log.lines().filter(is_event) {
        let fields = fields(line);
        let kind = fields.get("event").unwrap_or_else(|| panic!("no event: {line}"));
        let expected = documented.get(kind).unwrap_or_else(|| panic!("not documented: {line}"));
        for field in expected {
            assert!(fields.contains_key(field), "no {field}: {line}");
        }
        kinds.push(kind.clone());
    }
    for kind in [
        "started",
        "restored",
        "granted",
        "refused",
        "banned",
        "ban-lifted",
        "order-failed",
        "closed",
        "reloaded",
        "reload-refused",
        "table-repaired",
    ] {
        assert!(kinds.iter().any(|told| told == kind), "no {kind} in {kinds:?}");
    }
}
