//! From datagram to door, with a firewall in memory and faults on demand: nothing opens that isn't
//! written down, and nothing is told as open that isn't.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{fs, io, os::unix::fs::PermissionsExt as _};

use common::Action;
use knockd::{
    firewall::Firewall as _,
    gate::{
        grants::{Change, DoorBefore},
        policy::Standing,
    },
    journal::{BootId, seen::Condition},
    restore::FileCondition,
};

use host::{Host, at, client, door, open, packet};

#[test]
fn a_knock_opens_the_door_for_its_time() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    assert!(host.is_open(at(90)));
    assert!(!host.is_open(at(91)));
}

#[test]
fn two_copies_in_one_batch_open_once() {
    let mut host = Host::warmed_up();
    let knock = open(1, at(31));
    assert_eq!(host.handle(&[knock, knock], at(31)), ["replayed", "granted"]);
}

#[test]
fn an_open_and_a_close_in_one_batch_leave_the_door_as_the_last_one_says() {
    let mut host = Host::warmed_up();
    let (first, last) = (open(1, at(31)), packet(Action::Close, 2, at(31)));
    assert_eq!(host.handle(&[first, last], at(31)), ["granted", "closed"]);
    assert!(!host.is_open(at(31)));
}

#[test]
fn on_a_new_state_folder_nothing_stamped_up_to_start_and_skew_is_accepted() {
    let mut host = Host::new();
    let restored = host.start(at(0));
    assert_eq!((restored.seen, restored.refused_up_to), (Condition::Missing, Some(at(30).utc)));
    assert_eq!(host.handle(&[open(1, at(30))], at(30)), ["stale"]);
    assert_eq!(host.handle(&[open(2, at(31))], at(31)), ["granted"]);
}

#[test]
fn after_a_plain_restart_a_fresh_packet_of_a_device_whose_clock_is_20_seconds_slow_is_accepted() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(40))], at(40)), ["granted"]);
    assert_eq!(host.start(at(60)).seen, Condition::Intact);
    assert_eq!(host.handle(&[open(2, at(41))], at(61)), ["granted", "drifting"]);
}

#[test]
fn a_replay_after_a_restart_is_refused() {
    let mut host = Host::warmed_up();
    let knock = open(1, at(31));
    assert_eq!(host.handle(&[knock], at(31)), ["granted"]);
    assert_eq!(host.start(at(32)).packets, 1);
    assert_eq!(host.handle(&[knock], at(33)), ["replayed"]);
}

#[test]
fn a_replay_after_the_file_was_lost_damaged_or_written_before_a_reboot_is_refused() {
    let knock = open(1, at(31));
    type Disturbance = fn(&mut Host);
    // With the second up to which packets may have been lost: start and skew, or the ceiling on the disk.
    let disturbances: [(&str, u64, Disturbance); 3] = [
        ("lost", 62, |host| fs::remove_file(host.state("seen")).unwrap()),
        ("damaged", 62, |host| fs::write(host.state("seen"), b"nonsense").unwrap()),
        ("reboot", 46, |host| host.boot = BootId::from_bytes([2; 16])),
    ];
    for (name, through, disturb) in disturbances {
        let mut host = Host::warmed_up();
        assert_eq!(host.handle(&[knock], at(31)), ["granted"]);
        drop(host.running.take());
        disturb(&mut host);
        assert_ne!(host.start(at(32)).seen, Condition::Intact, "{name}");
        let refused = host.handle(&[knock], at(33));
        assert!(refused == ["stale"] || refused == ["replayed"], "{name}: {refused:?}");
        let last = at(through);
        assert_eq!(host.handle(&[open(2, last)], last), ["stale"], "{name}");
        let next = at(through + 1);
        assert_eq!(host.handle(&[open(3, next)], next), ["granted"], "{name}");
    }
}

#[test]
fn live_grants_are_taken_up_after_a_restart_with_their_owners() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let restored = host.start(at(40));
    assert_eq!((restored.live, restored.mended), (1, 0));
    assert_eq!(host.handle(&[packet(Action::Close, 2, at(41))], at(41)), ["closed"]);
    assert!(!host.is_open(at(41)));
}

