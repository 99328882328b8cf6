//! The kernel refuses, the disk is full, files vanish, descriptors run out: nothing opens that wasn't granted,
//! nothing that was told is lost, and all of it works again as soon as it can.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use e2e::door::{MQTTS, broker4};
use e2e::fleet::{Fleet, Pair, banned, granted, held, ready, settings};
use e2e::table::{elements, holds};
use e2e::{Daemon, Door, Echo, Settings, State, World, until};

#[test]
fn while_another_program_owns_the_table_knocks_are_refused_and_when_it_is_gone_all_is_as_before() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 1, 8);
    let daemon = ready(&door);
    fleet.gets_in(&daemon);
    let before = held(&door);

    // NFT_TABLE_F_OWNER: the kernel lets nobody else change such a table (EPERM), nor delete it.
    let table = door.run(&["firewall", "print"]).success().stdout;
    let owned = table
        .replace("add table inet knockd\n", "add table inet knockd { flags owner; }\n")
        .replace("\ntable inet knockd {", "\ntable inet knockd {\n flags owner;");
    assert_ne!(owned, table);
    let script = world.dir().join("owned.nft");
    fs::write(&script, format!("delete table inet knockd\n{owned}")).expect("write");
    let mut owner = world.broker().spawn(&["nft", "-i"], &[]);
    owner.write_line(&format!("include \"{}\"", script.display()));
    daemon.tells(&["ERROR", "can't be put right"]);
    let refused = fleet.knock();
    daemon.tells(&["ERROR", &format!("source={}", refused.1), "firewall-failed"]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
    assert!(!held(&door).contains_key(&refused));
    assert!(!granted(&daemon.log()).contains(&refused));

    drop(owner);
    daemon.tells(&["is put right"]);
    fleet.gets_in(&daemon);
    until("the grant from before is in again", || held(&door).len() == before.len() + 1);
    assert!(before.keys().all(|pair| held(&door).contains_key(pair)));
    assert!(!held(&door).contains_key(&refused));
}

/// Places of grants, or of bans, in the first page of their file, beside its header.
const IN_A_PAGE: usize = 31;

#[test]
fn on_a_full_disk_no_grant_is_given_that_is_not_written_and_bans_are_made_and_written_later() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 1, 60);
    let state = door.state().display().to_string();
    let broker = world.broker();
    broker.run(&["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", &state]).success();
    let daemon = ready(&door);
    let filler = format!("{state}/filler");
    broker.run(&["dd", "if=/dev/zero", &format!("of={filler}"), "bs=4k"]).exits(1);

    let sources: Vec<String> =
        (0..=IN_A_PAGE).map(|number| format!("10.77.0.{}", 210 + number)).collect();
    for source in &sources {
        world.ip(Some("client"), &format!("addr add {source}/32 dev eth0"));
        fleet.fail(source);
    }
    let told = || daemon.log().lines().filter(|line| line.contains("decision=\"banned\"")).count();
    until("all are told as banned, or summed up", || told() >= 10);
    until("all are banned in the kernel", || {
        sources.iter().all(|source| holds(&world, "ban4", source))
    });
    daemon.tells(&["No space left", "state-unwritten"]);

    // The file of grants is full before that of accepted packets is.
    let knocked: Vec<Pair> = (0..IN_A_PAGE + 4).map(|_| fleet.knock()).collect();
    let refused = || {
        daemon
            .log()
            .lines()
            .filter(|line| line.contains("decision=\"refused\" reason=\"journal-failed\""))
            .count()
    };
    until("the last four are refused", || refused() == 4);
    let held_now: BTreeSet<Pair> = held(&door).into_keys().collect();
    assert_eq!(held_now, knocked[..IN_A_PAGE].iter().cloned().collect());
    assert_eq!(elements(&world, "door4").len(), IN_A_PAGE);

    broker.run(&["rm", &filler]).success();
    fleet.gets_in(&daemon);
    daemon.kill9();
    let daemon = door.start();
    assert_eq!(held(&door).len(), IN_A_PAGE + 1);
    assert_eq!(banned(&door), sources.into_iter().collect());
    fleet.gets_in(&daemon);
}

