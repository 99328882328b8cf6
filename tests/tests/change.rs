//! What an admin changes of one client takes effect at once: keys, grants and connections.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread::scope;

use e2e::door::{MQTTS, broker4, write_private};
use e2e::{Daemon, Device, Door, Echo, Settings, State, Talk, World, until};

const BOTH: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"more\"\nports = [\"tcp/8884\"]\n";

fn running(world: &World) -> (Echo, Door<'_>, Device<'_>, Daemon) {
    let echo = Echo::start(world.broker(), &["tcp/8883", "tcp/8884"]);
    let door = Door::new(world, &Settings { services: BOTH, ..Settings::default() });
    let device = door.enrol_with("press-17", &["--service", "mqtts,more"]);
    let daemon = door.ready();
    (echo, door, device, daemon)
}

/// A connection of the device, whose grant is over or not.
#[track_caller]
fn session(world: &World, device: &Device<'_>, is_over: bool) -> Talk {
    device.opens(&["--service", "mqtts", "--open-for", "600s"]);
    let mut session = Talk::tcp(world.client(), broker4(world), MQTTS, None);
    session.works();
    if is_over {
        device.knock(world.client(), &["-4", "--service", "mqtts", "--close"]).success();
        until("the port is shut again", || {
            world.client().tcp(broker4(world), MQTTS) == State::Filtered
        });
        session.works();
    }
    session
}

#[test]
fn a_client_that_is_added_gets_in_at_once() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let late = door.enrol("press-18");
    late.opens(&[]);
    let again = ["client", "add", "press-18", "--service", "mqtts", "--if-missing", "--json"];
    let answer = door.run(&again).success().json();
    assert_eq!((&answer["changed"], answer["profile"].is_null()), (&false.into(), true));
    late.opens(&[]);
}

#[test]
fn after_a_rotation_both_keys_open_until_the_overlap_is_over_and_then_the_new_one_alone() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let rotate = ["client", "rotate", "press-17", "--overlap", "7d", "--server", "broker:62201"];
    let printed = door.run(&rotate).success().says("in force").stdout;
    let profile = world.dir().join("new.toml");
    write_private(&profile, &printed);
    let knock_with_the_new_one = || {
        let knock = e2e::binaries::path("knock");
        let profile = profile.display().to_string();
        world.client().run(&[&knock, "--config", &profile, "-4", "--wait=20s"]).success()
    };
    device.opens(&[]);
    knock_with_the_new_one();
    assert!(!daemon.has_told(&["old-key-expired"]));
    let show = door.run(&["client", "show", "press-17", "--json"]).success().json();
    assert!(show["old-key-until"].is_string(), "{show}");
    assert_eq!(show["daemon"]["grants"].as_array().map(Vec::len), Some(2), "{show}");

    // As if the overlap were over.
    let file = door.clients().join("press-17.toml");
    let entry = fs::read_to_string(&file).expect("read an entry");
    let until_now = show["old-key-until"].as_str().expect("a time");
    let date = ["date", "-u", "-d", "1 minute ago", "+%FT%TZ"];
    let past = world.broker().run(&date).success().stdout;
    write_private(&file, &entry.replace(until_now, past.trim()));
    door.run(&["reload"]).success();
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["client=press-17", "reason=\"old-key-expired\""]);
    let granted = daemon.granted();
    device.knock(world.client(), &["-4"]).success();
    knock_with_the_new_one();
    until("the new one is in", || daemon.granted() == granted + 1);
}

#[test]
fn a_rotation_without_overlap_ends_the_old_key_at_once_and_survives_a_restart() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    door.run(&["client", "rotate", "press-17", "--overlap", "0s"]).success();
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    daemon.terminate();
    let daemon = door.ready();
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    assert!(door.grants().is_empty());
}

