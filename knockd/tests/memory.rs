//! Whatever becomes of the daemon, its disk, its host and its clock: no packet is accepted twice, and no fresh one is
//! refused for longer than is said.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;
#[path = "memory/power.rs"]
mod power;
#[path = "memory/world.rs"]
mod world;

use std::fs;

use knockd::journal::seen::Condition;
use proptest::prelude::*;

use world::{AHEAD, HOUR, SKEW, World};

#[test]
fn a_clean_reboot_costs_nothing_the_first_packet_opens_and_no_used_one_does() {
    let mut world = World::new();
    let used = world.fresh();
    assert_eq!(world.send(&used), "granted");
    world.stop();
    world.reboot(0);
    assert_eq!(world.start().seen, Condition::Stopped);
    assert_eq!(world.send(&used), "replayed");
    let slow = world.packet(-SKEW + 1);
    assert_eq!(world.send(&slow), "granted");
}

#[test]
fn a_crash_after_a_clean_stop_and_a_start_is_no_clean_reboot() {
    let mut world = World::new();
    world.stop();
    world.reboot(0);
    assert_eq!(world.start().seen, Condition::Stopped);
    let used = world.fresh();
    assert_eq!(world.send(&used), "granted");
    world.lose_power(0, &[]);
    assert_eq!(world.start().seen, Condition::EarlierBoot);
    assert_ne!(world.send(&used), "granted");
}

#[test]
fn after_a_loss_of_power_what_was_accepted_is_refused_and_the_fleet_is_not_for_longer_than_said() {
    for skew in [SKEW, HOUR] {
        let mut world = World::new();
        world.skew = skew;
        world.pass(3 * HOUR);
        let used = world.fresh();
        assert_eq!(world.send(&used), "granted");
        world.lose_power(0, &[]);
        world.start();
        assert_ne!(world.send(&used), "granted");
        world.pass(AHEAD + 1);
        let fresh = world.fresh();
        assert_eq!(world.send(&fresh), "granted");
        assert_ne!(world.send(&used), "granted");
    }
}

#[test]
fn a_clock_that_is_ahead_at_the_start_and_then_set_right_shuts_nobody_out() {
    let mut world = World::new();
    world.stop();
    world.reboot(2 * HOUR);
    world.start();
    world.pass(4_000);
    world.set_clock(-2 * HOUR);
    let fresh = world.fresh();
    assert_eq!(world.send(&fresh), "granted");
    world.lose_power(2 * HOUR, &[]);
    world.start();
    world.pass(AHEAD);
    world.set_clock(-2 * HOUR);
    world.pass(1_000);
    let fresh = world.fresh();
    assert_eq!(world.send(&fresh), "granted");
}

#[test]
fn no_change_of_the_skew_shuts_anybody_out_at_the_next_start_or_lets_used_packets_in() {
    let mut world = World::new();
    let used = world.fresh();
    assert_eq!(world.send(&used), "granted");
    for skew in [12 * HOUR, 1_000, 6 * HOUR, SKEW] {
        world.reload(skew, 1_000);
        world.kill();
        world.start();
        world.pass(1_000);
        assert_ne!(world.send(&used), "granted");
        let fresh = world.fresh();
        assert_eq!(world.send(&fresh), "granted", "{skew}");
    }
}

#[test]
fn a_state_folder_that_is_put_back_as_it_was_is_noticed_and_makes_no_used_packet_new() {
    let mut world = World::new();
    world.copy_folder();
    let (used, counted) = (world.fresh(), world.counted(7));
    assert_eq!(world.send(&used), "granted");
    assert_eq!(world.send(&counted), "granted");
    world.kill();
    world.put_folder_back();
    assert_eq!(world.start().lacking, 1);
    assert_eq!(world.send(&used), "replayed");
    assert_eq!(world.send(&counted), "counter-behind");
}

#[test]
fn a_memory_that_was_made_larger_shows_a_folder_that_is_put_back_as_well() {
    let mut world = World::new();
    world.reload(SKEW, 2);
    world.stop();
    world.start();
    // The third one takes the place of the first, which is forgotten by then.
    let first = world.fresh();
    assert_eq!(world.send(&first), "granted");
    world.pass(SKEW * 3 / 2);
    let second = world.fresh();
    assert_eq!(world.send(&second), "granted");
    world.pass(SKEW * 3 / 4);
    world.copy_folder();
    let third = world.fresh();
    assert_eq!(world.send(&third), "granted");
    world.reload(SKEW, 4);
    let last = [world.fresh(), world.fresh()];
    for packet in &last {
        assert_eq!(world.send(packet), "granted");
    }
    world.kill();
    world.put_folder_back();
    assert_eq!(world.start().lacking, 3);
    for packet in [second, third].iter().chain(&last) {
        assert_ne!(world.send(packet), "granted");
    }
}

#[test]
fn without_a_second_memory_everything_goes_on_and_it_is_told_that_there_is_none() {
    let mut world = World::new();
    world.kill();
    fs::remove_dir_all(world.twin()).unwrap();
    fs::write(world.twin(), "no folder").unwrap();
    assert!(!world.start().has_twin);
    let used = world.fresh();
    assert_eq!(world.send(&used), "granted");
    world.kill();
    world.start();
    assert_eq!(world.send(&used), "replayed");
}

