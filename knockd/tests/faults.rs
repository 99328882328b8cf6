//! Whatever fails, and whenever the daemon is killed: no door is open that nobody was granted, none is shut that
//! was granted, no packet counts twice, no ban is lost, and nothing is told that didn't happen.
//!
//! Sequences of operations are drawn, each with faults in some of its calls to the kernel and writes to the state
//! folder; a model that knows only what was *told* says what must hold after each of them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;
#[path = "faults/model.rs"]
mod model;
#[path = "faults/rig.rs"]
mod rig;
#[path = "faults/setting.rs"]
mod setting;

use std::{fs, time::Duration};

use common::Action;
use knockd::{
    admission::{BanError, KernelState},
    gate::source::Source,
    restore::FileCondition,
};
use nix::libc::{EBUSY, EIO, EMFILE, ENFILE, ENOBUFS, ENOENT, ENOSPC, EPERM};
use proptest::prelude::*;

use host::{
    Host, at, device,
    faults::{Fault, Kind, Place},
    open, packet,
};
use rig::{Operation, Rig};
use setting::{Knock, TIME_STEP};

fn a_knock() -> impl Strategy<Value = Knock> {
    let action = prop_oneof![3 => Just(Action::Open), 1 => Just(Action::Close)];
    (0..2_usize, 0..2_usize, proptest::option::of(0..2_usize), action, 1..24_u32).prop_map(
        |(client, address, service, action, length)| Knock {
            client,
            address,
            service,
            action,
            open_for_s: length * TIME_STEP,
        },
    )
}

fn an_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => proptest::collection::vec(a_knock(), 1..4).prop_map(Operation::Knocks),
        3 => (0..64_usize).prop_map(Operation::Replay),
        2 => (0..2_usize).prop_map(|address| Operation::Junk { address }),
        2 => (0..2_usize).prop_map(|address| Operation::Ban { address }),
        2 => Just(Operation::Unban),
        2 => (0..2_usize).prop_map(|client| Operation::Reload { client }),
        3 => (1..8_u32).prop_map(|steps| Operation::Wait { seconds: (steps * TIME_STEP).into() }),
        1 => proptest::sample::select(vec![None, Some("seen"), Some("grants"), Some("bans")])
            .prop_map(Operation::Remove),
        5 => Just(Operation::Housekeeping),
        4 => Just(Operation::Restart),
    ]
}

fn a_fault() -> impl Strategy<Value = Fault> {
    let error = |errors: &'static [i32]| proptest::sample::select(errors).prop_map(Kind::Fails);
    let kills = || prop_oneof![Just(Kind::KillsBefore), Just(Kind::KillsBehind)];
    let file = proptest::sample::select(vec![Place::Seen, Place::Grants, Place::Bans]);
    let met = prop_oneof![
        4 => (Just(Place::Kernel), error(&[EPERM, ENOBUFS, EBUSY, ENOENT, ENFILE])),
        1 => Just((Place::Kernel, Kind::AnswerIsLost)),
        4 => (file.clone(), error(&[ENOSPC, EIO])),
        1 => (Just(Place::OwnAddresses), error(&[EMFILE])),
        2 => (file, kills()),
        1 => (Just(Place::Kernel), kills()),
    ];
    let after = prop_oneof![3 => Just(0), 2 => 1..5_usize];
    (met, after, any::<bool>()).prop_map(|((place, kind), after, lasts)| Fault {
        place,
        kind,
        after,
        lasts,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_fails_only_what_was_granted_is_open_and_nothing_granted_or_banned_is_lost(
        steps in proptest::collection::vec(
            (an_operation(), proptest::collection::vec(a_fault(), 0..3)),
            1..30,
        ),
    ) {
        let mut rig = Rig::new();
        for (operation, faults) in &steps {
            rig.step(operation, faults);
        }
        rig.restart(&[]);
        rig.check(&Operation::Restart, &[]);
    }
}

const fn once(place: Place, after: usize, errno: i32) -> Fault {
    Fault { place, after, lasts: false, kind: Kind::Fails(errno) }
}

fn ban(host: &mut Host, seconds: u64) -> Result<Option<String>, BanError> {
    let (hour, reason) = (Duration::from_hours(1), "a scan".parse().unwrap());
    let banned = host.admission().ban(Source::of(device()), hour, reason, at(seconds))?;
    Ok(banned.warning.map(|error| error.to_string()))
}

#[test]
fn a_door_that_the_kernel_did_not_shut_for_an_admins_ban_is_shut_before_the_ban_is_over() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host.firewall.1.arm(&[once(Place::Kernel, 1, ENOBUFS)]);
    assert!(ban(&mut host, 32).unwrap().is_some());
    assert!(host.is_open(at(32)));
    assert_eq!(host.admission().kernel(), KernelState::InDoubt);
    let reconciled = host.admission().reconcile(at(33)).unwrap();
    assert_eq!(reconciled.stray, [host::door()]);
    assert!(!host.is_open(at(33)));
    assert_eq!(host.admission().kernel(), KernelState::Known);
}

#[test]
fn an_unban_that_could_not_be_written_down_is_when_it_is_repeated() {
    let mut host = Host::warmed_up();
    ban(&mut host, 31).unwrap();
    host.firewall.1.arm(&[once(Place::Bans, 0, ENOSPC)]);
    let source = [Source::of(device())];
    assert!(matches!(host.admission().unban(&source, at(32)), Err(BanError::Journal(_))));
    assert_eq!(host.admission().unban(&source, at(33)).unwrap(), 0);
    assert_eq!(host.start(at(34)).banned, 0);
}

#[test]
fn a_close_that_could_not_be_written_down_is_as_soon_as_the_disk_has_room() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host.firewall.1.arm(&[once(Place::Grants, 0, ENOSPC)]);
    let close = packet(Action::Close, 2, at(32));
    assert_eq!(host.handle(&[close], at(32)), ["closed, journal-failed"]);
    host.admission().keep_files().unwrap();
    assert_eq!(host.start(at(33)).live, 0);
}

