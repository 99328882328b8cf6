//! What the state folder holds, and what is made of it when it isn't as it was written.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::{fs, io, net::IpAddr, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use common::{Mac, Timestamp, UnicastAddress};
use knockd::{
    gate::{
        bans::{Ban, BanKind},
        clock::{Now, Uptime},
        policy::ClockSkew,
        replay::Floor,
        source::Source,
    },
    journal::{
        BootId, DaemonId, FRESH, StateError, StateFolder, Writer,
        banned::BannedFile,
        held::{self, Grant},
        seen::{self, Condition, Damage, NameHash, Record, SeenFile, Span},
    },
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const BOOT: BootId = BootId::from_bytes([1; 16]);
const OTHER_BOOT: BootId = BootId::from_bytes([2; 16]);
const WRITER: Writer = Writer { boot: BOOT, daemon: DaemonId::from_random([3; 16]) };
const HEADER_LEN: u64 = 128;
const RECORD_LEN: u64 = 64;

fn folder() -> (TempDir, StateFolder, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(&temporary.path().join("state")).unwrap();
    let seen = folder.seen();
    (temporary, folder, seen)
}

fn record(number: u64) -> Record {
    let mut mac = [0; 32];
    mac[..8].copy_from_slice(&number.to_be_bytes());
    Record {
        timestamp: Timestamp::from_millis(1_000 + number),
        mac: Mac::from_bytes(mac),
        client: NameHash::of("press-17"),
    }
}

fn span(oldest: u64, next: u64) -> Span {
    let forgotten = oldest.checked_sub(1).map(|last| record(last).timestamp);
    let floor = Floor { forgotten, lost_through: Some(Uptime::from_millis(7)) };
    Span { oldest, next, floor, floor_utc: Some(Timestamp::from_millis(8)) }
}

fn empty(folder: &StateFolder, capacity: u32) -> SeenFile {
    SeenFile::create(folder, WRITER, capacity, span(0, 0), None, []).unwrap()
}

fn append(file: &mut SeenFile, oldest: u64, numbers: std::ops::Range<u64>) {
    let records: Vec<Record> = numbers.clone().map(record).collect();
    file.append(&records, span(oldest, numbers.end)).unwrap();
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.timestamp.as_millis() - 1_000).collect()
}

#[test]
fn a_second_daemon_on_one_state_folder_is_refused() {
    let (temporary, _folder, _) = folder();
    let second = StateFolder::open(&temporary.path().join("state"));
    assert!(matches!(second, Err(StateError::InUse { .. })));
}

#[test]
fn the_state_folder_is_free_again_when_its_daemon_is_gone() {
    let (temporary, folder, _) = folder();
    drop(folder);
    assert!(StateFolder::open(&temporary.path().join("state")).is_ok());
}

#[test]
fn accepted_packets_are_found_again_in_their_order() {
    let (_temporary, folder, _) = folder();
    let mut file = empty(&folder, 100);
    append(&mut file, 0, 0..3);
    append(&mut file, 0, 3..4);
    drop(file);
    let found = seen::load(&folder, BOOT).unwrap();
    assert_eq!((found.condition, numbers(&found.packets)), (Condition::Intact, vec![0, 1, 2, 3]));
}

#[test]
fn what_keeps_packets_out_that_are_not_remembered_is_found_again() {
    let (_temporary, folder, _) = folder();
    for lost_through in [Some(Uptime::from_millis(u64::MAX)), None] {
        let floor = Floor { forgotten: Some(Timestamp::from_millis(u64::MAX)), lost_through };
        let span_then = Span { floor, ..span(0, 0) };
        let mut file = SeenFile::create(&folder, WRITER, 100, span_then, None, []).unwrap();
        assert_eq!(seen::load(&folder, BOOT).unwrap().floor, floor);
        append(&mut file, 0, 0..3);
        assert_eq!(seen::load(&folder, BOOT).unwrap().floor, span(0, 3).floor);
    }
}

#[test]
fn a_missing_file_and_one_of_an_earlier_boot_are_told_apart() {
    let (_temporary, folder, _) = folder();
    assert_eq!(seen::load(&folder, BOOT).unwrap().condition, Condition::Missing);
    append(&mut empty(&folder, 10), 0, 0..2);
    let found = seen::load(&folder, OTHER_BOOT).unwrap();
    assert_eq!((found.condition, numbers(&found.packets)), (Condition::EarlierBoot, vec![0, 1]));
}

