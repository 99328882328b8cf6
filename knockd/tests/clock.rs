//! Steps of the clock on the wall, in every direction: no grant becomes longer or shorter, and no used packet
//! is accepted again, whatever becomes of the daemon and its memory in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{fs, path::PathBuf};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Timestamp, seal,
};
use knockd::{
    admission::Admission,
    gate::{
        clock::{ClockStep, Now, StepDetector, Uptime},
        directory::Directory,
    },
    journal::{BootId, DaemonId, StateFolder, Writer, seen::Condition},
    restore::{Restored, restore},
};
use proptest::prelude::*;
use tempfile::TempDir;

use host::{Shared, client, device, door, policy, secret, word};

/// A Monday, at noon.
const NOON: i64 = 1_790_000_000_000 / 86_400_000 * 86_400_000 + 43_200_000;
const SKEW: i64 = 30_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const OPEN_FOR: i64 = 60_000;

/// A host with a clock that can be set, and a daemon on it.
struct Host {
    temporary: TempDir,
    firewall: Shared,
    /// Milliseconds that have passed since the test began: nobody sets these.
    passed: i64,
    /// When the host was booted last.
    booted: i64,
    boots: u8,
    /// What the clock shows beyond `passed`.
    offset: i64,
    steps: StepDetector,
    running: Option<Admission<Shared>>,
}

impl Host {
    /// Booted an hour ago, its clock right; the daemon starts now, on an empty state folder.
    fn new() -> Self {
        let now = Now { utc: Timestamp::from_millis(0), uptime: Uptime::from_millis(0) };
        let mut host = Self {
            temporary: tempfile::tempdir().unwrap(),
            firewall: Shared::default(),
            passed: HOUR,
            booted: 0,
            boots: 1,
            offset: NOON - HOUR,
            steps: StepDetector::new(now),
            running: None,
        };
        host.start();
        host
    }

    /// A host whose daemon has been running for longer than the skew.
    fn warmed_up() -> Self {
        let mut host = Self::new();
        host.passed += SKEW + 1;
        host
    }

    fn utc(&self) -> i64 {
        (self.passed + self.offset).max(0)
    }

    fn now(&self) -> Now {
        Now {
            utc: Timestamp::from_millis(self.utc().try_into().unwrap()),
            uptime: Uptime::from_millis((self.passed - self.booted).try_into().unwrap()),
        }
    }

    /// Ends the daemon as kill -9 does, and starts it again.
    fn start(&mut self) -> Restored {
        self.stop();
        let now = self.now();
        let folder = StateFolder::open(&self.temporary.path().join("state")).unwrap();
        let policy = policy();
        let directory = Directory::new(policy.services.clone(), vec![client()], &policy.realm);
        let writer = Writer {
            boot: BootId::from_bytes([self.boots; 16]),
            daemon: DaemonId::from_random([9; 16]),
        };
        let (admission, restored) =
            restore(&policy, directory, folder, writer, self.firewall.clone(), now).unwrap();
        self.steps = StepDetector::new(now);
        self.running = Some(admission);
        restored
    }

    fn stop(&mut self) {
        drop(self.running.take());
    }

    /// The machine goes down, and comes up with this on its clock. What the daemon had written isn't on the
    /// disk yet.
    fn reboot_and_lose_the_memory(&mut self, utc: i64) {
        self.stop();
        let _ = fs::remove_file(self.seen());
        self.firewall = Shared::default();
        self.boots += 1;
        self.booted = self.passed;
        self.offset = utc - self.passed;
    }

    fn seen(&self) -> PathBuf {
        self.temporary.path().join("state/seen")
    }

    /// What the daemon does before each batch.
    fn look(&mut self) -> Option<ClockStep> {
        let now = self.now();
        let admission = self.running.as_mut().unwrap();
        let step = self.steps.look(now);
        let _ = admission.gate_mut().prepare(now.utc, usize::MAX, &mut Vec::new());
        step
    }

    fn knock(&mut self, packet: &SealedDatagram) -> String {
        self.look();
        let mut told = Vec::new();
        let now = self.now();
        let admission = self.running.as_mut().unwrap();
        admission.handle([(packet.as_slice(), device())].into_iter(), now, |outcome, _, _| {
            told.push(word(outcome));
        });
        // Further ones are of bans.
        told.swap_remove(0)
    }

