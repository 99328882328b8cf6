//! What strangers can fill is bounded, and when it is full nobody is the worse for it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::door::{AHEAD, KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::flood::Flood;
use e2e::{Door, Echo, Foreign, Settings, State, World, until};
use knockd::clock;
use knockd::gate::bans::{Ban, BanKind, BanReason, Bans};
use knockd::gate::source::Source;
use knockd::journal::banned::BannedFile;
use knockd::journal::{BootId, DaemonId, StateFolder, Writer};

const SERVICES: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";

/// The most bans that failures can make.
const BY_FAILURES: usize = Bans::MAX - Bans::FOR_ADMINS;

/// The lines of a log with this in them.
fn lines<'l>(log: &'l str, part: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(part)).collect()
}

/// For how many events the lines with this in them stand.
fn stand_for(log: &str, part: &str) -> u64 {
    let times =
        |line: &str| line.split(" times=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok();
    lines(log, part).into_iter().map(|line| times(line).unwrap_or(1)).sum()
}

/// Bans that an earlier run has left behind: all but these few that failures can take.
fn leave_bans(door: &Door<'_>, but: usize) {
    let now = clock::now();
    let length = Duration::from_hours(6);
    let bans: Vec<(Source, Ban)> = (0..BY_FAILURES - but)
        .map(|number| {
            let address = 0x0c00_0000 + u32::try_from(number).expect("few enough");
            let (until, reason) = (now.uptime + length, BanReason::default());
            let ban = Ban { kind: BanKind::Failures, until, length, reason };
            (Source::of(Ipv4Addr::from_bits(address).into()), ban)
        })
        .collect();
    let boot = BootId::current().expect("this boot");
    let writer = Writer { boot, daemon: DaemonId::from_random([1; 16]) };
    let folder = StateFolder::open(&door.state()).expect("the state folder");
    let bans = bans.iter().map(|(source, ban)| (source, ban));
    BannedFile::create(&folder, writer, bans, now).expect("write the file of bans");
}

#[test]
fn two_hundred_thousand_forged_sources_leave_memory_bans_file_and_log_at_their_bound() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    // Every packet reaches the daemon, and the second failure bans.
    let tables = "[prefilter]\nmode = \"off\"\n[ban]\nfailures = 1\n";
    let door = Door::new(&world, &Settings { tables, ..Settings::default() });
    let device = door.enrol("press-17");
    leave_bans(&door, 1_000);
    let daemon = door.ready_as_installed();
    let flood = |count: &str| {
        let pairs = ["--sources", "200000", "--each", "2", "--rate", "50000"];
        Flood::start(&world, &[&pairs[..], &["--count", count]].concat()).sent();
    };
    flood("160000");
    daemon.tells(&["isn't banned", "as many sources are banned as can be"]);
    let full = daemon.rss_kib();
    flood("400000");
    device.opens(&["--open-for", "1s"]);

    let grown = daemon.rss_kib().saturating_sub(full);
    assert!(grown < 4_096, "{grown} KiB more than after half as many sources ({full} KiB)");
    let listed = door.run(&["bans", "--json"]).success().json();
    assert_eq!(listed["bans"].as_array().expect("a list").len(), BY_FAILURES);
    let file = fs::metadata(door.state().join("bans")).expect("the file of bans").len();
    assert!(file <= 64 + 128 * Bans::MAX as u64, "{file} bytes");
    // That failures can take no more keeps no admin from banning.
    door.run(&["ban", "192.0.2.7"]).success();
    let status = door.run(&["status", "--json"]).success().json();
    let log = daemon.terminate();
    // Ten at once, then one a minute, and one at the end.
    assert!(lines(&log, "by=\"failures\"").len() <= 15, "{log}");
    assert_eq!(stand_for(&log, "by=\"failures\""), status["decisions"]["banned"]);
    assert!(lines(&log, "isn't banned").len() <= 5, "{log}");
    assert_eq!(stand_for(&log, "isn't banned"), status["decisions"]["not-banned"]);
}

#[test]
fn a_client_that_floods_with_fresh_packets_fills_its_own_share_of_the_memory_alone() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let tables = "[replay]\ncapacity = 12\nper-client = 8\n";
    let door = Door::new(&world, &Settings { skew: WIDE, services: SERVICES, tables });
    let (greedy, modest) = (door.enrol("lamp"), door.enrol("press-17"));
    let daemon = door.ready_for_ahead();
    let client = Foreign(world.client());
    let with = |more: &[&'static str]| [&AHEAD[..], &["--open-for", "1"], more].concat();
    client.knock(&greedy, &with(&["--count", "40"]));
    daemon.refuses("replay-memory-full", 32);
    assert_eq!(daemon.granted(), 8);
    for round in 1..=4 {
        client.knock(&modest, &with(&[]));
        until("the other client is granted", || daemon.granted() == 8 + round);
    }
    // Now all of it is taken: what doesn't fit in is refused, and what is in stays.
    client.knock(&modest, &with(&[]));
    daemon.refuses("replay-memory-full", 33);
    door.wait_until_over();
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered);
}

#[test]
fn copies_at_line_rate_are_a_handful_of_lines_and_hide_nothing_of_a_thief_who_tries_a_stolen_key() {
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings { skew: WIDE, ..Settings::default() });
    let (device, stolen) = (door.enrol("press-17"), door.enrol("lamp"));
    let daemon = door.ready_for_ahead_as_installed();
    let client = Foreign(world.client());
    let packet = client.datagram(&device, &AHEAD);
    world.client().send_udp(broker4(&world), KNOCK_PORT, &packet);
    world.client().tcp_until(broker4(&world), MQTTS, State::Open);
    let copies = ["--sources", "100000", "--begins", &packet, "--rate", "8000", "--seconds", "5"];
    let flood = Flood::start(&world, &copies);
    // What the thief asks for isn't his victim's, and each of his packets is another one. The flood has some lost.
    let refused = |reason: &str| {
        let status = door.run(&["status", "--json"]).success().json();
        status["decisions"]["refused"][reason].as_u64().unwrap_or(0)
    };
    until("twenty of the thief's packets are refused", || {
        client.knock(&stolen, &[&AHEAD[..], &["--service", "ssh", "--count", "20"]].concat());
        refused("service-not-allowed") >= 20
    });
    daemon.tells(&["WARN", "client=lamp", "reason=\"service-not-allowed\"", "service=ssh"]);
    flood.sent();
    assert!(refused("address-mismatch") > 1_000);
    assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open);

    let (all, theirs) = (refused("service-not-allowed"), "client=lamp");
    let log = daemon.terminate();
    assert_eq!(stand_for(&log, theirs), all, "{log}");
    // The first at once, one a minute, and one at the end.
    assert!((2..=5).contains(&lines(&log, theirs).len()), "{log}");
    let copied = lines(&log, "client=press-17");
    assert!(
        copied.iter().filter(|line| line.contains("decision=\"refused\"")).count() <= 2,
        "{log}"
    );
    let summed_up = lines(&log, " copies=");
    assert!((1..=5).contains(&summed_up.len()), "{log}");
    assert!(!log.contains("decision=\"banned\""), "a copy is no strike: {log}");
    assert!(log.lines().count() < 20, "{log}");
}