#[test]
fn a_file_of_an_earlier_boot_is_whole_only_if_its_daemon_has_ended_in_order() {
    let (_temporary, folder, path) = folder();
    let mut file = empty(&folder, 10);
    append(&mut file, 0, 0..2);
    let open = fs::read(&path).unwrap();
    file.close(span(0, 2)).unwrap();
    let closed = fs::read(&path).unwrap();
    let condition = |content: &[u8], boot| seen::parse(content, boot).condition;
    assert_eq!(condition(&open, OTHER_BOOT), Condition::EarlierBoot);
    assert_eq!(condition(&closed, OTHER_BOOT), Condition::Stopped);
    assert_eq!(condition(&closed, BOOT), Condition::Intact);
    // One that lacks packets is none that was ended in order, whatever it says.
    let cut = condition(&closed[..closed.len() - 64], OTHER_BOOT);
    assert_eq!(cut, Condition::Damaged(Damage::Records { missing: 1, counted: 2 }));
    // After a loss of power it is the ceiling that counts, and not which records the disk has.
    assert_eq!(condition(&open[..open.len() - 64], OTHER_BOOT), Condition::EarlierBoot);
    let next = SeenFile::create(&folder, WRITER, 10, span(0, 0), None, []).unwrap();
    assert_eq!(condition(&fs::read(&path).unwrap(), OTHER_BOOT), Condition::EarlierBoot);
    drop(next);
}

#[test]
fn after_a_loss_of_power_the_ceiling_keeps_packets_out_and_no_skew_does() {
    let (_temporary, folder, _) = folder();
    let mut file = empty(&folder, 10);
    let ceiling = Timestamp::from_millis(50_000);
    file.raise_ceiling(ceiling).unwrap();
    file.raise_ceiling(Timestamp::from_millis(40_000)).unwrap();
    append(&mut file, 0, 0..2);
    let found = seen::load(&folder, OTHER_BOOT).unwrap();
    assert_eq!(found.ceiling, Some(ceiling));
    let now = Now { utc: Timestamp::from_millis(60_000), uptime: Uptime::from_millis(9) };
    for skew in [1, 30, 43_200] {
        let skew = ClockSkew::try_from(Duration::from_secs(skew)).unwrap();
        assert_eq!(found.floor(now, skew).by(now), Some(ceiling));
    }
}

#[test]
fn a_file_of_the_earlier_layout_is_read_and_its_start_becomes_an_end() {
    let content = include_bytes!("fixtures/seen-v1");
    let found = seen::parse(content, BOOT);
    assert_eq!((found.condition, numbers(&found.packets)), (Condition::Intact, vec![1, 2, 3]));
    let skew = ClockSkew::try_from(Duration::from_secs(30)).unwrap();
    let now = Now { utc: Timestamp::from_millis(90_000), uptime: Uptime::from_millis(60_000) };
    let floor = found.floor(now, skew);
    assert_eq!(floor.forgotten, Some(Timestamp::from_millis(1_000)));
    assert_eq!(floor.lost_through, Some(Uptime::from_millis(37_000)));
    // It names no ceiling: what was lost with a boot is known by the start after it alone.
    let found = seen::parse(content, OTHER_BOOT);
    assert_eq!(found.condition, Condition::EarlierBoot);
    assert_eq!(found.floor(now, skew).by(now), Some(Timestamp::from_millis(120_000)));
}

#[test]
fn a_file_has_more_room_from_when_nothing_is_remembered_and_says_so_until_then() {
    let (_temporary, folder, _) = folder();
    let mut file = empty(&folder, 2);
    append(&mut file, 0, 0..2);
    file.make_room_when_empty(4);
    let third = file.append(&[record(2)], span(0, 3));
    assert_eq!(third.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(numbers(&seen::load(&folder, BOOT).unwrap().packets), [0, 1]);
    append(&mut file, 2, 2..5);
    append(&mut file, 2, 5..6);
    assert_eq!(numbers(&seen::load(&folder, BOOT).unwrap().packets), [2, 3, 4, 5]);
}

#[test]
fn a_folder_is_new_only_where_it_is_marked_and_empty_and_only_once() {
    let (temporary, folder, _) = folder();
    let mark = temporary.path().join("state").join(FRESH);
    assert_eq!(seen::load(&folder, BOOT).unwrap().condition, Condition::Missing);
    fs::write(&mark, "").unwrap();
    assert_eq!(seen::load(&folder, BOOT).unwrap().condition, Condition::First);
    fs::write(folder.counted(), "").unwrap();
    assert_eq!(seen::load(&folder, BOOT).unwrap().condition, Condition::Missing);
    fs::remove_file(folder.counted()).unwrap();
    folder.take_mark().unwrap();
    assert!(!mark.exists());
    folder.take_mark().unwrap();
    assert_eq!(seen::load(&folder, BOOT).unwrap().condition, Condition::Missing);
}

#[test]
fn a_file_cut_at_any_byte_is_damaged() {
    let (_temporary, folder, path) = folder();
    append(&mut empty(&folder, 10), 0, 0..4);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, HEADER_LEN + 4 * RECORD_LEN);
    for length in 0..whole.len() {
        let condition = seen::parse(&whole[..length], BOOT).condition;
        assert!(matches!(condition, Condition::Damaged(_)), "{length}: {condition:?}");
    }
    let missing_one = seen::parse(&whole[..whole.len() - 64], BOOT);
    assert_eq!(
        missing_one.condition,
        Condition::Damaged(Damage::Records { missing: 1, counted: 4 })
    );
    assert_eq!(numbers(&missing_one.packets), [0, 1, 2]);
}

