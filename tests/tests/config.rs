//! Wrong input: a message that says what to do, the right exit code, and nothing changed.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::door::write_private;
use e2e::{Door, Output, Settings, World, binaries};

const SERVICE: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";
/// 32 bytes in base64, as good a key as any.
const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";
const OTHER_KEY: &str = "/ty6mHZUMhD+3LqYdlQyEP7cuph2VDIQ/ty6mHZUMhA=";

/// A door whose clients are these.
fn door_with<'w>(world: &'w World, settings: &Settings<'_>, clients: &str) -> Door<'w> {
    let door = Door::new(world, settings);
    write_private(&door.clients().join("clients.toml"), clients);
    door
}

fn client(name: &str, key: &str, more: &str) -> String {
    format!("[[client]]\nname = \"{name}\"\nkey = \"{key}\"\nservices = [\"mqtts\"]\n{more}\n")
}

#[test]
fn a_sound_configuration_passes_the_check() {
    let world = World::with(&["broker"]);
    let door = door_with(&world, &Settings::default(), &client("press-17", KEY, ""));
    door.run(&["check"]).success();
    door.run(&["check", "--json"]).success().json();
}

#[test]
fn each_mistake_in_knockd_toml_is_found_by_check_and_keeps_run_and_install_from_doing_anything() {
    let world = World::with(&["broker"]);
    let before = world.broker().ruleset();
    let mistakes = [
        (SERVICE, "[grant]\nopen_for = \"30s\"", "open_for"),
        (SERVICE, "[grant]\nopen-for = \"30\"", "open-for"),
        (SERVICE, "[grant]\nopen-for = \"2h\"\nmax = \"1h\"", "max"),
        (SERVICE, "[grant]\nsessions = \"drop\"", "sessions"),
        (SERVICE, "[allow]\nnetworks = [\"10.0.0.0/33\"]", "networks"),
        (SERVICE, "[alow]\nnetworks = []", "alow"),
        ("[[service]]\nname = \"MQTT!\"\nports = [\"tcp/8883\"]\n", "", "name"),
        ("[[service]]\nname = \"mqtts\"\nports = [\"8883\"]\n", "", "ports"),
        ("[[service]]\nname = \"mqtts\"\nports = [\"tcp/0\"]\n", "", "ports"),
        ("[[service]]\nname = \"mqtts\"\nports = []\n", "", "ports"),
        (
            "[[service]]\nname = \"mqtts\"\nports = [\"tcp/1\"]\nto = [\"inside\"]\n",
            "",
            "service.to",
        ),
    ];
    for (services, tables, word) in mistakes {
        let settings = Settings { services, tables, ..Settings::default() };
        let door = door_with(&world, &settings, "");
        for command in [&["check"][..], &["run"], &["firewall", "install"]] {
            let refused = door.run(command).exits(78).says(word);
            assert!(refused.stderr.contains("knockd.toml:"), "file and line: {refused}");
        }
    }
    assert_eq!(world.broker().ruleset(), before);
}

#[test]
fn each_mistake_in_a_client_is_found_with_file_and_line() {
    let world = World::with(&["broker"]);
    let before = world.broker().ruleset();
    let same_bytes = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let two = |one: &str, other: &str, key| client(one, KEY, "") + &client(other, key, "");
    let mistakes = [
        (client("press-17", "c2hvcnQ=", ""), "clients.toml:3"),
        (client("press-17", &format!("{KEY}{KEY}"), ""), "clients.toml:3"),
        (client("press-17", same_bytes, ""), "clients.toml:3"),
        (client("press-17", "not base64!", ""), "clients.toml:3"),
        (client("Press 17", KEY, ""), "clients.toml:2"),
        (client("press-17", KEY, "adress = \"observed\""), "clients.toml:5"),
        (client("press-17", KEY, "address = \"any\""), "clients.toml:5"),
        (client("press-17", KEY, "from = [\"10.3.0.0\", \"x\"]"), "clients.toml:5"),
        (client("press-17", KEY, "expires = \"tomorrow\""), "clients.toml:5"),
        (client("press-17", KEY, "").replace("mqtts", "nothing"), "clients.toml:4"),
        (two("press-17", "press-17", OTHER_KEY), "clients.toml:7"),
        (two("press-17", "press-18", KEY), "clients.toml:8"),
        ("[[client]\n".to_owned(), "clients.toml:1"),
    ];
    for (clients, place) in &mistakes {
        let door = door_with(&world, &Settings::default(), clients);
        door.run(&["check"]).exits(78).says(place);
        let refused = door.run(&["run"]).exits(78).says(place);
        assert!(!refused.stderr.contains(KEY), "a key in a message: {refused}");
    }
    assert_eq!(world.broker().ruleset(), before);
}

