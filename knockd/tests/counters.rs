//! Clients without a clock: which of their packets are accepted, also after the daemon, its files or the device have
//! lost something.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::fs;

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, Timestamp, seal,
};
use host::{
    Host, at, client, door,
    faults::{Disk, Fault, Kind, Place},
    secret,
};
use knockd::{
    admission::ResyncError,
    gate::{
        counters::Counter,
        directory::{ClientId, Enrolment},
        policy::{Client, ClientClock, OldKey},
    },
    journal::{
        BootId, DaemonId, StateFolder, Writer,
        counted::{self, Condition, CountedFile, Damage},
    },
};
use proptest::prelude::*;

fn without_a_clock() -> Client {
    Client { clock: ClientClock::Counter, ..client() }
}

/// A packet with this number, under the tag of a client without a clock.
fn numbered(counter: u64) -> SealedDatagram {
    asking(counter, Action::Open, Day::COUNTER)
}

fn asking(counter: u64, action: Action, day: Day) -> SealedDatagram {
    sealed_with(&ClientKeys::derive(&secret(), &Realm::default()), counter, action, day)
}

fn sealed_with(keys: &ClientKeys, counter: u64, action: Action, day: Day) -> SealedDatagram {
    let request = Request {
        timestamp: Timestamp::from_millis(counter),
        address: ClientAddress::Literal(door().address),
        open_for: OpenFor::Default,
        action,
        reply: ReplyWanted::No,
        service: None,
    };
    seal(keys, day, Nonce::from_random([9; 12]), &request)
}

/// A host whose daemon ran before there was such a client, as it does where `knockd client add` makes one.
fn host() -> Host {
    let mut host = Host::new();
    host.start_with(at(0), Vec::new());
    host.start_with(at(1), vec![without_a_clock()]);
    host
}

fn id(host: &mut Host) -> ClientId {
    host.admission().gate().directory().clients().next().unwrap().0
}

#[test]
fn each_number_opens_once_and_none_opens_behind_a_greater_one() {
    let mut host = host();
    let told: Vec<_> =
        [1, 1, 2, 7, 5, 7, 8].map(|n| host.handle(&[numbered(n)], at(n)).remove(0)).into();
    let behind = "counter-behind";
    assert_eq!(told, ["granted", behind, "granted", "granted", behind, behind, "granted"]);
}

#[test]
fn no_clock_has_a_part_in_it() {
    let mut host = host();
    for (number, seconds) in [(1, 5), (2, 900_000_000), (3, 6)] {
        assert_eq!(host.handle(&[numbered(number)], at(seconds)), ["granted"]);
    }
}

#[test]
fn of_two_copies_in_one_batch_one_is_accepted_and_a_smaller_number_behind_it_is_not() {
    let mut host = host();
    let told = host.handle(&[numbered(4), numbered(4), numbered(3), numbered(5)], at(2));
    assert_eq!(told, ["counter-behind", "counter-behind", "granted", "granted"]);
}

#[test]
fn a_client_has_the_tag_that_its_clock_gives_it_and_no_other() {
    let mut host = host();
    let today = Day::of(at(2).utc).unwrap();
    let stamped = asking(at(2).utc.as_millis(), Action::Open, today);
    assert_eq!(host.handle(&[stamped], at(2)), ["unknown-tag"]);
    host.start(at(3));
    assert_eq!(host.handle(&[numbered(1)], at(3)), ["unknown-tag"]);
}

#[test]
fn a_copy_is_refused_after_a_restart_and_after_a_reboot_and_the_next_number_is_not() {
    let mut host = host();
    assert_eq!(host.handle(&[numbered(1)], at(2)), ["granted"]);
    for boot in [1, 2] {
        host.boot = BootId::from_bytes([boot; 16]);
        let restored = host.start_with(at(3), vec![without_a_clock()]);
        assert_eq!(restored.counters, Condition::Whole);
        assert_eq!(host.handle(&[numbered(u64::from(boot))], at(3)), ["counter-behind"]);
        assert_eq!(host.handle(&[numbered(u64::from(boot) + 1)], at(3)), ["granted"]);
    }
}

#[test]
fn after_the_file_was_lost_or_damaged_nothing_is_accepted_until_the_counter_is_set_anew() {
    for length in [None, Some(0), Some(1), Some(128), Some(128 + 31)] {
        let mut host = host();
        assert_eq!(host.handle(&[numbered(6)], at(2)), ["granted"]);
        let file = host.state(counted::FILE_NAME);
        let content = fs::read(&file).unwrap();
        drop(host.running.take());
        match length {
            None => fs::remove_file(&file).unwrap(),
            Some(length) => fs::write(&file, &content[..length]).unwrap(),
        }
        // It stays so when the daemon is started once more: the new file says who has lost what.
        for _ in 0..2 {
            host.start_with(at(3), vec![without_a_clock()]);
            assert_eq!(host.handle(&[numbered(7)], at(3)), ["counter-lost"], "{length:?}");
        }
        let client = id(&mut host);
        assert_eq!(host.admission().lost_counters().collect::<Vec<_>>(), [client]);
        let from = host.admission().resync(client, at(4)).unwrap();
        assert_eq!(host.handle(&[numbered(7)], at(4)), ["counter-behind"]);
        assert_eq!(host.handle(&[numbered(from)], at(4)), ["counter-behind"]);
        assert_eq!(host.handle(&[numbered(from + 1)], at(4)), ["granted"]);
        assert_eq!(host.admission().lost_counters().count(), 0);
    }
}

