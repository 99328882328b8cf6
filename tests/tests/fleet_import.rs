//! A fleet enrolled in one run: `knockd client import` and `export`, and keys derived of a master key.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::door::write_private;
use e2e::{Door, Echo, Settings, World};
use serde_json::json;

/// As many as a factory may have.
const FLEET: usize = 20_000;

fn table(count: usize) -> String {
    let mut table = "name,services,networks,expires\n".to_owned();
    for number in 0..count {
        let _ = writeln!(table, "device-{number},mqtts,10.0.0.0/8 fd00::/8,2099-01-01T00:00:00Z");
    }
    table
}

#[test]
fn a_fleet_is_enrolled_in_one_step_under_a_running_daemon_and_a_device_of_it_gets_in() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let daemon = door.ready();
    let (file, profiles) = (world.dir().join("fleet.csv"), world.dir().join("profiles"));
    fs::write(&file, table(FLEET)).unwrap();
    let (file, folder) = (file.to_str().unwrap(), profiles.to_str().unwrap());
    let import = ["client", "import", file, "--profiles", folder, "--server", "broker", "--json"];
    let answer = door.run(&import).success().json();
    assert_eq!(
        (&answer["added"], &answer["updated"], &answer["unchanged"], &answer["profiles-written"]),
        (&json!(FLEET), &json!(0), &json!(0), &json!(FLEET)),
        "{answer}"
    );
    assert_eq!(answer["in-force"], true, "{answer}");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let profile = profiles.join(format!("device-{}.toml", FLEET - 1));
    assert_eq!((mode(&profiles), mode(&profile)), (0o700, 0o600));
    let knock = e2e::binaries::path("knock");
    let argv = [knock.as_str(), "--config", profile.to_str().unwrap(), "--wait"];
    world.client().run(&argv).success();

    // Again: nobody's key changes.
    let before = fs::read(door.clients().join("imported.toml")).unwrap();
    let again = door.run(&import).success().json();
    assert_eq!((&again["changed"], &again["unchanged"]), (&json!(false), &json!(FLEET)), "{again}");
    assert!(fs::read(door.clients().join("imported.toml")).unwrap() == before);
    daemon.tells(&["clients: ", &format!("{FLEET} added")]);
}

#[test]
fn one_wrong_line_changes_nothing_and_every_mistake_is_told_with_its_line() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let file = world.dir().join("fleet.csv");
    fs::write(&file, "name,services\ngood,mqtts\nBad,mqtts\nother,amqps\ngood,mqtts\n").unwrap();
    let failed = door.run(&["client", "import", file.to_str().unwrap()]).exits(65);
    for said in ["fleet.csv:3: ", "fleet.csv:4: ", "fleet.csv:5: ", "nothing was changed"] {
        assert!(failed.stderr.contains(said), "{said}: {failed}");
    }
    assert!(!door.clients().join("imported.toml").exists());
}

#[test]
fn a_table_with_keys_that_others_can_read_is_refused() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let file = world.dir().join("fleet.csv");
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    fs::write(&file, format!("\u{feff}Name;Services;Key\r\npress-17;mqtts;{key}\r\n")).unwrap();
    let import = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        door.run(&["client", "import", file.to_str().unwrap(), "--json"])
    };
    for mode in [0o666, 0o644] {
        let refused = import(mode).exits(77);
        assert!(refused.stderr.contains("run `chmod 0640") && !refused.stderr.contains(key));
    }
    assert_eq!(import(0o600).success().json()["added"], 1);
    // By a pipe there is nobody else.
    let knockd = e2e::binaries::path("knockd");
    let (config, table) = (door.config(), format!("name,services,key\npress-17,mqtts,{key}\n"));
    let config = config.to_str().unwrap();
    let argv = [&*knockd, "--config", config, "client", "import", "-", "--format", "csv", "--json"];
    let piped = world.broker().run_with(&argv, &[], &table).success().json();
    assert_eq!(piped["unchanged"], 1, "{piped}");
}

#[test]
fn what_was_exported_is_imported_without_a_change_and_holds_no_key() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol_with("press-17", &["--service", "mqtts", "--from", "10.3.0.0/16"]);
    door.enrol_with("gate-3", &["--service", "mqtts", "--address", "observed"]);
    for (format, name) in [("csv", "all.csv"), ("jsonl", "all.jsonl")] {
        let exported = door.run(&["client", "export", "--format", format]).success().stdout;
        assert!(!exported.contains(&device.key()), "a key was exported");
        let file = world.dir().join(name);
        fs::write(&file, &exported).unwrap();
        let answer =
            door.run(&["client", "import", file.to_str().unwrap(), "--json"]).success().json();
        assert_eq!(
            (&answer["changed"], &answer["unchanged"]),
            (&json!(false), &json!(2)),
            "{answer}"
        );
    }
}

#[test]
fn a_device_whose_key_was_derived_offline_gets_in_and_with_the_next_generation_the_old_one_does_not()
 {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let knock = e2e::binaries::path("knock");
    let master = world.dir().join("master.key");
    world.client().run(&[&knock, "keygen", "--out", master.to_str().unwrap()]).success();
    door.set("master-key-file", &format!("\"{}\"", master.display()));
    let entry = |generation: &str| {
        let text = format!(
            "[[client]]\nname = \"press-17\"\nkey-from = \"master\"\n{generation}services = [\"mqtts\"]\n"
        );
        write_private(&door.clients().join("press-17.toml"), &text);
    };
    entry("");
    let _daemon = door.ready();
    let key = |generation: &str| {
        let master = master.to_str().unwrap();
        let argv = [&knock, "keygen", "--master", master, "press-17", "--generation", generation];
        let key = world.client().run(&argv).success().stdout;
        let file = world.dir().join(format!("generation-{generation}"));
        write_private(&file, &key);
        file
    };
    let opens = |key: &std::path::Path| {
        let file = key.to_str().unwrap();
        let whom = ["--server", "broker", "--key-file", file, "--service", "mqtts"];
        let argv = [&[knock.as_str()], &whom[..], &["--port=tcp/8883", "--wait=2s"]].concat();
        world.client().run(&argv).is_success()
    };
    let (first, second) = (key("1"), key("2"));
    assert!(opens(&first), "its first key");
    entry("key-generation = 2\n");
    door.run(&["reload"]).success();
    door.run(&["revoke", "press-17"]).success();
    assert!(!opens(&first), "a key that was replaced");
    assert!(opens(&second), "the key after it");
}
