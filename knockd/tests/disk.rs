//! A disk that doesn't answer: nobody waits for it who needn't, and nothing has an effect that must be on it first.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, Timestamp, seal,
};
use knockd::{
    admission::{Admission, Hearing},
    gate::{
        clock::Now,
        directory::{Directory, Enrolment},
        policy::{Client, ClientClock, Standing},
    },
    journal::{BootId, DaemonId, StateFile, StateFolder, Writer},
    restore::restore,
};
use tempfile::TempDir;

use host::{Shared, at, client, device, door, open, policy, word};

/// What a disk does with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Answers,
    /// What is to be synced waits.
    Hangs,
    /// Whatever is written waits, as on a file system that is frozen.
    Frozen,
    Full,
}

#[derive(Clone)]
struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    fn is(&self, state: State) {
        *self.0.0.lock().unwrap() = state;
        self.0.1.notify_all();
    }

    fn wait_while(&self, waits: impl Fn(State) -> bool) -> State {
        *self.0.1.wait_while(self.0.0.lock().unwrap(), |state| waits(*state)).unwrap()
    }
}

struct Slow(File, Disk);

impl FileExt for Slow {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.1.wait_while(|state| state == State::Frozen) {
            State::Full => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => self.0.write_at(bytes, offset),
        }
    }
}

impl StateFile for Slow {
    fn sync(&self) -> io::Result<()> {
        self.1.wait_while(|state| matches!(state, State::Hangs | State::Frozen));
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.0.is_at(path)
    }
}

/// A daemon's insides that write on a thread.
struct Host {
    _temporary: TempDir,
    disk: Disk,
    admission: Admission<Shared, Slow>,
    hearing: Hearing,
}

fn lamp() -> Secret {
    let mut bytes = [9; 32];
    bytes[0] = 3;
    Secret::new(bytes).unwrap()
}

fn lamp_with(standing: Standing) -> Client {
    Client {
        name: "lamp".parse().unwrap(),
        secret: lamp(),
        clock: ClientClock::Counter,
        standing,
        ..client()
    }
}

impl Host {
    fn new(has_twin: bool) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let disk = Disk(Arc::new((Mutex::new(State::Answers), Condvar::new())));
        let make = {
            let disk = disk.clone();
            move |_: &Path, file| Slow(file, disk.clone())
        };
        let state = temporary.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("fresh"), "").unwrap();
        let mut folder = StateFolder::open_with(&state, make).unwrap();
        if has_twin {
            folder.set_twin(StateFolder::open(&temporary.path().join("run")).unwrap());
        }
        let policy = policy();
        let clients = vec![client(), lamp_with(Standing::Enabled)];
        let directory = Directory::new(policy.services.clone(), clients, &policy.realm);
        let writer =
            Writer { boot: BootId::from_bytes([1; 16]), daemon: DaemonId::from_random([2; 16]) };
        let (mut admission, _) =
            restore(&policy, directory, folder, writer, Shared::default(), at(0)).unwrap();
        let _ = admission.gate_mut().prepare(at(0).utc, usize::MAX, &mut Vec::new());
        let (admission, hearing) = admission.write_on_a_thread().unwrap();
        Self { _temporary: temporary, disk, admission, hearing }
    }

    /// One on whose disk a ceiling is already.
    fn warmed_up(has_twin: bool) -> Self {
        let mut host = Self::new(has_twin);
        assert_eq!(host.send(&[open(1, at(0))], at(0)), [""; 0], "it waits for the first ceiling");
        assert_eq!(host.hear(at(0)), ["granted"]);
        host
    }

    fn send(&mut self, packets: &[SealedDatagram], now: Now) -> Vec<String> {
        let mut told = Vec::new();
        let batch = packets.iter().map(|packet| (packet.as_slice(), device()));
        self.admission.handle(batch, now, |outcome, _, _| told.push(word(outcome)));
        self.admission.hand_over();
        told
    }

    /// Waits until something is told of what waited.
    fn hear(&mut self, now: Now) -> Vec<String> {
        let mut told = Vec::new();
        while told.is_empty() {
            let done = self.hearing.blocking_recv().unwrap();
            self.admission.disk_has_done(vec![done], now, |outcome, _, _| told.push(word(outcome)));
        }
        told
    }

    fn is_open(&self, now: Now) -> bool {
        self.admission.firewall().0.borrow().is_open(&door(), now.uptime)
    }
}