#[test]
fn a_door_that_no_grant_stands_for_is_shut_at_start() {
    let mut host = Host::warmed_up();
    let stray = Change { door: door(), until: Some(at(900).uptime), before: DoorBefore::Shut };
    host.firewall.clone().apply(&[stray], at(31).uptime).unwrap();
    assert_eq!(host.start(at(32)).mended, 1);
    assert!(!host.is_open(at(32)));
}

#[test]
fn a_live_grants_door_that_is_missing_is_opened_again_for_what_is_left_of_it() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host.firewall
        .clone()
        .apply(
            &[Change { door: door(), until: None, before: DoorBefore::MaybeOpen }],
            at(32).uptime,
        )
        .unwrap();
    assert_eq!(host.start(at(40)).mended, 1);
    assert!(host.is_open(at(90)));
    assert!(!host.is_open(at(91)));
}

#[test]
fn grants_of_a_client_that_is_gone_or_disabled_end_at_the_restart() {
    let mut disabled = client();
    disabled.standing = Standing::Disabled;
    for clients in [Vec::new(), vec![disabled]] {
        let mut host = Host::warmed_up();
        assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
        let restored = host.start_with(at(40), clients);
        assert_eq!((restored.live, restored.mended), (0, 1));
        assert!(!host.is_open(at(40)));
    }
}

#[test]
fn a_damaged_file_of_grants_shuts_their_doors_and_is_reported() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    drop(host.running.take());
    fs::write(host.state("grants"), b"nonsense").unwrap();
    let restored = host.start(at(40));
    assert_eq!((restored.grants, restored.live), (FileCondition::Damaged, 0));
    assert!(!host.is_open(at(40)));
}

#[test]
fn what_the_kernel_refuses_is_told_as_failed_and_holds_nothing() {
    let mut host = Host::warmed_up();
    for fault in
        [io::ErrorKind::PermissionDenied, io::ErrorKind::OutOfMemory, io::ErrorKind::NotFound]
    {
        host.fail_with(Some(fault));
        let now = at(31);
        assert_eq!(host.handle(&[open(1, now), open(2, now)], now).len(), 2);
        host.fail_with(None);
        assert!(!host.is_open(now));
        host.start(at(32));
        assert!(!host.is_open(at(32)), "{fault:?}");
    }
    host.fail_with(Some(io::ErrorKind::PermissionDenied));
    assert_eq!(host.handle(&[open(3, at(33))], at(33)), ["firewall-failed"]);
    host.fail_with(None);
    assert_eq!(host.handle(&[open(4, at(33))], at(33)), ["granted"]);
}

#[test]
fn a_renewal_that_the_kernel_refuses_leaves_the_grant_as_it_was() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host.fail_with(Some(io::ErrorKind::OutOfMemory));
    assert_eq!(host.handle(&[open(2, at(60))], at(60)), ["firewall-failed"]);
    host.fail_with(None);
    assert!(host.is_open(at(90)));
    assert!(!host.is_open(at(91)));
    assert_eq!(host.start(at(80)).live, 1);
    assert_eq!(host.start(at(91)).live, 0);
}

#[test]
fn a_close_that_the_kernel_refuses_is_told_as_failed_and_can_be_repeated() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host.fail_with(Some(io::ErrorKind::OutOfMemory));
    assert_eq!(host.handle(&[packet(Action::Close, 2, at(32))], at(32)), ["firewall-failed"]);
    host.fail_with(None);
    assert_eq!(host.handle(&[packet(Action::Close, 3, at(33))], at(33)), ["closed"]);
    assert!(!host.is_open(at(33)));
}

#[test]
fn files_of_the_state_folder_are_for_the_daemon_alone() {
    let mut host = Host::warmed_up();
    host.handle(&[open(1, at(31))], at(31));
    assert_eq!(fs::metadata(host.state("")).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["seen", "grants", "lock"] {
        assert_eq!(
            fs::metadata(host.state(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
}
