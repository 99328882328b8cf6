//! Bans, from the failure to the kernel, with a firewall in memory and faults on demand: whoever fails too
//! often is banned, and whoever holds a key is not shut out by what others send in his name.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{fs, io, net::IpAddr, time::Duration};

use common::{ServiceName, Timestamp};
use knockd::{
    admission::BanError,
    gate::{
        bans::{BanKind, NotBanned},
        clock::Now,
        source::Source,
    },
    journal::BootId,
    restore::FileCondition,
};

use host::{Host, at, device, open, secret};

const JUNK: &[u8] = &[0xaa; 116];
const HOUR: u64 = 3_600;

fn stranger() -> IpAddr {
    "198.51.100.7".parse().unwrap()
}

/// So many junk packets from an address, and what is told of them.
fn junk(host: &mut Host, source: IpAddr, count: usize, now: Now) -> Vec<String> {
    host.handle_from(&vec![(JUNK, source); count], now)
}

fn is_banned(host: &Host, source: IpAddr, kind: BanKind, now: Now) -> bool {
    host.firewall.0.borrow().is_banned(Source::of(source), kind, now.uptime)
}

fn by_failures(host: &Host, source: IpAddr, now: Now) -> bool {
    is_banned(host, source, BanKind::Failures, now)
}

fn count(told: &[String], what: &str) -> usize {
    told.iter().filter(|told| *told == what).count()
}

fn ban_by_admin(host: &mut Host, source: IpAddr, now: Now) -> Result<usize, BanError> {
    let (length, reason) = (Duration::from_hours(1), "seen on a scan".parse().unwrap());
    host.admission().ban(Source::of(source), length, reason, now).map(|ban| ban.ended)
}

/// The kernel's table is gone, and its boot is another.
fn reboot(host: &mut Host) {
    host.boot = BootId::from_bytes([2; 16]);
    *host.firewall.0.borrow_mut() = Default::default();
}

#[test]
fn the_sixth_failure_within_half_an_hour_bans_for_six_hours() {
    let mut host = Host::warmed_up();
    assert_eq!(count(&junk(&mut host, stranger(), 5, at(31)), "banned"), 0);
    assert!(!by_failures(&host, stranger(), at(31)));
    assert_eq!(junk(&mut host, stranger(), 1, at(31)), ["unknown-tag", "banned"]);
    assert!(by_failures(&host, stranger(), at(31 + 6 * HOUR - 1)));
    assert!(!by_failures(&host, stranger(), at(31 + 6 * HOUR)));
    assert!(!by_failures(&host, device(), at(31)));
}

#[test]
fn packets_of_any_length_count() {
    let mut host = Host::warmed_up();
    let lengths: [&[u8]; 6] = [&[], &[1], &[2; 115], &[3; 117], &[4; 116], &[5; 116]];
    let told = host.handle_from(&lengths.map(|junk| (junk, stranger())), at(31));
    assert_eq!(count(&told, "banned"), 1);
}

#[test]
fn ipv6_sources_are_banned_by_their_64_and_mapped_ones_as_ipv4() {
    let mut host = Host::warmed_up();
    for number in 0..6 {
        let source = format!("2001:db8:1:2::{number}").parse().unwrap();
        junk(&mut host, source, 1, at(31));
        let mapped = if number % 2 == 0 { "::ffff:198.51.100.7" } else { "198.51.100.7" };
        junk(&mut host, mapped.parse().unwrap(), 1, at(31));
    }
    assert!(by_failures(&host, "2001:db8:1:2:ffff::1".parse().unwrap(), at(31)));
    assert!(!by_failures(&host, "2001:db8:1:3::1".parse().unwrap(), at(31)));
    assert!(by_failures(&host, stranger(), at(31)));
}