#[test]
fn disable_ends_a_clients_grants_and_lets_its_session_live_on_and_enable_lets_it_in_again() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let mut session = session(&world, &device, false);
    let answer = door.run(&["client", "disable", "press-17", "--json"]).success().json();
    assert_eq!((&answer["changed"], &answer["in-force"]), (&true.into(), &true.into()), "{answer}");
    assert_eq!(answer["grants-ended"], 1, "{answer}");
    assert!(door.grants().is_empty());
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    session.works();
    device.knock(world.client(), &["-4"]).success();
    daemon.refuses("client-disabled", 1);
    let again = door.run(&["client", "disable", "press-17", "--json"]).success().json();
    assert_eq!(again["changed"], false, "{again}");
    for changed in [true, false] {
        let answer = door.run(&["client", "enable", "press-17", "--json"]).success().json();
        assert_eq!(answer["changed"], changed, "{answer}");
    }
    device.opens(&["--service", "mqtts"]);
    session.works();
}

#[test]
fn with_cut_a_session_ends_with_its_client_also_one_whose_grant_is_over() {
    for (command, is_over) in
        [("disable", false), ("disable", true), ("remove", true), ("revoke", true)]
    {
        let world = World::new();
        let (_echo, door, device, _daemon) = running(&world);
        let other = door.enrol("friend");
        other.knock(world.attacker(), &["-4", "--wait=20s", "--open-for", "600s"]).success();
        let mut friend = Talk::tcp(world.attacker(), broker4(&world), MQTTS, None);
        friend.works();
        let mut session = session(&world, &device, is_over);
        let line = match command {
            "revoke" => vec!["revoke", "press-17", "--cut"],
            command => vec!["client", command, "press-17", "--cut"],
        };
        let answer = door.run(&[&line[..], &["--json"]].concat()).success().json();
        assert!(answer["connections-ended"].as_u64().is_some_and(|ended| ended > 0), "{answer}");
        session.is_dead();
        friend.works();
    }
}

#[test]
fn a_client_that_is_disabled_already_can_still_be_cut() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    let mut session = session(&world, &device, false);
    door.run(&["client", "disable", "press-17"]).success();
    session.works();
    let answer = door.run(&["client", "disable", "press-17", "--cut", "--json"]).success().json();
    assert_eq!(answer["changed"], false, "{answer}");
    assert!(answer["connections-ended"].as_u64().is_some_and(|ended| ended > 0), "{answer}");
    session.is_dead();
}

#[test]
fn remove_ends_a_clients_grants_at_once_and_without_cut_its_session_lives_on() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let mut session = session(&world, &device, false);
    let answer = door.run(&["client", "remove", "press-17", "--json"]).success().json();
    assert_eq!((&answer["changed"], &answer["grants-ended"]), (&true.into(), &1.into()));
    assert!(door.grants().is_empty());
    session.works();
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["source=10.77.0.2", "reason=\"unknown-tag\""]);
    door.run(&["client", "remove", "press-17"]).exits(66);
    let again = ["client", "remove", "press-17", "--if-present", "--json"];
    assert_eq!(door.run(&again).success().json()["changed"], false);
}

#[test]
fn revoke_ends_the_grants_of_a_client_or_an_address_and_of_one_service_where_it_says_so() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let address = world.client().v4().to_string();
    let revoke = |line: &[&str]| {
        let answer = door.run(&[&["revoke"], line, &["--json"]].concat()).success().json();
        (answer["changed"].as_bool().expect("a word"), answer["grants-ended"].as_u64())
    };
    device.opens(&["--open-for", "600s"]);
    assert_eq!(door.grants().len(), 2);
    assert_eq!(revoke(&["press-17", "--service", "more"]), (true, Some(1)));
    assert_eq!(world.client().tcp(broker4(&world), 8884), State::Filtered);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    assert_eq!(revoke(&["press-17"]), (true, Some(1)));
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(revoke(&["press-17"]), (false, Some(0)));

    // Nobody is shut out by it.
    device.opens(&["--open-for", "600s"]);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    assert_eq!(revoke(&[&address]), (true, Some(2)));
    session.works();
    assert_eq!(revoke(&[&address, "--cut"]), (false, Some(0)));
    session.is_dead();
    daemon.tells(&["WARN", "press-17", "decision=\"revoked\""]);
    door.run(&["revoke", "nobody"]).exits(66);
    door.run(&["revoke", "press-17", "--service", "nothing"]).exits(66);
    // It is written down: a restart gives nothing back.
    device.opens(&["--open-for", "600s"]);
    door.run(&["revoke", "press-17"]).success();
    daemon.kill9();
    let _daemon = door.start();
    assert!(door.grants().is_empty());
}

