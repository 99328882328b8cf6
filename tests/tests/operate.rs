//! What an admin asks the running daemon for: bans, and how it is.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;

use e2e::door::{MQTTS, broker4};
use e2e::{Daemon, Device, Door, Echo, Settings, State, Talk, World};

fn running(world: &World) -> (Echo, Door<'_>, Device<'_>, Daemon) {
    let echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    (echo, door, device, daemon)
}

#[test]
fn an_admins_ban_ends_grants_refuses_knocks_and_is_lifted_by_unban() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    device.opens(&["--open-for", "600s"]);

    let banned = door.run(&["ban", &client, "--for", "1h", "--reason", "stolen", "--json"]);
    let banned = banned.success().json();
    assert_eq!((&banned["source"], &banned["grants-ended"]), (&client.clone().into(), &1.into()));
    assert!(door.grants().is_empty());
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["press-17", "reason=\"banned\""]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);

    let listed = door.run(&["bans", "--json"]).success().json();
    let row = &listed["bans"][0];
    assert_eq!((&row["source"], &row["by"]), (&client.clone().into(), &"admin".into()));
    assert_eq!(row["reason"], "stolen");
    assert!(row["remaining-s"].as_u64().is_some_and(|left| (3_500..=3_600).contains(&left)));
    let human = door.run(&["bans"]).success().stdout;
    assert!(human.contains(&client) && human.contains("stolen"), "{human}");

    let lifted = door.run(&["unban", &client, "--json"]).success().json();
    assert_eq!(lifted["changed"], true);
    let again = door.run(&["unban", &client, "--json"]).success().json();
    assert_eq!(again["changed"], false);
    device.opens(&[]);
}

#[test]
fn an_admins_ban_cuts_connections_that_do_not_come_back_when_it_is_lifted() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    device.opens(&["--open-for", "600s"]);
    let mut session = Talk::tcp(world.client(), broker4(&world), MQTTS, None);
    session.works();
    door.run(&["ban", &client]).success();
    session.is_dead();
    daemon.tells(&["connections", "of a banned source"]);
    door.run(&["unban", &client]).success();
    session.is_dead();
    device.opens(&[]);
}

#[test]
fn an_admins_ban_survives_kill_9_and_the_kernel_holds_it_meanwhile() {
    let world = World::new();
    let (_echo, door, device, daemon) = running(&world);
    let client = world.client().v4().to_string();
    door.run(&["ban", &client]).success();
    daemon.kill9();
    let listed = |door: &Door<'_>| door.run(&["bans", "--json"]).success().json()["bans"].clone();
    assert_eq!(listed(&door)[0]["by"], "admin");
    let daemon = door.ready();
    assert_eq!(listed(&door)[0]["source"], client);
    device.knock(world.client(), &["-4"]).success();
    daemon.tells(&["press-17", "reason=\"banned\""]);
    assert_eq!(door.run(&["unban", "all", "--json"]).success().json()["lifted"], 1);
    device.opens(&[]);
}

#[test]
fn the_hosts_own_address_can_not_be_banned_by_an_admin_either() {
    let world = World::new();
    let (_echo, door, _device, _daemon) = running(&world);
    let output = door.run(&["ban", &world.broker().v4().to_string()]).exits(65);
    assert!(output.stderr.contains("own address"), "{output}");
    assert_eq!(door.run(&["bans"]).success().stdout, "nobody is banned\n");
}

#[test]
fn status_tells_what_was_decided_and_who_asked_for_what_it_may_not_have() {
    let world = World::new();
    let echo = Echo::start(world.broker(), &["tcp/8883", "tcp/22"]);
    let services = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n\
                    [[service]]\nname = \"ssh\"\nports = [\"tcp/22\"]\n";
    let door = Door::new(&world, &Settings { services, ..Settings::default() });
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&[]);
    for _ in 0..2 {
        device.knock(world.client(), &["-4", "--service", "ssh"]).success();
    }
    daemon.refuses("service-not-allowed", 2);
    daemon.tells(&["WARN", "press-17", "service-not-allowed", "ssh"]);
    let status = door.run(&["status", "--json"]).success().json();
    assert_eq!((&status["clients"], &status["grants"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["decisions"]["granted"], 1, "{status}");
    assert_eq!(status["decisions"]["refused"]["service-not-allowed"], 2, "{status}");
    assert_eq!(status["denied"][0]["client"], "press-17");
    assert_eq!(status["denied"][0]["count"], 2);
    let human = door.run(&["status"]).success().stdout;
    assert!(human.contains("press-17 asked 2 times for what it may not have"), "{human}");
    drop(echo);
}

#[test]
fn without_a_daemon_the_commands_that_need_one_say_so() {
    let world = World::with(&["broker"]);
    let door = Door::new(&world, &Settings::default());
    for line in [&["status"][..], &["ban", "192.0.2.1"], &["unban", "all"]] {
        let output = door.run(line).exits(69);
        assert!(output.stderr.contains("no daemon listens"), "{output}");
    }
}

#[test]
fn the_control_socket_is_for_root_and_its_group_and_no_number_of_connections_stops_anything() {
    let world = World::new();
    let (_echo, door, device, _daemon) = running(&world);
    let socket = door.control();
    let metadata = std::fs::metadata(&socket).expect("the control socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    // Twice as many as are served at once, none of which says anything.
    let silent: Vec<_> = (0..32).map(|_| UnixStream::connect(&socket).expect("connect")).collect();
    device.opens(&[]);
    drop(silent);
    door.run(&["status"]).success();
}