#[test]
fn an_honest_device_with_a_wrong_clock_a_copy_and_a_refused_client_are_no_strangers() {
    let mut host = Host::warmed_up();
    let good = open(1, at(31));
    assert_eq!(host.handle(&[good], at(31)), ["granted"]);
    let late: Vec<_> = (2..12).map(|nonce| open(nonce, at(500))).collect();
    assert_eq!(count(&host.handle(&late, at(31)), "stale"), 10);
    let copies = vec![(good.as_slice(), stranger()); 10];
    assert_eq!(count(&host.handle_from(&copies, at(32)), "address-mismatch"), 10);
    assert_eq!(count(&host.handle(&[good; 10], at(32)), "replayed"), 10);
    let after = at(32 + HOUR);
    assert_eq!(host.admission().gate().bans().iter().len(), 0);
    assert!(!by_failures(&host, device(), after) && !by_failures(&host, stranger(), after));
}

#[test]
fn a_valid_knock_from_a_banned_address_opens_the_door_and_lifts_the_ban() {
    let mut host = Host::warmed_up();
    junk(&mut host, device(), 6, at(31));
    assert!(by_failures(&host, device(), at(31)));
    assert_eq!(host.handle(&[open(1, at(32))], at(32)), ["granted", "ban lifted"]);
    assert!(!by_failures(&host, device(), at(32)));
    assert!(host.is_open(at(32)));
    host.start(at(33));
    assert!(!by_failures(&host, device(), at(33)));
}

#[test]
fn a_live_grant_is_not_banned_however_much_is_forged_in_its_name() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    assert_eq!(count(&junk(&mut host, device(), 100, at(32)), "banned"), 0);
    assert!(!by_failures(&host, device(), at(32)));
    assert!(host.is_open(at(32)));
    // The grant of a minute is over: now it is.
    assert_eq!(count(&junk(&mut host, device(), 1, at(95)), "banned"), 1);
}

#[test]
fn junk_before_and_behind_a_knock_in_the_same_batch_does_not_ban_its_sender() {
    let mut host = Host::warmed_up();
    let knock = open(1, at(31));
    let mut batch = vec![(JUNK, device()); 41];
    batch[20] = (knock.as_slice(), device());
    let told = host.handle_from(&batch, at(31));
    assert_eq!((count(&told, "granted"), count(&told, "banned")), (1, 0));
    assert!(!by_failures(&host, device(), at(31)));
}

#[test]
fn the_hosts_own_addresses_and_networks_of_ban_never_are_spared() {
    let mut host = Host::warmed_up();
    host.firewall.0.borrow_mut().set_own_addresses(vec![stranger()]);
    let told = junk(&mut host, stranger(), 100, at(31));
    assert_eq!(count(&told, "banned"), 0);
    assert!(!by_failures(&host, stranger(), at(31)));
    let banned = ban_by_admin(&mut host, stranger(), at(31));
    assert!(matches!(banned, Err(BanError::NotBanned(NotBanned::Own(_)))));
}

#[test]
fn an_address_that_is_the_hosts_own_no_longer_is_banned_like_any_other() {
    let mut host = Host::warmed_up();
    host.firewall.0.borrow_mut().set_own_addresses(vec![stranger()]);
    assert_eq!(count(&junk(&mut host, stranger(), 10, at(31)), "banned"), 0);
    host.firewall.0.borrow_mut().set_own_addresses(Vec::new());
    // What is known of them is at most five seconds old when a further failure comes.
    assert_eq!(count(&junk(&mut host, stranger(), 1, at(36)), "banned"), 0);
    assert_eq!(count(&junk(&mut host, stranger(), 1, at(36)), "banned"), 1);
}

#[test]
fn bans_survive_a_restart_for_what_is_left_of_them() {
    let mut host = Host::warmed_up();
    junk(&mut host, stranger(), 6, at(31));
    ban_by_admin(&mut host, device(), at(31)).unwrap();
    let restored = host.start(at(100));
    assert_eq!((restored.bans, restored.banned), (FileCondition::Sound, 2));
    assert!(by_failures(&host, stranger(), at(30 + 6 * HOUR)));
    assert!(!by_failures(&host, stranger(), at(31 + 6 * HOUR)));
    assert!(is_banned(&host, device(), BanKind::Admin, at(30 + HOUR)));
    assert_eq!(host.start(at(31 + 7 * HOUR)).banned, 0);
}