#[test]
fn where_the_hosts_own_addresses_can_not_be_read_an_admins_ban_fails_and_says_so() {
    let mut host = Host::warmed_up();
    host.firewall.1.arm(&[once(Place::OwnAddresses, 0, EMFILE)]);
    let refused = ban(&mut host, 31).unwrap_err();
    assert!(matches!(refused, BanError::OwnAddresses(_)), "{refused}");
    assert_eq!(host.handle(&[open(1, at(32))], at(32)), ["granted"]);
}

#[test]
fn files_that_are_removed_while_the_daemon_runs_are_back_before_the_next_grant() {
    for removed in ["seen", "grants", "bans", "lock", ""] {
        let mut host = Host::warmed_up();
        let first = open(1, at(31));
        assert_eq!(host.handle(&[first], at(31)), ["granted"]);
        let (kept, banned) = ("198.51.100.7".parse().unwrap(), Duration::from_hours(1));
        host.admission().ban(Source::of(kept), banned, "a scan".parse().unwrap(), at(31)).unwrap();
        match removed {
            "" => fs::remove_dir_all(host.state("")).unwrap(),
            name => fs::remove_file(host.state(name)).unwrap(),
        }
        assert_eq!(host.handle(&[packet(Action::Open, 2, at(32))], at(32)), ["granted"]);
        let restored = host.start(at(33));
        assert_eq!((restored.packets, restored.live, restored.banned), (2, 1, 1), "{removed}");
        assert_eq!(host.handle(&[first], at(34)), ["replayed"]);
    }
}

#[test]
fn where_a_removed_file_can_not_be_put_back_nobody_is_let_in() {
    let mut host = Host::warmed_up();
    fs::remove_file(host.state("grants")).unwrap();
    host.firewall.1.arm(&[once(Place::Grants, 0, ENOSPC)]);
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["journal-failed"]);
    assert!(!host.is_open(at(31)));
    assert_eq!(host.handle(&[open(2, at(32))], at(32)), ["granted"]);
    assert_eq!(host.start(at(33)).live, 1);
}

#[test]
fn files_that_are_removed_while_no_daemon_runs_are_told_as_gone() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    drop(host.running.take());
    for name in ["grants", "bans"] {
        fs::remove_file(host.state(name)).unwrap();
    }
    let restored = host.start(at(32));
    assert_eq!((restored.grants, restored.bans), (FileCondition::Gone, FileCondition::Gone));
    assert!(!host.is_open(at(32)));
    let restored = host.start(at(33));
    assert_eq!((restored.grants, restored.bans), (FileCondition::Sound, FileCondition::Sound));
}

#[test]
fn packets_that_neither_could_be_written_nor_find_their_file_are_written_when_both_can_be() {
    let mut host = Host::warmed_up();
    let full = |host: &Host| host.firewall.1.arm(&[once(Place::Seen, 0, ENOSPC)]);
    full(&host);
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["journal-failed"]);
    fs::remove_file(host.state("seen")).unwrap();
    full(&host);
    assert_eq!(host.handle(&[open(2, at(32))], at(32)), ["journal-failed"]);
    host.admission().keep_files().unwrap();
    assert_eq!(host.handle(&[open(3, at(33))], at(33)), ["granted"]);
    assert_eq!(host.start(at(34)).packets, 3);
}