    fn is_open(&self) -> bool {
        self.firewall.0.borrow().is_open(&door(), self.now().uptime)
    }

    /// A packet of a device whose clock shows this.
    fn packet(&self, nonce: u32, utc: i64) -> SealedDatagram {
        let request = Request {
            timestamp: Timestamp::from_millis(utc.try_into().unwrap()),
            address: ClientAddress::Literal(door().address),
            open_for: OpenFor::Default,
            action: Action::Open,
            reply: ReplyWanted::No,
            service: None,
        };
        let keys = ClientKeys::derive(&secret(), &Realm::default());
        let mut random = [0; 12];
        random[..4].copy_from_slice(&nonce.to_be_bytes());
        seal(&keys, Day::of(request.timestamp).unwrap(), Nonce::from_random(random), &request)
    }

    /// A packet of a device whose clock shows what the host's does.
    fn fresh(&self, nonce: u32) -> SealedDatagram {
        self.packet(nonce, self.utc())
    }
}

#[test]
fn a_step_in_either_direction_makes_no_grant_longer_or_shorter_also_across_a_restart() {
    for step in [-400 * DAY, -DAY, -HOUR, -2_000, 2_000, HOUR, DAY, 400 * DAY] {
        for restarts in [false, true] {
            let mut host = Host::warmed_up();
            assert_eq!(host.knock(&host.fresh(1)), "granted");
            host.offset += step;
            if restarts {
                assert_eq!(host.start().live, 1, "{step}");
            } else {
                assert_eq!(host.look().map(|step| step.by_ms), Some(step));
            }
            host.passed += OPEN_FOR - 1;
            assert!(host.is_open(), "{step}");
            host.passed += 1;
            assert!(!host.is_open(), "{step}");
        }
    }
}

#[test]
fn after_a_step_a_used_packet_is_refused_and_a_fresh_one_by_the_new_clock_is_accepted() {
    for step in [-DAY, -HOUR, -2_000, 2_000, HOUR, DAY] {
        let mut host = Host::warmed_up();
        host.passed += 2 * DAY;
        let used = host.fresh(1);
        assert_eq!(host.knock(&used), "granted");
        host.offset += step;
        assert_ne!(host.knock(&used), "granted", "{step}");
        assert_eq!(host.knock(&host.fresh(2)), "granted", "{step}");
        host.offset -= step;
        assert_ne!(host.knock(&used), "granted", "{step}");
    }
}

#[test]
fn a_clock_that_was_at_1970_at_start_and_is_set_later_counts_as_if_it_had_been_right() {
    for restarts in [false, true] {
        let mut host = Host::warmed_up();
        let right = host.offset;
        let used = host.packet(1, host.utc() + SKEW);
        assert_eq!(host.knock(&used), "granted");
        host.reboot_and_lose_the_memory(0);
        host.passed += 5_000;
        assert_eq!(host.start().seen, Condition::Missing);
        let started = host.passed;
        host.passed += 2_000;
        if restarts {
            // The clock is set while no daemon looks.
            host.stop();
        }
        host.offset = right;
        if restarts {
            assert_eq!(host.start().seen, Condition::Intact);
        }
        assert_eq!(host.knock(&used), "stale");
        let bound = started + right + SKEW;
        host.passed += 10_000;
        assert_eq!(host.knock(&host.packet(2, bound)), "stale");
        assert_eq!(host.knock(&host.packet(3, bound + 1)), "granted");
    }
}

#[test]
fn a_step_too_small_to_be_told_counts_like_any_other_for_packets_that_may_have_been_lost() {
    let mut host = Host::new();
    let bound = host.utc() + SKEW + 900;
    host.offset += 900;
    host.passed += 5_000;
    assert_eq!(host.look(), None);
    assert_eq!(host.knock(&host.packet(1, bound)), "stale");
    assert_eq!(host.knock(&host.packet(2, bound + 1)), "granted");
}