#[test]
fn bans_survive_a_reboot_by_the_clock_on_the_wall_and_never_for_longer_than_they_were_made_for() {
    for (wall_after, left_s) in [(HOUR, 5 * HOUR + 31), (7 * HOUR, 0)] {
        let mut host = Host::warmed_up();
        junk(&mut host, stranger(), 6, at(31));
        reboot(&mut host);
        let up = Now { utc: at(wall_after).utc, uptime: at(0).uptime };
        let restored = host.start(up);
        assert_eq!(restored.banned, usize::from(left_s > 0));
        if left_s > 0 {
            assert!(by_failures(&host, stranger(), at(left_s - 1)));
            assert!(!by_failures(&host, stranger(), at(left_s)));
        }
    }
    // The clock was set back by years meanwhile: the ban lasts for as long as it was made for.
    let mut host = Host::warmed_up();
    junk(&mut host, stranger(), 6, at(31));
    reboot(&mut host);
    host.start(Now { utc: Timestamp::from_millis(0), uptime: at(0).uptime });
    assert!(by_failures(&host, stranger(), at(6 * HOUR - 1)));
    assert!(!by_failures(&host, stranger(), at(6 * HOUR)));
}

#[test]
fn a_source_that_is_banned_in_the_kernel_alone_is_let_go_at_start_and_a_missing_ban_is_put_back() {
    let mut host = Host::warmed_up();
    junk(&mut host, stranger(), 6, at(31));
    *host.firewall.0.borrow_mut() = Default::default();
    host.start(at(40));
    assert!(by_failures(&host, stranger(), at(40)));
    fs::remove_file(host.state("bans")).unwrap();
    host.start(at(50));
    assert!(!by_failures(&host, stranger(), at(50)));
}

#[test]
fn a_damaged_file_of_bans_is_reported_and_bans_nobody() {
    let mut host = Host::warmed_up();
    junk(&mut host, stranger(), 6, at(31));
    let mut bytes = fs::read(host.state("bans")).unwrap();
    bytes[3] ^= 1;
    fs::write(host.state("bans"), bytes).unwrap();
    let restored = host.start(at(40));
    assert_eq!((restored.bans, restored.banned), (FileCondition::Damaged, 0));
}

#[test]
fn an_admins_ban_ends_grants_refuses_knocks_and_is_lifted_by_an_admin_alone() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    assert_eq!(ban_by_admin(&mut host, device(), at(32)).unwrap(), 1);
    assert!(!host.is_open(at(32)));
    assert_eq!(host.handle(&[open(2, at(33))], at(33)), ["banned"]);
    assert!(is_banned(&host, device(), BanKind::Admin, at(33)));
    assert_eq!(host.admission().unban(&[Source::of(device())], at(34)).unwrap(), 1);
    assert_eq!(host.admission().unban(&[Source::of(device())], at(34)).unwrap(), 0);
    assert_eq!(host.handle(&[open(3, at(35))], at(35)), ["granted"]);
}

#[test]
fn grants_of_an_address_that_an_admin_banned_do_not_come_back_with_a_restart() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let held = fs::read(host.state("grants")).unwrap();
    ban_by_admin(&mut host, device(), at(32)).unwrap();
    fs::write(host.state("grants"), held).unwrap();
    assert_eq!(host.start(at(33)).live, 0);
    assert!(!host.is_open(at(33)));
}