fn counted(number: u64) -> SealedDatagram {
    let request = Request {
        timestamp: Timestamp::from_millis(number),
        address: ClientAddress::Literal(door().address),
        open_for: OpenFor::Default,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let keys = ClientKeys::derive(&lamp(), &Realm::default());
    seal(&keys, Day::COUNTER, Nonce::from_random([7; 12]), &request)
}

#[test]
fn a_disk_that_hangs_delays_a_packet_with_a_number_and_none_with_a_stamp() {
    for state in [State::Hangs, State::Frozen] {
        let mut host = Host::warmed_up(true);
        host.disk.is(state);
        assert_eq!(host.send(&[counted(1), open(2, at(1))], at(1)), ["granted"], "{state:?}");
        assert!(host.is_open(at(1)));
        for nonce in 3..100 {
            assert_eq!(host.send(&[open(nonce, at(2))], at(2)), ["granted"], "{state:?}");
        }
        assert_eq!(host.send(&[open(2, at(1)), counted(1)], at(2)), ["replayed", "counter-behind"]);
        host.disk.is(State::Answers);
        assert_eq!(host.hear(at(3)), ["granted"], "{state:?}");
    }
}

#[test]
fn beyond_the_ceiling_packets_wait_for_a_disk_that_hangs_and_all_open_when_it_answers() {
    let mut host = Host::warmed_up(true);
    host.disk.is(State::Hangs);
    let now = at(16);
    let packets: Vec<_> = (2..60).map(|nonce| open(nonce, now)).collect();
    for packet in &packets {
        assert_eq!(host.send(&[*packet], now), [""; 0]);
    }
    assert_eq!(host.send(&packets, now), vec!["replayed"; packets.len()]);
    host.disk.is(State::Answers);
    let mut told = Vec::new();
    while told.len() < packets.len() {
        told.extend(host.hear(at(40)));
    }
    assert_eq!(told.iter().filter(|word| *word == "granted").count(), packets.len());
    assert!(host.is_open(at(99)), "for as long as was asked for, from then on");
}

#[test]
fn without_a_second_memory_a_packet_waits_for_the_disk_and_opens_when_it_has_it() {
    let mut host = Host::warmed_up(false);
    host.disk.is(State::Frozen);
    let before = host.is_open(at(61));
    assert_eq!((before, host.send(&[open(2, at(1))], at(1))), (false, Vec::new()));
    host.disk.is(State::Answers);
    assert_eq!(host.hear(at(2)), ["granted"]);
    assert!(host.is_open(at(61)));
}

#[test]
fn who_is_shut_out_while_the_packet_waits_gets_nothing() {
    let mut host = Host::warmed_up(true);
    host.disk.is(State::Hangs);
    assert_eq!(host.send(&[counted(1)], at(100)), [""; 0]);
    let gate = host.admission.gate_mut();
    let id = gate.directory().clients_by_name()["lamp"];
    let disabled = Enrolment::new(lamp_with(Standing::Disabled), &Realm::default());
    gate.directory_mut().replace(vec![(id, disabled)]);
    host.disk.is(State::Answers);
    assert_eq!(host.hear(at(101)), ["client-disabled"]);
    assert!(!host.is_open(at(101)));
}

#[test]
fn a_disk_that_is_full_refuses_with_its_reason_and_lets_in_again_when_it_isnt() {
    let mut host = Host::warmed_up(true);
    host.disk.is(State::Full);
    // The second memory has the first one before the disk has said that it is full.
    let _ = host.send(&[open(2, at(1))], at(1));
    let done = host.hearing.blocking_recv().unwrap();
    host.admission.disk_has_done(vec![done], at(1), |_, _, _| {});
    assert_eq!(host.send(&[open(3, at(2))], at(2)), [""; 0]);
    assert_eq!(host.hear(at(2)), ["journal-failed"]);
    host.disk.is(State::Answers);
    assert_eq!(host.send(&[open(4, at(3))], at(3)), [""; 0]);
    assert_eq!(host.hear(at(3)), ["granted"]);
    assert_eq!(host.send(&[open(5, at(3)), open(3, at(2))], at(3)), ["replayed", "granted"]);
}

#[test]
fn packets_of_one_client_do_not_take_the_places_of_others_while_the_disk_hangs() {
    let mut host = Host::warmed_up(true);
    host.disk.is(State::Hangs);
    let told: Vec<_> = (1..=100).flat_map(|number| host.send(&[counted(number)], at(1))).collect();
    assert_eq!(told, vec!["too-many-waiting"; 36]);
    let ahead = at(20);
    assert_eq!(host.send(&[open(2, ahead)], at(1)), [""; 0]);
    host.disk.is(State::Answers);
    let mut granted = 0;
    while granted < 65 {
        granted += host.hear(at(2)).iter().filter(|word| *word == "granted").count();
    }
}

#[test]
fn the_end_waits_for_what_was_ordered_and_for_a_disk_that_hangs_no_longer_than_it_says() {
    let mut host = Host::warmed_up(true);
    assert!(host.admission.close(at(1)).is_ok());
    let mut host = Host::warmed_up(true);
    host.disk.is(State::Hangs);
    assert_eq!(host.admission.close(at(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
    host.disk.is(State::Answers);
}
