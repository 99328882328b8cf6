//! Enrolling devices: `knockd client`, and the profile that it makes.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::door::{MQTTS, broker4, write_private};
use e2e::{Door, Echo, Settings, State, World, binaries};

#[test]
fn what_client_add_prints_is_a_profile_that_works_as_it_is() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    device.knock(world.client(), &["--wait=20s"]).success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn client_add_writes_an_entry_that_others_cannot_read() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let entries: Vec<_> = fs::read_dir(door.clients()).expect("list").flatten().collect();
    assert_eq!(entries.len(), 1, "one file for one client, and nothing left over: {entries:?}");
    let entry = entries[0].path();
    let mode = fs::metadata(&entry).expect("look").permissions().mode();
    assert_eq!(mode & 0o137, 0, "mode {mode:o}");
    assert!(fs::read_to_string(&entry).expect("read").contains(&device.key()));
    door.run(&["check"]).success();
}

#[test]
fn every_client_has_a_key_of_its_own_and_a_name_is_taken_once() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let one = door.enrol("press-17");
    let other = door.enrol("press-18");
    assert_ne!(one.key(), other.key());
    let again = door.run(&["client", "add", "press-17", "--service", "mqtts"]);
    assert_eq!(again.code, Some(73), "{again}");
    again.says("press-17");
    assert_eq!(fs::read_dir(door.clients()).expect("list").count(), 2);
}

#[test]
fn client_add_refuses_what_the_configuration_would_refuse_and_writes_nothing() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let wrong: [&[&str]; 6] = [
        &["Press 17", "--service", "mqtts"],
        &["../press", "--service", "mqtts"],
        &["press-17", "--service", "nothing"],
        &["press-17", "--service", "mqtts", "--from", "10.0.0.0/99"],
        &["press-17", "--service", "mqtts", "--address", "any"],
        &["press-17", "--service", "mqtts", "--expires", "tomorrow"],
    ];
    for options in wrong {
        let output = door.run(&[&["client", "add"], options].concat());
        assert!(matches!(output.code, Some(64 | 65 | 66 | 78)), "{output}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{output}");
    }
    assert_eq!(fs::read_dir(door.clients()).expect("list").count(), 0);
}

#[test]
fn client_list_shows_names_and_no_keys() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    door.enrol_with("press-18", &["--service", "mqtts", "--expires", "2030-01-01T00:00:00Z"]);
    let list = door.run(&["client", "list", "--json"]).success();
    let answer = list.json();
    let names: Vec<_> = answer["clients"]
        .as_array()
        .expect("a list of clients")
        .iter()
        .filter_map(|client| client["name"].as_str())
        .collect();
    assert_eq!(names, ["press-17", "press-18"]);
    let human = door.run(&["client", "list"]).success().says("press-17").says("mqtts");
    for output in [list, human] {
        assert!(!output.to_string().contains(&device.key()), "a key is shown");
    }
}

#[test]
fn every_command_answers_in_json_where_asked_to() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let added = ["client", "add", "press-17", "--service", "mqtts", "--server", "broker", "--json"];
    let answer = door.run(&added).success().json();
    assert_eq!(answer["client"], "press-17", "{answer}");
    door.run(&["firewall", "install", "--json"]).success();
    let lines: [&[&str]; 5] = [
        &["check"],
        &["client", "list"],
        &["grants"],
        &["firewall", "status"],
        &["client", "remove", "press-17"],
    ];
    for line in lines {
        let answer = door.run(&[line, &["--json"]].concat()).success().json();
        assert!(answer.is_object(), "{line:?}: {answer}");
    }
}

#[test]
fn a_removed_client_opens_nothing_any_more() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let other = door.enrol("press-18");
    door.run(&["client", "remove", "press-17"]).success();
    door.run(&["client", "remove", "press-17"]).exits(66).says("press-17");
    let daemon = door.ready();
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    other.opens(&[]);
}

#[test]
fn a_client_added_or_removed_while_the_daemon_runs_counts_at_once() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    let daemon = door.ready();
    let late = door.enrol("press-18");
    daemon.tells(&["clients: 1 added, 0 changed, 0 removed, 0 grants ended"]);
    late.opens(&[]);
    assert_eq!(door.grants().len(), 1);
    door.run(&["client", "remove", "press-18"]).success();
    daemon.tells(&["clients: 0 added, 0 changed, 1 removed, 1 grants ended"]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn a_mistake_in_a_clients_file_leaves_the_running_daemon_as_it_was() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    write_private(&door.clients().join("wrong.toml"), "[[client]]\nname = \"Press 18\"\n");
    daemon.reload();
    daemon.tells(&["the configuration stays as it was", "wrong.toml:1"]);
    device.opens(&[]);
}

#[test]
fn disabled_and_expired_clients_are_refused_and_told_apart() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let disabled = door.enrol("disabled");
    let expired = door.enrol("expired");
    for (device, line) in
        [(&disabled, "enabled = false"), (&expired, "expires = 2020-01-01T00:00:00Z")]
    {
        let name = device.profile().file_stem().expect("a name").display().to_string();
        let entry = format!(
            "[[client]]\nname = \"{name}\"\nkey = \"{}\"\nservices = [\"mqtts\"]\n{line}\n",
            device.key()
        );
        door.run(&["client", "remove", &name]).success();
        write_private(&door.clients().join(format!("{name}.toml")), &entry);
    }
    let daemon = door.ready();
    disabled.knock(world.client(), &["-4"]).success();
    expired.knock(world.client(), &["-4"]).success();
    daemon.tells(&["client=disabled", "reason=\"client-disabled\""]);
    daemon.tells(&["client=expired", "reason=\"client-expired\""]);
    assert_eq!(door.grants().len(), 0);
}

#[test]
fn knock_runs_a_command_when_the_port_is_open_and_hands_on_its_exit_status() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let packet = binaries::path("packet");
    device
        .knock(world.client(), &["-4", "--wait=20s", "--", &packet, "probe", "10.77.0.1:8883"])
        .success()
        .says("open");
    device.knock(world.client(), &["-4", "--wait=20s", "--", "sh", "-c", "exit 7"]).exits(7);
}

#[test]
fn knock_works_from_flags_and_a_key_file_alone() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let key_file = world.dir().join("key");
    write_private(&key_file, &device.key());
    let (knock, key_file) = (binaries::path("knock"), key_file.display().to_string());
    let argv =
        [&knock, "-4", "--server", "broker", "--service", "mqtts", "--port", "tcp/8883", "--wait"];
    let env = [("KNOCK_KEY_FILE", key_file.as_str()), ("HOME", "/nowhere")];
    world.client().run_with(&argv, &env, "").success();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
}

#[test]
fn dry_run_shows_what_would_be_sent_without_the_key_and_sends_nothing() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let shown = device.knock(world.client(), &["-4", "--dry-run"]).success();
    assert!(!shown.to_string().contains(&device.key()), "the key is shown");
    device.knock(world.client(), &["-4"]).success();
    e2e::until("the real one arrives", || daemon.granted() == 1);
}

#[test]
fn repeated_packets_are_fresh_ones_and_none_is_refused() {
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    let answer = device.knock(world.client(), &["-4", "--repeat", "5", "--json"]).success().json();
    assert_eq!(answer["sent"][0]["packets"], 5, "{answer}");
    e2e::until("all arrive", || daemon.granted() == 5);
    assert!(!daemon.has_told(&["decision=\"refused\""]));
}
