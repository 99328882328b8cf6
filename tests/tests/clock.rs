//! The clock is set while the daemon runs, ahead and back.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::door::{KNOCK_PORT, MQTTS, WIDE, broker4};
use e2e::table::counted;
use e2e::{Daemon, Device, Door, Echo, FakeClock, Foreign, Settings, State, World};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const SETTINGS: Settings<'_> = Settings {
    skew: WIDE,
    services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
    tables: "",
};

fn refused(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains("decision=\"refused\"")).count()
}

/// A packet of a device whose clock is as much beyond the right time as the daemon's, and 19 seconds more: see
/// [`e2e::door::AHEAD`].
fn packet(world: &World, device: &Device<'_>, beyond: i64, open_for: &str) -> String {
    let offset = (beyond + 19).to_string();
    // `=`, because a number below zero looks like an option.
    let offset = format!("--clock-offset={offset}");
    Foreign(world.client()).datagram(device, &[&offset, "--open-for", open_for])
}

fn send(world: &World, packet: &str) {
    world.client().send_udp(broker4(world), KNOCK_PORT, packet);
}

#[test]
fn a_step_in_either_direction_ends_no_grant_early_or_late_revives_no_used_packet_and_shuts_nobody_out()
 {
    const OPEN_FOR: Duration = Duration::from_secs(6);
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let clock = FakeClock::new(&world);
    let daemon = door.ready_for_ahead_by(&clock);
    let mut used = Vec::new();
    let replay = |used: &[String]| {
        let before = refused(&daemon);
        used.iter().for_each(|old| send(&world, old));
        e2e::until("all were refused", || refused(&daemon) == before + used.len());
    };
    let mut shown = 0;
    for (stepped, told) in [
        (DAY, "set ahead by 86400 s"),
        (0, "set back by 86400 s"),
        (HOUR, "set ahead by 3600 s"),
        (0, "set back by 3600 s"),
    ] {
        used.push(packet(&world, &device, shown, "6"));
        let granted = Instant::now();
        send(&world, used.last().expect("one"));
        world.client().tcp_until(broker4(&world), MQTTS, State::Open);

        clock.show(stepped);
        shown = stepped;
        replay(&used);
        daemon.tells(&["WARN", "the clock was", told]);
        assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Open, "{told}");

        // By the new clock, past the kernel's filter, for less time than the old grant has yet.
        let (through, grants) =
            (counted(&world, "knock", "a client's tag: always through"), daemon.granted());
        used.push(packet(&world, &device, shown, "1"));
        send(&world, used.last().expect("one"));
        e2e::until("it is granted", || daemon.granted() == grants + 1);
        assert!(counted(&world, "knock", "a client's tag: always through") > through, "{told}");

        door.wait_until_over();
        assert!(granted.elapsed() + Duration::from_secs(1) > OPEN_FOR, "{told}");
        assert_eq!(world.client().tcp(broker4(&world), MQTTS), State::Filtered, "{told}");
        replay(&used);
        assert_eq!(door.grants().len(), 0, "{told}");
    }
}

#[test]
fn a_clock_set_back_before_the_start_without_a_memory_lets_nobody_in_and_the_event_says_until_when()
{
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let clock = FakeClock::new(&world);
    let daemon = door.ready_for_ahead_by(&clock);
    clock.show(-HOUR);
    send(&world, &packet(&world, &device, -HOUR, "1"));
    daemon.tells(&["client=press-17", "reason=\"stale\""]);
    daemon.tells(&["WARN", "nobody gets in before", "remove seen"]);
    clock.show(0);
    send(&world, &packet(&world, &device, 0, "1"));
    e2e::until("it is granted", || daemon.granted() == 1);
}

#[test]
fn after_a_step_to_another_day_the_kernel_holds_the_tags_of_that_day_and_no_others() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let clock = FakeClock::new(&world);
    let daemon = door.ready_for_ahead_by(&clock);
    // Without their timeouts; near midnight there are two.
    let tags = || {
        let listing = world.broker().run(&[
            "nft",
            "--stateless",
            "--json",
            "list",
            "set",
            "inet",
            "knockd",
            "tags",
        ]);
        let answer = listing.success().json();
        let set = answer["nftables"].as_array().expect("a list").last().expect("a set").clone();
        let elements = set["set"]["elem"].as_array().expect("elements").clone();
        elements.iter().map(|tag| tag["elem"]["val"].to_string()).collect::<BTreeSet<_>>()
    };
    let before = tags();
    clock.show(2 * DAY);
    send(&world, &packet(&world, &device, 0, "1"));
    daemon.tells(&["WARN", "the clock was set"]);
    daemon.tells(&["reason=\"unknown-tag\""]);
    let after = tags();
    assert_eq!(after.len(), before.len());
    assert!(after.is_disjoint(&before), "{before:?} {after:?}");
}

#[test]
fn a_step_within_the_day_lets_the_days_tags_stay_for_as_long_as_the_day_lasts_by_the_new_clock() {
    let world = World::new();
    let door = Door::new(&world, &SETTINGS);
    let device = door.enrol("press-17");
    let clock = FakeClock::new(&world);
    let daemon = door.ready_for_ahead_by(&clock);
    // How long the one tag stays: until midnight by the clock, the skew and a margin.
    let stays = || {
        let listing = world.broker().run(&["nft", "list", "set", "inet", "knockd", "tags"]);
        let listing = listing.success().stdout;
        let ends = listing.split("expires ").skip(1);
        ends.map(|end| seconds(end.split([',', ' ', '\n']).next().expect("a time"))).max()
    };
    let before = stays().expect("a tag");
    // Either way it is the same day in an hour's distance.
    let by = if before > 3 * HOUR { HOUR } else { -HOUR };
    clock.show(by);
    send(&world, &packet(&world, &device, by, "1"));
    daemon.tells(&["WARN", "the clock was set"]);
    daemon.tells(&["client=press-17", "decision="]);
    let after = stays().expect("a tag");
    assert!((after - (before - by)).abs() < 60, "{before} s, and after a step by {by} s {after} s");
}

/// A time as nft shows it, such as 1d2h3m4s5ms, in whole seconds.
fn seconds(text: &str) -> i64 {
    let mut total = 0;
    let mut number = 0;
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if let Some(digit) = next.to_digit(10) {
            number = number * 10 + i64::from(digit);
            continue;
        }
        total += match (next, rest.peek()) {
            ('m', Some('s')) => break,
            ('d', _) => number * DAY,
            ('h', _) => number * HOUR,
            ('m', _) => number * 60,
            ('s', _) => number,
            _ => panic!("not a time: {text}"),
        };
        number = 0;
    }
    total
}
