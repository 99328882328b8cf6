//! A host with a clock, a disk that can lose power, a folder on /run, and a daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, Timestamp, seal,
};
use knockd::{
    admission::Admission,
    gate::{
        ceiling::Ceiling,
        clock::{Now, Uptime},
        directory::Directory,
        policy::{Client, ClientClock, ClockSkew, Policy},
        replay::Floor,
    },
    journal::{BootId, DaemonId, StateFolder, Writer},
    restore::{Restored, restore},
};
use tempfile::TempDir;

use crate::{
    host::{Shared, client, device, door, policy, secret, word},
    power::{Power, PowerFile},
};

/// A Monday, at noon.
const NOON: i64 = 1_790_000_000_000 / 86_400_000 * 86_400_000 + 43_200_000;
pub(crate) const SKEW: i64 = 30_000;
pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const AHEAD: i64 = 15_000;
/// For how long after a packet the ceiling is kept ahead, and between two looks at it.
const KEPT: i64 = 10 * 60_000 + HOUR;

pub(crate) struct World {
    temporary: TempDir,
    power: Power,
    firewall: Shared,
    /// Milliseconds that have passed since the test began.
    passed: i64,
    booted: i64,
    boots: u8,
    daemons: u8,
    /// What the clock shows beyond `passed`.
    offset: i64,
    pub(crate) skew: i64,
    capacity: u32,
    running: Option<Admission<Shared, PowerFile>>,
    nonce: u32,
    used: Vec<(SealedDatagram, i64, i64)>,
    last_counted: u64,
    /// Up to which stamp packets may be refused, by what happened.
    refused: i64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stamps: Vec<_> = self.used.iter().map(|(_, stamp, _)| stamp - NOON).collect();
        f.debug_struct("World")
            .field("utc", &(self.utc() - NOON))
            .field("stamps", &stamps)
            .field("refused", &(self.refused - NOON))
            .finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn without_anything() -> Self {
        Self {
            temporary: tempfile::tempdir().unwrap(),
            power: Power::default(),
            firewall: Shared::default(),
            passed: HOUR,
            booted: 0,
            boots: 1,
            daemons: 0,
            offset: NOON - HOUR,
            skew: SKEW,
            capacity: 1_000,
            running: None,
            nonce: 0,
            used: Vec::new(),
            last_counted: 0,
            refused: 0,
        }
    }

    /// A host whose daemon has been running for longer than the skew, and where a device has counted to 1.
    pub(crate) fn new() -> Self {
        let mut world = Self::without_anything();
        fs::create_dir_all(world.state()).unwrap();
        fs::write(world.state().join("fresh"), "").unwrap();
        world.start();
        world.pass(SKEW + 1);
        let first = world.counted(1);
        assert_eq!(world.send(&first), "granted");
        world
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.temporary.path().join("state")
    }

    pub(crate) fn twin(&self) -> PathBuf {
        self.temporary.path().join("run")
    }