#[test]
fn at_the_first_start_of_all_a_client_that_is_there_already_has_no_known_counter() {
    let mut host = Host::new();
    let restored = host.start_with(at(0), vec![without_a_clock()]);
    assert_eq!(restored.counters, Condition::Missing);
    assert_eq!(host.handle(&[numbered(1)], at(1)), ["counter-lost"]);
}

#[test]
fn a_device_that_lost_its_counter_goes_on_from_the_number_it_is_given_and_no_earlier_packet_does() {
    let mut host = host();
    assert_eq!(host.handle(&[numbered(20)], at(2)), ["granted"]);
    // The device made these before it lost its counter, and somebody has held them back.
    let held_back = [numbered(21), numbered(5_000)];
    let client = id(&mut host);
    let from = host.admission().resync(client, at(3)).unwrap();
    host.start_with(at(4), vec![without_a_clock()]);
    assert_eq!(host.handle(&held_back, at(4)), ["counter-behind", "counter-behind"]);
    assert_eq!(host.handle(&[numbered(from + 1)], at(4)), ["granted"]);
}

#[test]
fn a_counter_belongs_to_the_key_whatever_its_client_is_called_and_also_when_it_was_gone() {
    let mut host = host();
    assert_eq!(host.handle(&[numbered(9)], at(2)), ["granted"]);
    let renamed = || Client { name: "press-18".parse().unwrap(), ..without_a_clock() };
    host.start_with(at(3), vec![renamed()]);
    assert_eq!(host.handle(&[numbered(9)], at(3)), ["counter-behind"]);
    host.start_with(at(4), Vec::new());
    let enrolment = Enrolment::new(renamed(), &Realm::default());
    host.admission().gate_mut().directory_mut().add(enrolment);
    assert_eq!(host.handle(&[numbered(9)], at(5)), ["counter-behind"]);
    assert_eq!(host.handle(&[numbered(10)], at(5)), ["granted"]);
}

#[test]
fn a_client_that_changes_to_a_counter_and_back_while_the_daemon_runs_is_judged_by_what_it_has_now()
{
    let mut host = host();
    let client = id(&mut host);
    let change = |host: &mut Host, clock| {
        let client_now = Client { clock, ..without_a_clock() };
        let enrolment = Enrolment::new(client_now, &Realm::default());
        assert!(host.admission().gate().directory().differs(client, &enrolment));
        host.admission().gate_mut().directory_mut().replace(vec![(client, enrolment)]);
    };
    assert_eq!(host.handle(&[numbered(3)], at(40)), ["granted"]);
    change(&mut host, ClientClock::Utc);
    assert_eq!(host.handle(&[numbered(4)], at(41)), ["unknown-tag"]);
    assert_eq!(host.handle(&[host::open(1, at(60))], at(60)), ["granted"]);
    change(&mut host, ClientClock::Counter);
    assert_eq!(host.handle(&[host::open(2, at(61))], at(61)), ["unknown-tag"]);
    assert_eq!(host.handle(&[numbered(3)], at(61)), ["counter-behind"]);
    assert_eq!(host.handle(&[numbered(4)], at(61)), ["granted"]);
}

#[test]
fn what_can_not_be_written_through_to_the_disk_is_refused_and_counts_for_nothing() {
    // The first write, and the sync behind two of them.
    for after in [0, 2] {
        let mut host = host();
        assert_eq!(host.handle(&[numbered(1)], at(2)), ["granted"]);
        let faults = host.firewall.1.clone();
        let kind = Kind::Fails(nix::libc::EIO);
        faults.arm(&[Fault { place: Place::Counters, after, lasts: true, kind }]);
        let told = host.handle(&[numbered(2), numbered(3)], at(3));
        assert_eq!(told, ["journal-failed", "journal-failed"]);
        let client = id(&mut host);
        assert!(matches!(host.admission().resync(client, at(3)), Err(ResyncError::Journal(_))));
        assert!(!faults.disarm().is_empty());
        assert_eq!(host.handle(&[numbered(2)], at(4)), ["granted"]);
    }
}

#[test]
fn what_a_failed_write_of_several_left_behind_sets_no_counter_back() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Host::new().firewall.1;
    let make = {
        let faults = faults.clone();
        move |path: &std::path::Path, file| Disk::new(path, file, &faults)
    };
    let folder = StateFolder::open_with(&folder.path().join("state"), make).unwrap();
    let key = |byte| common::Tag::from_bytes([byte; 8]);
    let mut file = CountedFile::create(&folder, writer(), []).unwrap();
    let kind = Kind::Fails(nix::libc::EIO);
    // Both places are written, and then it can't be synced.
    faults.arm(&[Fault { place: Place::Counters, after: 2, lasts: true, kind }]);
    assert!(file.write(&[(key(1), Counter::Last(7)), (key(2), Counter::Last(3))]).is_err());
    faults.disarm();
    file.write(&[(key(2), Counter::Last(4))]).unwrap();
    let found = counted::parse(&fs::read(folder.counted()).unwrap());
    assert_eq!(
        (found.condition, found.counters),
        (Condition::Whole, vec![(key(2), Counter::Last(4))])
    );
}

