//! A changed configuration is applied while the daemon runs: whole or not at all, and without loss.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use e2e::door::{AHEAD, MQTTS, WIDE, broker4, write_private};
use e2e::fleet::{self, Fleet, granted, held};
use e2e::table::elements;
use e2e::{Door, Echo, Foreign, Settings, State, Talk, World, until};
use serde_json::Value;

const MORE: u16 = 8884;

const MQTTS_ALONE: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";
const TWO_PORTS: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"tcp/8884\"]\n";
const TWO_SERVICES: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                            [[service]]\nname = \"more\"\nports = [\"tcp/8884\"]\n";

/// Configurations each of which differs from the one before in another way.
const KINDS: [(&str, &str); 8] = [
    (MQTTS_ALONE, "[grant]\nmax = \"2h\"\n"),
    (MQTTS_ALONE, "[ban]\nfailures = 9\nwindow = \"1h\"\nnever = [\"192.0.2.0/24\"]\n"),
    (TWO_PORTS, ""),
    (TWO_SERVICES, "[allow]\nnetworks = [\"198.51.100.0/24\"]\ninterfaces = [\"wg0\"]\n"),
    (MQTTS_ALONE, "[ban]\nscope = \"host\"\n"),
    (MQTTS_ALONE, "[prefilter]\nmode = \"off\"\n[grant]\nsessions = \"cut\"\n"),
    (MQTTS_ALONE, "[replay]\ncapacity = 2000000\nper-client = 2000000\n"),
    (MQTTS_ALONE, "[replay]\ncapacity = 2000\nper-client = 2000\n[prefilter]\njunk-budget = 7\n"),
];

#[track_caller]
fn reload(door: &Door<'_>) -> Value {
    door.run(&["reload", "--json"]).success().json()
}

fn keys(settings: &Value) -> Vec<&str> {
    let settings = settings.as_array().expect("a list");
    settings.iter().map(|setting| setting["key"].as_str().expect("a key")).collect()
}

#[track_caller]
fn configuration(door: &Door<'_>) -> Value {
    door.run(&["status", "--json"]).success().json()["configuration"].clone()
}

#[test]
fn under_a_stream_of_knocks_no_reload_of_any_kind_loses_one() {
    let world = World::new();
    let door = Door::new(&world, &fleet::settings());
    let mut fleet = Fleet::new(&door, &world, 17, 60);
    let daemon = fleet::ready(&door);
    let done = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            // Some hundred a second, until every kind has been applied under them.
            while !done.load(Ordering::Relaxed) && fleet.pairs().len() < 990 {
                fleet.knock();
                sleep(Duration::from_millis(5));
            }
        });
        for (services, tables) in KINDS {
            let settings = Settings { services, tables, ..fleet::settings() };
            door.configure(&settings);
            let answer = reload(&door);
            assert_eq!(answer["changed"], true, "{tables}: {answer}");
            door.run(&["firewall", "status"]).success();
        }
        done.store(true, Ordering::Relaxed);
    });
    let sent = fleet.pairs();
    assert!(sent.len() > 3 * KINDS.len(), "{} knocks", sent.len());
    until("every knock is granted", || {
        granted(&daemon.log()).into_iter().collect::<BTreeSet<_>>() == sent
    });
    assert_eq!(held(&door).into_keys().collect::<BTreeSet<_>>(), sent);
}

#[test]
fn a_live_grant_a_ban_a_session_and_a_remembered_packet_survive_every_kind_of_reload() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let settings = Settings { skew: WIDE, ..Settings::default() };
    let door = Door::new(&world, &settings);
    let device = door.enrol("press-17");
    let daemon = door.ready_for_ahead();
    let used = Foreign(world.client()).datagram(&device, &AHEAD);
    world.client().send_udp(broker4(&world), 62201, &used);
    until("it is in", || daemon.granted() == 1);
    device_opens_for_long(&world, &device);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    door.run(&["ban", "203.0.113.7", "--for", "1h"]).success();

    for (refusals, (services, tables)) in KINDS.iter().enumerate() {
        door.configure(&Settings { services, tables, ..settings.clone() });
        assert_eq!(reload(&door)["grants-ended"], 0, "{tables}");
        assert_eq!(door.grants()[0]["client"], "press-17", "{tables}");
        assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open, "{tables}");
        session.works();
        let bans = door.run(&["bans", "--json"]).success().json();
        assert_eq!(bans["bans"][0]["source"], "203.0.113.7", "{tables}");
        world.client().send_udp(broker4(&world), 62201, &used);
        daemon.refuses("replayed", refusals + 1);
        assert_eq!(configuration(&door)["refused"], Value::Null, "{tables}");
    }
    // And the daemon that starts by the last of them has them all.
    daemon.kill9();
    let daemon = door.start();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    world.client().send_udp(broker4(&world), 62201, &used);
    daemon.refuses("replayed", 1);
}