#[test]
fn without_a_daemon_a_change_says_that_it_takes_effect_at_its_start() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    door.enrol("press-17");
    for line in [&["disable"][..], &["enable"], &["rotate"], &["remove"]] {
        let output = door.run(&[&["client"], line, &["press-17"]].concat()).success();
        assert!(output.stderr.contains("no daemon runs"), "{output}");
    }
    door.run(&["revoke", "press-17"]).exits(69).says("systemctl start knockd");
}

#[test]
fn of_many_commands_at_once_each_is_whole_and_the_daemon_goes_by_all_of_them() {
    const CLIENTS: usize = 12;
    let world = World::new();
    let door = Door::new(&world, &Settings::default());
    // Half of them in one file, so that it is the same file that is changed at once.
    let shared: String = (0..CLIENTS / 2)
        .map(|number| {
            let added = door.enrol(&format!("press-{number}"));
            door.run(&["client", "remove", &format!("press-{number}")]).success();
            format!(
                "# press {number}\n[[client]]\nname = \"press-{number}\"\nkey = \"{}\"\nservices = [\"mqtts\"]\n\n",
                added.key()
            )
        })
        .collect();
    write_private(&door.clients().join("shared.toml"), &shared);
    let _daemon = door.ready();
    scope(|scope| {
        for number in 0..CLIENTS {
            let door = &door;
            scope.spawn(move || {
                let name = format!("press-{number}");
                if number >= CLIENTS / 2 {
                    door.enrol(&name);
                }
                match number % 3 {
                    0 => drop(door.run(&["client", "disable", &name]).success()),
                    1 => drop(door.run(&["client", "rotate", &name]).success()),
                    _ => drop(door.run(&["client", "remove", &name]).success()),
                }
            });
        }
    });
    let listed = door.run(&["client", "list", "--json"]).success().json();
    let clients = listed["clients"].as_array().expect("a list");
    assert_eq!(clients.len(), CLIENTS - CLIENTS / 3);
    for client in clients {
        let name = client["name"].as_str().expect("a name");
        let number: usize = name.trim_start_matches("press-").parse().expect("a number");
        assert_eq!(client["enabled"], !number.is_multiple_of(3), "{client}");
        assert_eq!(client["old-key-until"].is_string(), number % 3 == 1, "{client}");
    }
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!(status["clients"], clients.len(), "{status}");
    assert!(status["configuration"]["refused"].is_null(), "{status}");
    assert_eq!(door.run(&["reload", "--json"]).success().json()["changed"], false);
    let left = fs::read_dir(door.clients()).expect("list").flatten();
    let hidden = left.filter(|file| file.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "nothing half-written is left over");
}

#[test]
fn an_edited_file_keeps_its_mode_and_every_byte_of_its_other_clients() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    let [a, b] = ["press-17", "press-18"].map(|name| {
        let device = door.enrol(name);
        door.run(&["client", "remove", name]).success();
        let key = device.key();
        format!("# {name}\n[[client]]\nname = '{name}'  # its name\nkey=\"{key}\"\nservices = [ \"mqtts\" ]\n")
    });
    let file = door.clients().join("shared.toml");
    write_private(&file, &format!("{a}\n{b}"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("set a mode");
    for line in [&["disable"][..], &["rotate"], &["enable"], &["rotate", "--overlap", "0s"]] {
        let line = [&["client"], line, &["press-17"]].concat();
        door.run(&line).success();
        let text = fs::read_to_string(&file).expect("read it");
        assert!(
            text.starts_with("# press-17\n[[client]]\nname = 'press-17'  # its name\n"),
            "{text}"
        );
        assert!(text.ends_with(&format!("services = [ \"mqtts\" ]\n\n{b}")), "{text}");
        let mode = fs::metadata(&file).expect("look").permissions().mode();
        assert_eq!(mode & 0o7777, 0o400, "{line:?}");
    }
}