#[test]
fn a_file_of_counters_that_is_removed_while_the_daemon_runs_is_back_before_the_next_grant() {
    let mut host = host();
    assert_eq!(host.handle(&[numbered(1)], at(2)), ["granted"]);
    fs::remove_file(host.state(counted::FILE_NAME)).unwrap();
    assert_eq!(host.handle(&[numbered(2)], at(3)), ["granted"]);
    host.start_with(at(4), vec![without_a_clock()]);
    assert_eq!(host.handle(&[numbered(2)], at(4)), ["counter-behind"]);
}

#[test]
fn an_old_key_has_a_counter_of_its_own_and_setting_it_anew_covers_both() {
    let mut host = host();
    let mut bytes = [5; 32];
    bytes[0] = 6;
    let old = Secret::new(bytes).unwrap();
    let old_key = Box::new(OldKey { secret: old.clone(), until: at(100).utc });
    host.start_with(at(2), vec![Client { old_key: Some(old_key), ..without_a_clock() }]);
    let old = ClientKeys::derive(&old, &Realm::default());
    let under_old = |n| sealed_with(&old, n, Action::Open, Day::COUNTER);
    let told = host.handle(&[numbered(5), under_old(3), under_old(3), numbered(4)], at(3));
    assert_eq!(told, ["counter-behind", "counter-behind", "granted", "granted"]);
    let client = id(&mut host);
    let from = host.admission().resync(client, at(4)).unwrap();
    let told = host.handle(&[numbered(6), under_old(4)], at(4));
    assert_eq!(told, ["counter-behind", "counter-behind"]);
    let told = host.handle(&[under_old(from + 1), numbered(from + 1)], at(4));
    assert_eq!(told, ["granted", "granted"]);
}

#[test]
fn a_client_with_a_clock_has_no_counter_to_be_set() {
    let mut host = Host::warmed_up();
    let client = id(&mut host);
    assert!(matches!(host.admission().resync(client, at(1)), Err(ResyncError::HasClock)));
}

#[test]
fn a_client_whose_clock_is_about_to_leave_the_window_is_told_of_once_and_gets_in() {
    let mut host = Host::warmed_up();
    let slow = |nonce| host::packet(Action::Open, nonce, at(100));
    let told = host.handle(&[slow(1), slow(2)], at(116));
    assert_eq!(told, ["granted", "drifting", "granted"]);
}

#[test]
fn any_flipped_bit_of_the_file_is_damage_or_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(&folder.path().join("state")).unwrap();
    let mut file = CountedFile::create(&folder, writer(), []).unwrap();
    let key = |byte| common::Tag::from_bytes([byte; 8]);
    use Counter::{Last, Lost};
    file.write(&[(key(1), Last(5)), (key(2), Last(6)), (key(1), Last(7))]).unwrap();
    file.write(&[(key(3), Lost)]).unwrap();
    let whole = fs::read(folder.counted()).unwrap();
    let found = counted::parse(&whole);
    assert_eq!(found.condition, Condition::Whole);
    assert_eq!(found.counters, [(key(1), Last(7)), (key(2), Last(6)), (key(3), Lost)]);
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(counted::parse(&flipped).condition, Condition::Damaged(_)), "{bit}");
    }
    assert_eq!(
        counted::parse(&whole[..whole.len() - 32]).condition,
        Condition::Damaged(Damage::Places { missing: 1, counted: 3 })
    );
}

fn writer() -> Writer {
    Writer { boot: BootId::from_bytes([1; 16]), daemon: DaemonId::from_random([2; 16]) }
}

/// What happens to a host and its device.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A packet with this number, sent or sent again.
    Packet(u64),
    Restart,
    Resync,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_u64..20).prop_map(Event::Packet),
        1 => Just(Event::Restart),
        1 => Just(Event::Resync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_no_number_at_or_below_one_that_was_accepted_is_accepted(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut host = host();
        let mut last = None;
        for event in events {
            match event {
                Event::Packet(number) => {
                    let told = host.handle(&[numbered(number)], at(2));
                    let is_new = last.is_none_or(|last| number > last);
                    prop_assert_eq!(told[0] == "granted", is_new);
                    if is_new {
                        last = Some(number);
                    }
                }
                Event::Restart => drop(host.start_with(at(2), vec![without_a_clock()])),
                Event::Resync => {
                    let client = id(&mut host);
                    last = Some(host.admission().resync(client, at(2)).unwrap());
                }
            }
        }
    }

    #[test]
    fn no_content_whatever_makes_the_reader_of_counters_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = counted::parse(&bytes);
    }
}