#[test]
fn a_header_with_more_places_than_there_can_be_is_damage() {
    let (_temporary, folder, path) = folder();
    append(&mut empty(&folder, 10), 0, 0..2);
    let mut content = fs::read(&path).unwrap();
    for (at, value) in [(48, u64::MAX), (64, u64::MAX - 2), (72, u64::MAX - 1)] {
        content[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    let checksum = Sha256::digest(&content[..120]);
    content[120..128].copy_from_slice(&checksum[..8]);
    assert_eq!(seen::parse(&content, BOOT).condition, Condition::Damaged(Damage::Header));
}

#[test]
fn any_flipped_bit_is_damage() {
    let (_temporary, folder, path) = folder();
    append(&mut empty(&folder, 10), 0, 0..2);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let condition = seen::parse(&flipped, BOOT).condition;
        assert!(matches!(condition, Condition::Damaged(_)), "bit {bit}: {condition:?}");
    }
}

#[test]
fn a_torn_last_record_that_the_header_does_not_count_is_no_damage() {
    let (_temporary, folder, path) = folder();
    append(&mut empty(&folder, 10), 0, 0..2);
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(&[7; 63]);
    let found = seen::parse(&torn, BOOT);
    assert_eq!((found.condition, numbers(&found.packets)), (Condition::Intact, vec![0, 1]));
}

#[test]
fn the_file_never_grows_beyond_its_capacity_and_keeps_what_is_remembered() {
    let (_temporary, folder, path) = folder();
    let mut file = empty(&folder, 8);
    for number in 0..1_000_u64 {
        let oldest = number.saturating_sub(7);
        append(&mut file, oldest, number..number + 1);
        let found = seen::load(&folder, BOOT).unwrap();
        assert_eq!(found.condition, Condition::Intact, "{number}");
        assert_eq!(numbers(&found.packets), (oldest..=number).collect::<Vec<_>>());
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), HEADER_LEN + 8 * RECORD_LEN);
}

#[test]
fn a_file_in_which_nothing_is_remembered_starts_anew_at_its_first_place() {
    let (_temporary, folder, path) = folder();
    let mut file = empty(&folder, 1_000_000);
    for number in 0..500 {
        append(&mut file, number, number..number + 1);
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), HEADER_LEN + RECORD_LEN);
    assert_eq!(numbers(&seen::load(&folder, BOOT).unwrap().packets), [499]);
}

#[test]
fn records_that_a_failed_write_left_behind_are_not_counted() {
    let (_temporary, folder, path) = folder();
    let mut file = empty(&folder, 10);
    append(&mut file, 0, 0..2);
    let header = fs::read(&path).unwrap()[..128].to_vec();
    append(&mut file, 0, 2..5);
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&header, 0).unwrap();
    let found = seen::load(&folder, BOOT).unwrap();
    assert_eq!((found.condition, numbers(&found.packets)), (Condition::Intact, vec![0, 1]));
}

fn held(number: u64) -> Grant<'static> {
    Grant {
        client: "a-client-with-the-longest-name-that-there-can-be.0123456789abcde",
        address: UnicastAddress::try_from("2001:db8::17".parse::<IpAddr>().unwrap()).unwrap(),
        service: "telemetry-ingest".parse().unwrap(),
        until: Uptime::from_millis(number),
    }
}

/// A file whose writes must each lie within one page: between pages the kernel may end them (mm/filemap.c,
/// generic_perform_write).
struct WithinPages;

impl FileExt for WithinPages {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let last = offset + bytes.len() as u64 - 1;
        assert_eq!(offset / 4096, last / 4096, "{} bytes at {offset}", bytes.len());
        Ok(bytes.len())
    }
}