#[test]
fn a_step_ahead_by_mistake_shuts_nobody_out_once_it_is_taken_back() {
    for restarts in [false, true] {
        let mut host = Host::warmed_up();
        host.offset += 400 * DAY;
        assert_eq!(host.knock(&host.packet(1, host.utc() - 400 * DAY)), "unknown-tag");
        if restarts {
            host.start();
        }
        host.offset -= 400 * DAY;
        assert_eq!(host.knock(&host.fresh(2)), "granted");
    }
}

#[test]
fn a_step_back_before_the_newest_forgotten_stamp_shuts_everybody_out_until_the_clock_has_passed_it()
{
    let mut host = Host::new();
    let bound = host.utc() + SKEW;
    host.offset -= HOUR;
    for restarts in [false, true] {
        if restarts {
            host.start();
        }
        assert_eq!(host.knock(&host.fresh(1)), "stale");
    }
    host.passed += bound - host.utc();
    assert_eq!(host.knock(&host.packet(2, bound)), "stale");
    assert_eq!(host.knock(&host.packet(3, bound + 1)), "granted");
}

/// What can happen to a host.
#[derive(Clone, Debug)]
enum Event {
    /// A device knocks whose clock is off the host's by this.
    Knock(i64),
    /// Somebody sends all packets again that were ever accepted.
    Replay,
    Pass(i64),
    Step(i64),
    /// The daemon is killed and started; the clock is set while it is away.
    Restart(i64),
    /// The machine goes down with what was not on its disk, and its clock comes up like this.
    Crash(i64),
}

/// Few different ones, so that steps often lead back to where the clock was.
fn step() -> impl Strategy<Value = i64> {
    let ahead = prop::sample::select(vec![2_000, SKEW + 1, 2 * SKEW, HOUR, DAY]);
    (ahead, any::<bool>()).prop_map(|(by, back)| if back { -by } else { by })
}

fn event() -> impl Strategy<Value = Event> {
    let off = prop::sample::select(vec![-SKEW - 1, -SKEW, 0, SKEW - 1, SKEW, SKEW + 1]);
    let time = prop::sample::select(vec![0, 1, 1_000, SKEW, 2 * SKEW, HOUR]);
    prop_oneof![
        4 => off.prop_map(Event::Knock),
        3 => Just(Event::Replay),
        3 => time.prop_map(Event::Pass),
        2 => step().prop_map(Event::Step),
        2 => prop_oneof![Just(0), step()].prop_map(Event::Restart),
        2 => prop_oneof![Just(0), step()].prop_map(Event::Crash),
    ]
}

/// A packet that was accepted, by a clock with this offset.
struct Used {
    packet: SealedDatagram,
    offset: i64,
    /// Whether the memory of it was lost.
    lost: bool,
}

proptest! {
    /// A packet that the memory holds, or has forgotten in order, is refused for ever. One that was lost with
    /// the memory is as long as the clock is, or was at the start after the loss, as late by its offset as when the
    /// packet was used: that it was ahead before can't be known.
    #[test]
    fn no_sequence_of_steps_restarts_and_crashes_makes_a_used_packet_new(
        events in prop::collection::vec(event(), 1..40)
    ) {
        let mut host = Host::new();
        let mut used: Vec<Used> = Vec::new();
        let mut at_start = host.offset;
        for (nonce, event) in (0..).zip(events) {
            match event {
                Event::Knock(off) => {
                    let packet = host.packet(nonce, host.utc() + off);
                    if host.knock(&packet) == "granted" {
                        used.push(Used { packet, offset: host.offset, lost: false });
                    }
                }
                Event::Replay => {
                    let latest = at_start.max(host.offset);
                    for old in used.iter().filter(|old| !old.lost || old.offset <= latest) {
                        prop_assert_ne!(host.knock(&old.packet), "granted");
                    }
                }
                Event::Pass(time) => host.passed += time,
                Event::Step(by) => host.offset += by,
                Event::Restart(by) => {
                    host.stop();
                    host.offset += by;
                    host.start();
                }
                Event::Crash(by) => {
                    host.reboot_and_lose_the_memory(host.utc() + by);
                    host.start();
                    used.iter_mut().for_each(|old| old.lost = true);
                    at_start = host.offset;
                }
            }
        }
    }
}