#[test]
fn check_tells_every_mistake_in_one_run() {
    let world = World::with(&["broker"]);
    let settings = Settings {
        services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\", \"tcp/0\"]\n",
        tables: "[grant]\nopen-for = \"soon\"\nsessions = \"drop\"\n",
        ..Settings::default()
    };
    let clients = client("press-17", "c2hvcnQ=", "") + &client("Press", KEY, "");
    let door = door_with(&world, &settings, &clients);
    let found = door.run(&["check"]).exits(78);
    for word in ["ports", "open-for", "sessions", "clients.toml:3", "clients.toml:7"] {
        assert!(found.stderr.contains(word), "{word} is missing from {found}");
    }
}

#[test]
fn a_file_with_keys_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let world = World::with(&["broker"]);
    let before = world.broker().ruleset();
    let door = door_with(&world, &Settings::default(), &client("press-17", KEY, ""));
    let file = door.clients().join("clients.toml");
    for mode in [0o644, 0o604, 0o622] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set the mode");
        for command in [&["check"][..], &["run"]] {
            door.run(command).exits(77).says("chmod");
        }
    }
    assert_eq!(world.broker().ruleset(), before);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let world = World::with(&["broker"]);
    let knockd = binaries::path("knockd");
    for command in ["check", "run", "grants"] {
        let output = world.broker().run(&[&knockd, "--config", "/nowhere.toml", command]);
        assert!(matches!(output.code, Some(66 | 78)), "{output}");
        output.says("/nowhere.toml");
    }
}

#[test]
fn a_wrong_command_line_of_knockd_is_a_usage_error_and_touches_nothing() {
    let world = World::with(&["broker"]);
    let door = door_with(&world, &Settings::default(), "");
    let before = world.broker().ruleset();
    let lines: [&[&str]; 14] = [
        &[],
        &["open"],
        &["run", "--frobnicate"],
        &["firewall"],
        &["firewall", "flush"],
        &["client"],
        &["client", "add"],
        &["client", "remove"],
        &["ban"],
        &["ban", "press-17"],
        &["ban", "192.0.2.0/24"],
        &["ban", "192.0.2.1", "--for", "0s"],
        &["ban", "192.0.2.1", "--reason", "two\nlines"],
        &["unban", "everybody"],
    ];
    for line in lines {
        let output = door.run(line).exits(64);
        assert!(!output.stderr.is_empty(), "no message: {output}");
    }
    assert_eq!(world.broker().ruleset(), before);
}

/// Runs `knock` with a profile of these lines.
fn knock_with(world: &World, profile: &str, options: &[&str]) -> Output {
    let file = world.dir().join("wrong.toml");
    write_private(&file, profile);
    let (knock, file) = (binaries::path("knock"), file.display().to_string());
    world.client().run(&[&[knock.as_str(), "--config", &file], options].concat())
}

const PROFILE: &str =
    "[broker]\nserver = \"broker:62201\"\nservice = \"mqtts\"\nport = \"tcp/8883\"\n";

#[test]
fn each_mistake_in_a_profile_is_an_error_of_the_configuration_and_nothing_is_sent() {
    let world = World::new();
    let capture = e2e::Capture::answers_to(world.client());
    let profiles = [
        PROFILE.to_owned(),
        format!("{PROFILE}key = \"c2hvcnQ=\"\n"),
        format!("{PROFILE}key = \"{KEY}\"\nkey-file = \"/some/where\"\n"),
        format!("{PROFILE}key = \"{KEY}\"\nadress = \"auto\"\n"),
        format!("{PROFILE}key = \"{KEY}\"\naddress = \"everywhere\"\n"),
        format!("{PROFILE}key = \"{KEY}\"\nopen-for = \"soon\"\n"),
        format!("[broker]\nkey = \"{KEY}\"\n"),
        "[broker".to_owned(),
    ];
    for profile in &profiles {
        let output = knock_with(&world, profile, &[]).exits(78);
        assert!(!output.stderr.is_empty() && !output.stderr.contains(KEY), "{output}");
    }
    // A datagram to the broker's host, where nothing is installed, would have been answered.
    capture.saw_silence(world.client());
}

#[test]
fn knock_tells_its_failures_apart_by_their_exit_codes() {
    let world = World::new();
    let good = format!("{PROFILE}key = \"{KEY}\"\n");
    for usage in [&["--frobnicate"][..], &["--repeat", "0"], &["-4", "-6"], &["--wait=soon"]] {
        knock_with(&world, &good, usage).exits(64);
    }
    knock_with(&world, &good, &["nobody"]).exits(78).says("nobody");
    let unknown = good.replace("broker:62201", "no-such-host.invalid:62201");
    knock_with(&world, &unknown, &[]).exits(68).says("no-such-host.invalid");
    knock_with(&world, &good, &["-4", "--wait=300ms"]).exits(69);
    knock_with(&world, &good, &["-4"]).success();
    knock_with(&world, &good, &["--dry-run"]).success();

    let file = world.dir().join("wrong.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set the mode");
    let (knock, file) = (binaries::path("knock"), file.display().to_string());
    world.client().run(&[&knock, "--config", &file]).exits(77).says("chmod");
}