#[test]
fn files_of_the_state_folder_that_vanish_are_put_back_and_nothing_in_them_is_lost() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 1, 20);
    let mut daemon = ready(&door);
    door.run(&["ban", "198.51.100.7", "--for", "1h"]).success();
    fleet.gets_in(&daemon);
    for removed in ["seen", "grants", "bans", "lock", "."] {
        match removed {
            "." => fs::remove_dir_all(door.state()).expect("remove"),
            name => fs::remove_file(door.state().join(name)).expect("remove"),
        }
        fleet.gets_in(&daemon);
        if removed != "lock" {
            daemon.tells(&["WARN", "put back as it was"]);
        }
        let before = held(&door);
        assert_eq!(before.keys().cloned().collect::<BTreeSet<_>>(), fleet.pairs());
        daemon.kill9();
        daemon = door.start();
        daemon.tells(&["the memory of accepted packets is whole"]);
        assert_eq!(held(&door).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(banned(&door).contains("198.51.100.7"), "{removed}");
        fleet.knock_again();
        daemon.refuses("replayed", before.len());
        assert_eq!(granted(&daemon.log()).len(), 0);
    }
}

#[test]
fn grants_and_bans_whose_files_vanish_while_no_daemon_runs_are_told_as_over_and_shut() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 1, 4);
    let daemon = ready(&door);
    fleet.gets_in(&daemon);
    daemon.kill9();
    fs::remove_file(door.state().join("grants")).expect("remove");
    fs::remove_file(door.state().join("bans")).expect("remove");
    let daemon = door.start();
    daemon.tells(&["ERROR", "the file of grants is gone"]);
    daemon.tells(&["ERROR", "the file of bans is gone"]);
    assert_eq!((door.grants().len(), elements(&world, "door4").len()), (0, 0));
    fleet.knock_again();
    daemon.refuses("replayed", 1);
    fleet.gets_in(&daemon);
}

#[test]
fn a_configuration_that_vanishes_changes_nothing_until_a_restart_which_leaves_the_door_shut() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let daemon = door.ready();
    device.opens(&["--open-for", "600s"]);
    for name in ["knockd.toml", "clients.d", "control.sock"] {
        let path = door.config().with_file_name(name);
        fs::rename(&path, path.with_extension("away")).expect("move");
    }
    daemon.reload();
    daemon.tells(&["ERROR", "the configuration stays as it was"]);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);
    device.opens(&[]);
    daemon.kill9();
    assert_eq!(door.spawn().exit_code(), Some(66));
    assert_eq!(world.attacker().tcp(broker4(&world), MQTTS), State::Filtered);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open, "the kernel keeps it");

    for name in ["knockd.toml", "clients.d"] {
        let path = door.config().with_file_name(name);
        fs::rename(path.with_extension("away"), path).expect("move");
    }
    let _daemon = door.start();
    door.run(&["status"]).success();
    assert_eq!(door.grants().len(), 1);
}

/// Limits how many descriptors a process may have.
fn limit(daemon: &Daemon, descriptors: usize) {
    let (pid, limit) = (format!("--pid={}", daemon.id()), format!("--nofile={descriptors}:"));
    let status = Command::new("prlimit").args([pid, limit]).status().expect("start prlimit");
    assert!(status.success());
}

/// The processor time that a process has taken, in ticks of 10 ms: proc_pid_stat(5), utime and stime.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id())).expect("read");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn without_a_descriptor_left_knocks_go_on_and_with_one_again_everything_does() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = Fleet::new(&door, &world, 1, 20);
    let daemon = ready(&door);
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("list").count();
    limit(&daemon, open);
    fleet.gets_in(&daemon);

    // Nobody can be answered, and waiting for that costs next to nothing.
    let waiting: Vec<_> =
        (0..4).map(|_| UnixStream::connect(door.control()).expect("connect")).collect();
    let (before, pause) = (ticks(&daemon), Duration::from_secs(2));
    sleep(pause);
    let taken = Duration::from_millis(10 * (ticks(&daemon) - before));
    assert!(taken < pause / 4, "{taken:?} of {pause:?}");
    fleet.gets_in(&daemon);

    // Bans are made by what is known of the host's addresses, and the table is put right: that needs no descriptor.
    world.ip(Some("client"), "addr add 10.77.0.210/32 dev eth0");
    fleet.fail("10.77.0.210");
    until("it is banned", || holds(&world, "ban4", "10.77.0.210"));
    world.broker().nft("flush chain inet knockd gate");
    daemon.tells(&["is put right"]);

    limit(&daemon, 1024);
    drop(waiting);
    door.run(&["status"]).success();
    door.run(&["firewall", "status"]).success();
    fleet.gets_in(&daemon);
    assert_eq!(held(&door).keys().cloned().collect::<BTreeSet<_>>(), fleet.pairs());
    assert!(holds(&world, "ban4", "10.77.0.210"));
}