#[test]
fn a_snapshot_that_is_resumed_counts_as_a_loss_by_the_clock_as_it_will_be_when_it_is_right() {
    let mut world = World::new();
    // What was accepted behind the snapshot: nobody knows of it, and the clock shows the snapshot's time.
    world.set_clock(-HOUR);
    world.lose();
    let captured = world.packet(HOUR);
    world.set_clock(HOUR);
    world.pass(1_000);
    assert_eq!(world.send(&captured), "stale");
    world.kill();
    world.start();
    assert_eq!(world.send(&captured), "stale");
    world.pass(SKEW);
    let fresh = world.fresh();
    assert_eq!(world.send(&fresh), "granted");
}

#[test]
fn a_folder_that_is_marked_as_new_waits_for_nothing_and_the_mark_counts_once() {
    let mut world = World::without_anything();
    fs::create_dir_all(world.state()).unwrap();
    fs::write(world.state().join("fresh"), "").unwrap();
    assert_eq!(world.start().seen, Condition::First);
    let (used, counted) = (world.fresh(), world.counted(1));
    assert_eq!(world.send(&used), "granted");
    assert_eq!(world.send(&counted), "granted");
    assert!(!world.state().join("fresh").exists());
    world.kill();
    fs::remove_file(world.state().join("seen")).unwrap();
    assert_eq!(world.start().seen, Condition::Missing);
    let fresh = world.fresh();
    assert_eq!(world.send(&fresh), "stale");
}

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    /// A device knocks whose clock is off the host's by this.
    Knock(i64),
    /// A device without a clock knocks with a number beyond its last by this.
    Count(u64),
    /// Somebody sends all again that was ever accepted.
    Replay,
    Pass(i64),
    SetClock(i64),
    Kill,
    /// An orderly end, and a reboot if there is a step of the clock at it.
    Stop(Option<i64>),
    /// A loss of power: which of the writes that were not synced are on the disk, and how the clock comes up.
    LosePower(Vec<bool>, i64),
    Copy,
    /// The copy of the state folder is put back while no daemon runs.
    PutBack,
    /// Another skew and capacity, by a reload.
    Reload(i64, u32),
}

fn event() -> impl Strategy<Value = Event> {
    let off = prop::sample::select(vec![-SKEW, -1, 0, 1, 10_000, SKEW - 1, SKEW, HOUR]);
    let time = prop::sample::select(vec![0, 1, 1_000, 5_000, AHEAD, SKEW, 2 * SKEW, HOUR]);
    let step = || {
        let by = prop::sample::select(vec![0, 0, 0, 2_000, SKEW, HOUR, 24 * HOUR]);
        (by, any::<bool>()).prop_map(|(by, back)| if back { -by } else { by })
    };
    let skew = prop::sample::select(vec![1_000, SKEW, HOUR, 12 * HOUR]);
    prop_oneof![
        8 => off.prop_map(Event::Knock),
        2 => (0_u64..3).prop_map(Event::Count),
        3 => Just(Event::Replay),
        4 => time.prop_map(Event::Pass),
        2 => step().prop_map(Event::SetClock),
        1 => Just(Event::Kill),
        2 => prop::option::of(step()).prop_map(Event::Stop),
        3 => (prop::collection::vec(any::<bool>(), 0..6), step())
            .prop_map(|(kept, step)| Event::LosePower(kept, step)),
        1 => Just(Event::Copy),
        1 => Just(Event::PutBack),
        2 => (skew, 1_u32..8).prop_map(|(skew, capacity)| Event::Reload(skew, capacity)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_no_packet_is_accepted_twice_and_no_fresh_one_is_refused_for_longer_than_said(
        events in prop::collection::vec(event(), 1..50),
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Knock(off) => {
                    let packet = world.packet(off);
                    let told = world.send(&packet);
                    let is_fresh = off.abs() <= world.skew;
                    prop_assert!(
                        !is_fresh || told != "stale" || world.may_refuse(off),
                        "a fresh packet is refused: {:?}", world
                    );
                }
                Event::Count(beyond) => {
                    let packet = world.counted(world.last_counted() + beyond);
                    let told = world.send(&packet);
                    prop_assert_eq!(told == "granted", beyond > 0);
                }
                Event::Replay => {
                    for packet in world.used() {
                        prop_assert_ne!(world.send(&packet), "granted", "accepted twice: {:?}", world);
                    }
                }
                Event::Pass(time) => world.pass(time),
                Event::SetClock(by) => world.set_clock(by),
                Event::Kill => {
                    world.kill();
                    world.start();
                }
                Event::Stop(reboot) => {
                    world.stop();
                    if let Some(step) = reboot {
                        world.reboot(step);
                    }
                    world.start();
                }
                Event::LosePower(kept, step) => {
                    world.lose_power(step, &kept);
                    world.start();
                }
                Event::Copy => world.copy_folder(),
                Event::PutBack => {
                    world.kill();
                    world.put_folder_back();
                    world.start();
                }
                Event::Reload(skew, capacity) => world.reload(skew, capacity),
            }
        }
        for packet in world.used() {
            prop_assert_ne!(world.send(&packet), "granted", "accepted twice: {:?}", world);
        }
    }
}