    fn copy(&self) -> PathBuf {
        self.temporary.path().join("copy")
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

    fn policy(&self) -> Policy {
        let mut policy = policy();
        let skew = Duration::from_millis(self.skew.try_into().unwrap());
        policy.clock_skew = ClockSkew::try_from(skew).unwrap();
        policy.replay.capacity = self.capacity;
        policy
    }

    pub(crate) fn start(&mut self) -> Restored {
        let power = self.power.clone();
        let make = move |path: &Path, file| power.file(path, file);
        let mut folder = StateFolder::open_with(&self.state(), make).unwrap();
        StateFolder::open(&self.twin()).into_iter().for_each(|twin| folder.set_twin(twin));
        let policy = self.policy();
        let lamp = Client {
            name: "lamp".parse().unwrap(),
            secret: lamp(),
            clock: ClientClock::Counter,
            ..client()
        };
        let clients = vec![client(), lamp];
        let directory = Directory::new(policy.services.clone(), clients, &policy.realm);
        self.daemons = self.daemons.wrapping_add(1);
        let writer = Writer {
            boot: BootId::from_bytes([self.boots; 16]),
            daemon: DaemonId::from_random([self.daemons; 16]),
        };
        let firewall = self.firewall.clone();
        let (admission, restored) =
            restore(&policy, directory, folder, writer, firewall, self.now()).unwrap();
        self.running = Some(admission);
        restored
    }

    /// As kill -9 does.
    pub(crate) fn kill(&mut self) {
        drop(self.running.take());
    }

    /// As SIGTERM does.
    pub(crate) fn stop(&mut self) {
        let now = self.now();
        self.running.take().unwrap().close(now).unwrap();
    }

    /// The machine goes down with everything on its disk, and its clock comes up off by this.
    pub(crate) fn reboot(&mut self, step: i64) {
        self.kill();
        self.power.forget();
        self.firewall = Shared::default();
        let _ = fs::remove_dir_all(self.twin());
        let _ = fs::remove_dir_all(self.copy());
        self.boots += 1;
        self.passed += 1_000;
        self.booted = self.passed;
        self.offset += step;
    }

    pub(crate) fn lose_power(&mut self, step: i64, kept: &[bool]) {
        self.kill();
        self.power.goes(kept);
        for (_, stamp, passed) in &self.used {
            let since = (self.passed - passed).min(KEPT);
            self.refused = self.refused.max(stamp + since + AHEAD);
        }
        self.reboot(step);
    }

    pub(crate) fn copy_folder(&self) {
        let _ = fs::remove_dir_all(self.copy());
        copy(&self.state(), &self.copy());
    }

    /// Puts the copy of this boot back, if there is one.
    pub(crate) fn put_folder_back(&self) {
        if self.copy().exists() {
            self.power.forget();
            fs::remove_dir_all(self.state()).unwrap();
            copy(&self.copy(), &self.state());
        }
    }

    pub(crate) fn pass(&mut self, time: i64) {
        self.passed += time;
        let now = self.now();
        if let Some(admission) = &mut self.running {
            admission.keep_ceiling(now);
            admission.disk_has_done(Vec::new(), now, |_, _, _| {});
        }
    }

    pub(crate) fn set_clock(&mut self, by: i64) {
        self.offset += by;
        let now = self.now();
        if let Some(admission) = &mut self.running {
            admission.write_floor(now).unwrap();
        }
    }

    pub(crate) fn reload(&mut self, skew: i64, capacity: u32) {
        (self.skew, self.capacity) = (skew, capacity);
        let (policy, now) = (self.policy(), self.now());
        let admission = self.running.as_mut().unwrap();
        admission.make_room(capacity).unwrap();
        let _ = admission.follow(&policy, now);
    }

    /// What was accepted may be remembered by nobody.
    pub(crate) fn lose(&mut self) {
        let now = self.now();
        let admission = self.running.as_mut().unwrap();
        let skew = admission.gate().skew();
        admission.lose(Floor::lost(now, skew), now).unwrap();
    }

    pub(crate) fn send(&mut self, packet: &SealedDatagram) -> String {
        let now = self.now();
        let admission = self.running.as_mut().unwrap();
        let _ = admission.gate_mut().prepare(now.utc, usize::MAX, &mut Vec::new());
        let mut told = Vec::new();
        admission.handle([(packet.as_slice(), device())].into_iter(), now, |outcome, _, _| {
            told.push(word(outcome));
        });
        let told = told.swap_remove(0);
        if told == "granted" {
            let keys = ClientKeys::derive(&secret(), &Realm::default());
            let day = [-1, 0, 1].into_iter().filter_map(|days: i64| {
                let at = (self.utc() + days * 24 * HOUR).max(0);
                Day::of(Timestamp::from_millis(at.try_into().unwrap()))
            });
            let datagram = common::Datagram::parse(packet).unwrap();
            let opened = day.into_iter().find_map(|day| datagram.open(&keys, day).ok());
            let stamp = opened.map(|request| request.timestamp.as_millis() as i64);
            if let Some(stamp) = stamp {
                self.refused = self.refused.max(stamp);
            }
            self.used.push((*packet, stamp.unwrap_or(0), self.passed));
        }
        told
    }

    /// Whether a packet of a device whose clock is off by this may be refused now, by what has happened.
    pub(crate) fn may_refuse(&self, off: i64) -> bool {
        self.utc() + off <= self.refused
    }

    pub(crate) fn used(&self) -> Vec<SealedDatagram> {
        self.used.iter().map(|(packet, ..)| *packet).collect()
    }

    pub(crate) const fn last_counted(&self) -> u64 {
        self.last_counted
    }

    pub(crate) fn fresh(&mut self) -> SealedDatagram {
        self.packet(0)
    }

    /// A packet of a device whose clock is off the host's by this.
    pub(crate) fn packet(&mut self, off: i64) -> SealedDatagram {
        let stamp = Timestamp::from_millis((self.utc() + off).max(0).try_into().unwrap());
        self.sealed(&secret(), stamp, Day::of(stamp).unwrap())
    }

    /// A packet of the device without a clock, with this number.
    pub(crate) fn counted(&mut self, number: u64) -> SealedDatagram {
        self.last_counted = self.last_counted.max(number);
        self.sealed(&lamp(), Timestamp::from_millis(number), Day::COUNTER)
    }

    fn sealed(&mut self, secret: &Secret, stamp: Timestamp, day: Day) -> SealedDatagram {
        let request = Request {
            timestamp: stamp,
            address: ClientAddress::Literal(door().address),
            open_for: OpenFor::Default,
            action: Action::Open,
            reply: ReplyWanted::No,
            service: None,
        };
        self.nonce += 1;
        let mut random = [0; 12];
        random[..4].copy_from_slice(&self.nonce.to_be_bytes());
        let keys = ClientKeys::derive(secret, &Realm::default());
        seal(&keys, day, Nonce::from_random(random), &request)
    }
}

fn lamp() -> Secret {
    let mut bytes = [9; 32];
    bytes[0] = 3;
    Secret::new(bytes).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

const _: () = assert!(Ceiling::AHEAD.as_millis() == AHEAD as u128);