fn device_opens_for_long(world: &World, device: &e2e::Device<'_>) {
    let ahead = [&AHEAD[..], &["--open-for", "3600"]].concat();
    Foreign(world.client()).knock(device, &ahead);
    until("the port is open", || world.client().tcp(broker4(world), MQTTS) == State::Open);
}

#[test]
fn a_bad_main_file_or_a_bad_clients_file_is_refused_whole_and_status_tells_the_line() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/8884"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let since = configuration(&door)["since"].clone();
    let good = fs::read_to_string(door.config()).expect("read knockd.toml");
    let wrong = door.clients().join("wrong.toml");
    let bad_main = format!("{good}\n[grant]\nmax = \"1y\"\n");
    let line = 1 + bad_main.lines().position(|line| line.starts_with("max")).expect("a line");
    let bad_main_says = format!("knockd.toml:{line}: grant.max");
    let with_a_port = good.replace("\"tcp/8883\"", "\"tcp/8883\", \"tcp/8884\"");
    let bad_client = "[[client]]\nname = \"Press 18\"\n";
    let cases: [(&str, Option<&str>, &[&str]); 3] = [
        (&bad_main, None, &[&bad_main_says]),
        (&with_a_port, Some(bad_client), &["wrong.toml:2: client.name"]),
        (&bad_main, Some(bad_client), &[&bad_main_says, "wrong.toml:2: client.name"]),
    ];
    for (main, client, said) in cases {
        fs::write(door.config(), main).expect("write knockd.toml");
        match client {
            Some(client) => write_private(&wrong, client),
            None => drop(fs::remove_file(&wrong)),
        }
        let refused = door.run(&["reload"]).exits(78);
        let status = configuration(&door);
        let human = door.run(&["status"]).success().stdout;
        for said in said {
            assert!(refused.stderr.contains(said), "{said}: {refused}");
            assert!(human.contains(said), "{said}: {human}");
            let told = status["refused"]["mistakes"].as_array().expect("a list");
            let line: u64 = said.split(':').nth(1).expect("a line").parse().expect("a number");
            let is_it = |it: &Value| {
                it["line"] == line && it["text"].as_str().is_some_and(|it| it.contains(said))
            };
            assert!(told.iter().any(is_it), "{said}: {status}");
        }
        assert!(status["refused"]["since"].is_string(), "{status}");
        assert_eq!(status["since"], since, "the one in force is the one before");
        let json = door.run(&["reload", "--json"]).exits(78).json();
        assert_eq!(json["changed"], false, "{json}");
        assert!(json["refused"]["mistakes"][0]["file"].is_string(), "{json}");
        // Not a part of it counts.
        assert_eq!(world.client().tcp(broker4(&world), MORE), State::Open);
        device.opens(&[]);
    }
    daemon.reload();
    daemon.tells(&["the configuration stays as it was", "wrong.toml:2"]);
    fs::write(door.config(), good).expect("write knockd.toml");
    fs::remove_file(&wrong).expect("remove it");
    assert_eq!(reload(&door)["changed"], false);
    assert_eq!(configuration(&door)["refused"], Value::Null);
}

#[test]
fn a_port_that_a_service_gains_is_shut_at_once_and_open_to_who_is_in() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/8884"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    assert_eq!(world.attacker().tcp(broker4(&world), MORE), State::Open);
    let mut stranger = Talk::tcp(world.attacker(), broker4(&world), MORE, None);
    stranger.works();

    door.configure(&Settings { services: TWO_PORTS, ..Settings::default() });
    let answer = reload(&door);
    assert_eq!(keys(&answer["settings"]), ["service mqtts"], "{answer}");
    assert_eq!(world.attacker().tcp(broker4(&world), MORE), State::Filtered);
    stranger.is_dead();
    assert_eq!(world.client().tcp(broker4(&world), MORE), State::Open);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn a_port_that_a_service_loses_ends_its_grants_there_and_a_service_that_is_gone_all_of_its() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883", "tcp/8884"]);
    let door = Door::new(&world, &Settings { services: TWO_PORTS, ..Settings::default() });
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    assert_eq!(world.client().tcp(broker4(&world), MORE), State::Open);

    // The port is another service's from here on, which nobody may open.
    door.configure(&Settings { services: TWO_SERVICES, ..Settings::default() });
    let answer = reload(&door);
    assert_eq!(keys(&answer["settings"]), ["service more", "service mqtts"], "{answer}");
    assert_eq!(world.client().tcp(broker4(&world), MORE), State::Filtered);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);

    // A service that a client names can't go; with the client's entry it does.
    let only_more = TWO_SERVICES.split_at(TWO_SERVICES.rfind("[[").expect("a table")).1;
    door.configure(&Settings { services: only_more, ..Settings::default() });
    let refused = door.run(&["reload"]).exits(78);
    assert!(refused.stderr.contains("press-17.toml:4: client.services"), "{refused}");
    assert_eq!(door.run(&["status", "--json"]).success().json()["grants"], 1);
    let file = door.clients().join("press-17.toml");
    let entry = fs::read_to_string(&file).expect("read an entry");
    write_private(&file, &entry.replace("mqtts", "more"));
    let answer = reload(&door);
    assert_eq!(answer["grants-ended"], 1, "{answer}");
    assert!(door.grants().is_empty());
    // Nothing guards it any more.
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Open);
    assert_eq!(world.client().tcp(broker4(&world), MORE), State::Filtered);
    door.run(&["firewall", "status"]).success();
}