#[test]
fn a_ban_that_the_kernel_refuses_is_told_so_and_tried_again_with_the_next_failure() {
    let mut host = Host::warmed_up();
    for fault in [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::OutOfMemory,
        io::ErrorKind::ResourceBusy,
        io::ErrorKind::NotFound,
    ] {
        host.fail_with(Some(fault));
        let told = junk(&mut host, stranger(), 6, at(31));
        assert!(count(&told, "not banned, firewall-failed") >= 1, "{told:?}");
        assert_eq!(count(&told, "banned"), 0);
        assert!(ban_by_admin(&mut host, device(), at(31)).is_err());
        assert_eq!(host.admission().gate().bans().iter().len(), 0);
    }
    host.fail_with(None);
    assert_eq!(junk(&mut host, stranger(), 1, at(31)), ["unknown-tag", "banned"]);
    assert_eq!(host.handle(&[open(1, at(32))], at(32)), ["granted"]);
}

#[test]
fn an_unban_that_the_kernel_refuses_leaves_the_ban() {
    let mut host = Host::warmed_up();
    ban_by_admin(&mut host, device(), at(31)).unwrap();
    host.fail_with(Some(io::ErrorKind::PermissionDenied));
    assert!(host.admission().unban(&[Source::of(device())], at(32)).is_err());
    host.fail_with(None);
    assert_eq!(host.handle(&[open(1, at(33))], at(33)), ["banned"]);
}

#[test]
fn a_client_that_asks_for_what_it_may_not_have_is_counted_and_a_copy_of_that_is_not() {
    let mut host = Host::warmed_up();
    let asks = |nonce, now: Now| {
        let service: ServiceName = "ssh".parse().unwrap();
        host::packet_for(&secret(), Some(service), nonce, now)
    };
    let first = asks(1, at(31));
    for datagram in [first, first, asks(2, at(32)), first] {
        assert_eq!(host.handle(&[datagram], at(32)), ["service-not-allowed"]);
    }
    let denials: Vec<u64> =
        host.admission().gate().denials().iter().map(|(_, denial)| denial.count).collect();
    assert_eq!(denials, [2]);
    assert_eq!(host.admission().gate().bans().iter().len(), 0);
}

#[test]
fn a_hundred_thousand_forged_sources_leave_bans_and_the_file_of_them_at_their_bound() {
    let mut host = Host::warmed_up();
    let source = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number));
    let (mut banned, mut spared) = (0, 0);
    for number in 0..100_000 {
        let told = junk(&mut host, source(number), 6, at(31));
        banned += count(&told, "banned");
        spared += count(&told, "spared");
    }
    assert_eq!((banned, spared), (64_512, 100_000 - 64_512));
    assert!(by_failures(&host, source(0), at(32)));
    assert!(fs::metadata(host.state("bans")).unwrap().len() <= 128 + 128 * 65_536);
    // An admin can still ban, and a key holder still gets in, banned or not.
    ban_by_admin(&mut host, stranger(), at(32)).unwrap();
    assert_eq!(host.handle(&[open(1, at(33))], at(33)), ["granted"]);
}

#[test]
fn a_step_of_the_clock_makes_no_ban_longer_or_shorter_also_across_a_reboot() {
    let step_s = 2 * 24 * HOUR;
    for forward in [true, false] {
        let mut host = Host::warmed_up();
        junk(&mut host, stranger(), 6, at(31));
        let shift = |seconds: u64| {
            let (now, millis) = (at(seconds), step_s * 1_000);
            let utc = now.utc.as_millis();
            let utc = if forward { utc + millis } else { utc - millis };
            Now { utc: Timestamp::from_millis(utc), ..now }
        };
        host.admission().restamp_bans(shift(40)).unwrap();
        assert!(by_failures(&host, stranger(), at(30 + 6 * HOUR)));
        assert!(!by_failures(&host, stranger(), at(31 + 6 * HOUR)));
        reboot(&mut host);
        // An hour later by the new clock.
        let up = Now { utc: shift(40 + HOUR).utc, uptime: at(0).uptime };
        assert_eq!(host.start(up).banned, 1);
        let left = 31 + 6 * HOUR - (40 + HOUR);
        assert!(by_failures(&host, stranger(), at(left - 1)));
        assert!(!by_failures(&host, stranger(), at(left)));
    }
}
