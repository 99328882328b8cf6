//! A right is checked when it is used: what a client may no longer hold ends, whichever way that came about, and the
//! running daemon and one that starts anew say the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{io::ErrorKind, time::Duration};

use common::{Realm, Timestamp};
use knockd::{
    admission::KernelState,
    gate::{
        clock::Now,
        directory::Enrolment,
        policy::{Client, Policy, Service, Standing},
    },
};

use host::{Host, at, client, door, open, policy};

/// What each test changes: the entry.
type Change = fn(&mut Client);

/// A host at which the device was let in for an hour, by an entry of this kind.
fn host_with(entry: &Client) -> Host {
    let mut host = Host::new();
    host.policy.grant.open_for = Duration::from_hours(1);
    host.start_with(at(0), vec![entry.clone()]);
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    host
}

/// Puts another entry in force: by a reload, or by a restart.
fn change(host: &mut Host, entry: Client, by_restart: bool, now: Now) {
    if by_restart {
        host.start_with(now, vec![entry]);
        return;
    }
    let admission = host.admission();
    let id = admission.gate().directory().clients_by_name()["press-17"];
    let enrolment = Enrolment::new(entry, &Realm::default());
    admission.gate_mut().directory_mut().replace(vec![(id, enrolment)]);
    let _ = admission.revoke_what_is_not_allowed(&[id].into(), now);
}

/// Until when the door is open, in whole seconds of this story; `None` if it is shut.
fn open_until(host: &Host) -> Option<u64> {
    let is_open = |second: &u64| host.firewall.0.borrow().is_open(&door(), at(*second).uptime);
    is_open(&32).then(|| (32..4_000).take_while(is_open).count() as u64 + 32)
}

#[test]
fn a_door_is_open_no_longer_than_its_clients_entry_is_good() {
    let entry = Client { expires: Some(at(40).utc), ..client() };
    let mut host = host_with(&entry);
    assert_eq!(open_until(&host), Some(40));
    // A knock in the last second opens for what is left of it.
    let last = Now {
        utc: Timestamp::from_millis(at(40).utc.as_millis() - 1),
        uptime: at(39).uptime + Duration::from_millis(999),
    };
    assert_eq!(host.handle(&[open(2, last)], last), ["granted"]);
    assert_eq!(open_until(&host), Some(40));
    assert_eq!(host.handle(&[open(3, at(40))], at(40)), ["client-expired"]);
}

#[test]
fn what_an_entry_no_longer_allows_ends_at_a_reload_as_at_a_restart() {
    let changes: [(&str, Change, Option<u64>); 7] = [
        ("nothing", |_| {}, Some(3_631)),
        ("ends later than the grant", |entry| entry.expires = Some(at(9_000).utc), Some(3_631)),
        ("ends before the grant", |entry| entry.expires = Some(at(50).utc), Some(50)),
        ("has ended", |entry| entry.expires = Some(at(32).utc), None),
        ("is switched off", |entry| entry.standing = Standing::Disabled, None),
        (
            "may knock from elsewhere",
            |entry| entry.from = vec!["10.3.0.0/16".parse().unwrap()],
            None,
        ),
        (
            "may knock from there and elsewhere",
            |entry| {
                entry.from = ["10.3.0.0/16", "10.77.0.0/24"].map(|it| it.parse().unwrap()).to_vec();
            },
            Some(3_631),
        ),
    ];
    for (what, change_entry, until) in changes {
        for by_restart in [false, true] {
            let mut entry = client();
            let mut host = host_with(&entry);
            change_entry(&mut entry);
            change(&mut host, entry.clone(), by_restart, at(32));
            assert_eq!(open_until(&host), until, "it {what}; by a restart: {by_restart}");
            // Nothing that has ended comes back.
            host.start_with(at(32), vec![entry]);
            assert_eq!(
                open_until(&host),
                until,
                "it {what}; by a restart: {by_restart}, and again"
            );
        }
    }
}

#[test]
fn what_the_kernel_does_not_shut_of_it_is_shut_as_soon_as_it_does() {
    let mut host = host_with(&client());
    host.fail_with(Some(ErrorKind::OutOfMemory));
    let elsewhere = Client { from: vec!["10.3.0.0/16".parse().unwrap()], ..client() };
    change(&mut host, elsewhere, false, at(32));
    assert_eq!(host.admission().kernel(), KernelState::InDoubt);
    host.fail_with(None);
    host.admission().reconcile(at(32)).unwrap();
    assert_eq!(open_until(&host), None);
}

#[test]
fn a_clock_that_is_set_ahead_ends_what_it_has_ended_and_shortens_what_it_is_about_to() {
    let entry = Client { expires: Some(at(1_000).utc), ..client() };
    for (ahead, until) in [(10, Some(990)), (900, Some(100)), (968, None), (5_000, None)] {
        let mut host = host_with(&entry);
        assert_eq!(open_until(&host), Some(1_000));
        let stepped = Now { utc: at(32 + ahead).utc, uptime: at(32).uptime };
        host.admission().follow_the_clock(stepped).unwrap();
        assert_eq!(open_until(&host), until, "{ahead} s ahead");
    }
    // Set back, it makes none longer.
    let mut host = host_with(&entry);
    let stepped = Now { utc: at(0).utc, uptime: at(32).uptime };
    host.admission().follow_the_clock(stepped).unwrap();
    assert_eq!(open_until(&host), Some(1_000));
}

#[test]
fn a_service_that_is_gone_from_the_entry_ends_and_the_others_stay() {
    let service = |name: &str, port: &str| Service {
        name: name.parse().unwrap(),
        ports: vec![port.parse().unwrap()],
        to: Vec::new(),
    };
    for by_restart in [false, true] {
        let services = vec![service("mqtts", "tcp/8883"), service("coaps", "udp/5684")];
        let both = Client { services: services.iter().map(|it| it.name).collect(), ..client() };
        let mut host = Host::new();
        host.policy = Policy { services, ..policy() };
        host.start_with(at(0), vec![both.clone()]);
        assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
        let one = Client { services: ["coaps".parse().unwrap()].into(), ..both };
        change(&mut host, one, by_restart, at(32));
        assert_eq!(open_until(&host), None);
        assert_eq!(host.admission().grants().owners().len(), 1);
    }
}