#[test]
fn what_takes_effect_at_a_start_alone_is_told_by_the_reload_and_by_status_and_the_rest_applies() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let tables = "[grant]\nmax = \"3s\"\nopen-for = \"3s\"\n";
    door.configure(&Settings { tables, ..Settings::default() });
    door.set("realm", "\"other\"");
    door.set("listen", "[\"[::]:62202\"]");
    let told = door.run(&["reload"]).success();
    for part in ["listen: [[::]:62202] takes effect when the daemon is restarted", "realm"] {
        assert!(told.stderr.contains(part), "{told}");
    }
    assert!(told.stdout.contains("grant.max: 3s (was 1h)"), "{told}");
    let again = reload(&door);
    assert_eq!(
        (&again["changed"], keys(&again["restart"])),
        (&false.into(), vec!["listen", "realm"])
    );
    assert_eq!(configuration(&door)["restart"], serde_json::json!(["listen", "realm"]));
    let human = door.run(&["status"]).success().stdout;
    assert!(human.contains("takes effect at a restart: listen, realm"), "{human}");
    door.run(&["check"]).success();
    // Both are as they were, and the new limit counts.
    device.knock(world.client(), &["-4", "--open-for", "600s"]).success();
    until("it is in", || door.grants().len() == 1);
    assert!(door.grants()[0]["remaining-s"].as_u64().expect("a number") <= 3);
}

#[test]
fn a_ban_ends_by_a_reload_that_never_bans_its_source_and_by_no_other() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let _daemon = door.ready();
    for source in ["198.51.100.7", "192.0.2.7"] {
        door.run(&["ban", source, "--for", "1h"]).success();
    }
    door.configure(&Settings {
        tables: "[ban]\nnever = [\"192.0.2.0/24\"]\n",
        ..Settings::default()
    });
    assert_eq!(reload(&door)["bans-lifted"], 1);
    let bans = door.run(&["bans", "--json"]).success().json();
    assert_eq!(bans["bans"].as_array().map(Vec::len), Some(1), "{bans}");
    assert_eq!(bans["bans"][0]["source"], "198.51.100.7");
}

#[test]
fn many_reloads_at_once_are_all_answered_and_each_finds_what_was_written_before_it() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let _daemon = door.ready();
    scope(|scope| {
        let enrol = |number: usize| {
            let door = &door;
            move || {
                let name = format!("press-{number}");
                door.enrol(&name);
                door.run(&["reload"]).success();
                let status = door.run(&["client", "list", "--json"]).success().json();
                assert!(status.to_string().contains(&name), "{status}");
            }
        };
        (0..8).map(|number| scope.spawn(enrol(number))).for_each(drop);
    });
    assert_eq!(door.run(&["status", "--json"]).success().json()["clients"], 8);
}

#[test]
fn without_a_daemon_a_reload_says_how_to_start_it() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.run(&["reload"]).exits(69).says("systemctl start knockd");
}

#[test]
fn more_clients_than_the_set_of_tags_has_room_for_make_a_larger_one_and_nobodys_tag_is_missing() {
    // The set has room for six tags of each client, and is at least as large as for these.
    const ROOM_FOR: usize = (1 << 18) / 6;
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let crowd = |name: &str, numbers: std::ops::Range<usize>| {
        let entry = |number: usize| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            format!(
                "[[client]]\nname = \"c{number}\"\nkey = \"{}\"\nservices = [\"mqtts\"]\n",
                data_encoding::BASE64.encode(&key)
            )
        };
        write_private(&door.clients().join(name), &numbers.map(entry).collect::<String>());
    };
    crowd("first.toml", 0..ROOM_FOR - 1);
    let daemon = door.ready();
    let size = || {
        let argv = ["nft", "--terse", "list", "set", "inet", "knockd", "tags"];
        let listing = world.broker().run(&argv).success().stdout;
        let size = listing.lines().find_map(|line| line.trim().strip_prefix("size "));
        size.expect("a size").parse::<usize>().expect("a number")
    };
    assert_eq!(size(), 1 << 18);
    device.opens(&["--open-for", "600s"]);
    crowd("second.toml", ROOM_FOR..ROOM_FOR + 10);
    let answer = reload(&door);
    assert_eq!(answer["added"], 10, "{answer}");
    assert_eq!(size(), 1 << 19);
    assert_eq!(elements(&world, "tags").len(), ROOM_FOR + 10);
    door.run(&["firewall", "status"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    device.opens(&[]);
    assert!(!daemon.has_told(&["is put right"]), "nobody else has changed it");
}