#[test]
fn no_place_lies_across_two_pages_so_that_kill_9_leaves_the_old_or_the_new() {
    let now = Now { utc: Timestamp::from_millis(1), uptime: Uptime::from_millis(1) };
    let put = |_: &[u8]| Ok::<_, io::Error>(WithinPages);
    let mut file = BannedFile::create_with(WRITER, [], now, put).unwrap();
    for number in 0..100_u8 {
        let (until, length) = (Uptime::from_millis(9), Duration::from_millis(8));
        let ban = Ban { kind: BanKind::Admin, until, length, reason: "a scan".parse().unwrap() };
        file.put(Source::of([192, 0, 2, number].into()), Some(&ban), now).unwrap();
    }
}

#[test]
fn a_file_of_grants_that_is_not_ours_is_damaged_and_one_of_an_earlier_boot_is_over() {
    let (_temporary, folder, _) = folder();
    held::HeldFile::create(&folder, WRITER, []).unwrap();
    let whole = fs::read(folder.held()).unwrap();
    assert_eq!(held::parse(&whole, Some(BOOT)), held::Found::Grants(Vec::new()));
    assert_eq!(held::parse(&whole, Some(OTHER_BOOT)), held::Found::None);
    for length in 0..whole.len() {
        assert_eq!(held::parse(&whole[..length], Some(BOOT)), held::Found::Damaged);
    }
    assert_eq!(
        held::load(&folder.held().with_extension("gone"), Some(BOOT)).unwrap(),
        held::Found::None
    );
}

mod places {
    use std::collections::BTreeMap;

    use common::Realm;
    use knockd::gate::{directory::Directory, grants::Owner, policy::Service};

    use super::*;

    fn owners() -> Vec<Owner> {
        let service = Service {
            name: "telemetry-ingest".parse().unwrap(),
            ports: vec!["tcp/1".parse().unwrap()],
            to: Vec::new(),
        };
        let directory = Directory::new(vec![service.clone()], clients(4), &Realm::default());
        let service = directory.service_named(service.name).unwrap();
        let address = held(0).address;
        let clients = directory.clients_by_name();
        let mut owners: Vec<Owner> =
            clients.values().map(|client| Owner { address, client: *client, service }).collect();
        owners.sort();
        owners
    }

    proptest! {
        #[test]
        fn whatever_is_held_and_released_in_whatever_order_is_what_the_file_holds(
            steps in proptest::collection::vec((0..4_usize, 0..3_u8, 1..1_000_u64), 0..40),
        ) {
            let (_temporary, folder, _) = folder();
            let owners = owners();
            let mut file = held::HeldFile::create(&folder, WRITER, []).unwrap();
            let mut expected = BTreeMap::new();
            let mut most = 0;
            for (who, what, until) in steps {
                match what {
                    0 => {
                        file.release(&owners[who]).unwrap();
                        expected.remove(&who);
                    }
                    _ => {
                        file.hold(owners[who], held(until).encode()).unwrap();
                        expected.insert(who, until);
                    }
                }
                most = most.max(expected.len());
            }
            let held::Found::Grants(found) = held::load(&folder.held(), Some(BOOT)).unwrap() else {
                panic!("not sound");
            };
            let mut found: Vec<u64> = found.iter().map(|grant| grant.until.as_millis()).collect();
            let mut expected: Vec<u64> = expected.into_values().collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            let places = (fs::metadata(folder.held()).unwrap().len() - 128) / 128;
            prop_assert!(places <= most as u64);
        }
    }
}

/// Clients whose names differ, for their ids.
fn clients(count: u8) -> Vec<knockd::gate::policy::Client> {
    use knockd::gate::policy::{AddressPolicy, Client, ClientClock, Standing};

    (0..count)
        .map(|number| {
            let mut secret = [number; 32];
            secret[0] = 255;
            Client {
                name: format!("client-{number}").parse().unwrap(),
                secret: common::Secret::new(secret).unwrap(),
                services: ["telemetry-ingest".parse().unwrap()].into(),
                from: Vec::new(),
                address: AddressPolicy::Strict,
                clock: ClientClock::Utc,
                expires: None,
                old_key: None,
                standing: Standing::Enabled,
            }
        })
        .collect()
}

proptest! {
    #[test]
    fn no_content_of_either_file_makes_reading_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        damage in proptest::collection::vec((0..384_usize, any::<u8>()), 0..4),
    ) {
        let (_temporary, folder, path) = folder();
        append(&mut empty(&folder, 10), 0, 0..4);
        let mut content = fs::read(&path).unwrap();
        for (at, byte) in damage {
            content[at] = byte;
        }
        for bytes in [bytes, content] {
            let _ = seen::parse(&bytes, BOOT);
            let _ = held::parse(&bytes, Some(BOOT));
        }
    }
}
