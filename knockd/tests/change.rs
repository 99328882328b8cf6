//! The configuration changes while the daemon runs: who is in, who is banned, and what is remembered.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{io::ErrorKind, net::IpAddr, num::NonZeroU32, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Timestamp,
    seal,
};
use knockd::{
    admission::KernelState,
    gate::{
        Gate,
        bans::BanReason,
        clock::{Now, Uptime},
        decision::Decision,
        directory::Directory,
        grants::Door,
        policy::{ClockSkew, Policy, ReplayLimits, Service},
        replay::{Floor, ReplayMemory},
        source::Source,
    },
    journal::seen::Condition,
};
use proptest::prelude::*;

use host::{Host, at, client, device, door, open, policy, secret};

fn service(name: &str, ports: &[&str]) -> Service {
    Service {
        name: name.parse().unwrap(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        to: Vec::new(),
    }
}

fn door_at(port: &str) -> Door {
    Door { port: port.parse().unwrap(), ..door() }
}

fn is_open(host: &Host, port: &str, now: Now) -> bool {
    host.firewall.0.borrow().is_open(&door_at(port), now.uptime)
}

/// Goes by this policy from here on, as a reload does.
fn follow(host: &mut Host, policy: &Policy, now: Now) -> usize {
    host.policy = policy.clone();
    let admission = host.admission();
    admission.make_room(policy.replay.capacity).unwrap();
    let lifted = admission.follow(policy, now);
    let (_, _) = admission.settle_services(now);
    lifted
}

#[test]
fn a_port_that_a_service_gains_opens_for_who_is_in_and_one_that_it_loses_shuts() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let two = Policy { services: vec![service("mqtts", &["tcp/8883", "tcp/8884"])], ..policy() };
    follow(&mut host, &two, at(40));
    assert!(is_open(&host, "tcp/8883", at(40)) && is_open(&host, "tcp/8884", at(40)));
    assert!(!is_open(&host, "tcp/8884", at(91)), "it ends with the grant");
    let other = Policy { services: vec![service("mqtts", &["tcp/8884"])], ..policy() };
    follow(&mut host, &other, at(41));
    assert!(!is_open(&host, "tcp/8883", at(41)) && is_open(&host, "tcp/8884", at(41)));
    // A restart finds it so.
    assert_eq!(host.start(at(42)).live, 1);
    assert!(!is_open(&host, "tcp/8883", at(42)) && is_open(&host, "tcp/8884", at(42)));
}

#[test]
fn a_service_that_is_gone_takes_its_grants_with_it_and_gives_none_back() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let gone = Policy { services: vec![service("other", &["tcp/8883"])], ..policy() };
    follow(&mut host, &gone, at(32));
    assert_eq!(host.admission().grants().owners().len(), 0);
    assert!(!host.is_open(at(32)));
    follow(&mut host, &policy(), at(33));
    assert!(!host.is_open(at(33)));
    assert_eq!(host.start(at(34)).live, 0);
    assert_eq!(host.handle(&[open(2, at(34))], at(34)), ["granted"]);
}

#[test]
fn a_door_that_the_kernel_does_not_shut_for_a_changed_service_is_shut_as_soon_as_it_does() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let moved = Policy { services: vec![service("mqtts", &["tcp/8884"])], ..policy() };
    host.fail_with(Some(ErrorKind::OutOfMemory));
    follow(&mut host, &moved, at(32));
    assert!(host.is_open(at(32)));
    assert_eq!(host.admission().kernel(), KernelState::InDoubt);
    host.fail_with(None);
    host.admission().reconcile(at(33)).unwrap();
    assert!(!host.is_open(at(33)) && is_open(&host, "tcp/8884", at(33)));
}

#[test]
fn a_grant_is_as_long_as_the_policy_says_that_it_was_given_under() {
    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let mut short = policy();
    short.grant.open_for = Duration::from_secs(5);
    short.grant.max = Duration::from_secs(5);
    follow(&mut host, &short, at(32));
    assert!(host.is_open(at(90)), "a live grant keeps its time");
    assert_eq!(host.handle(&[open(2, at(92))], at(92)), ["granted"]);
    assert!(host.is_open(at(96)) && !host.is_open(at(97)));
}

#[test]
fn with_less_room_than_is_remembered_nothing_is_forgotten_and_nothing_new_accepted() {
    let mut host = Host::warmed_up();
    let knocks: Vec<_> = (0..10).map(|nonce| open(nonce, at(31))).collect();
    assert_eq!(host.handle(&knocks, at(31)), ["granted"; 10]);
    let room =
        |capacity| Policy { replay: ReplayLimits { capacity, per_client: capacity }, ..policy() };
    follow(&mut host, &room(3), at(32));
    assert_eq!(host.handle(&knocks, at(32)), ["replayed"; 10]);
    assert_eq!(host.handle(&[open(20, at(32))], at(32)), ["replay-memory-full"]);
    // When they are stale there is room again.
    assert_eq!(host.handle(&[open(21, at(62))], at(62)), ["granted"]);

    // More room than the file has had: what is in it stays, and a restart finds all of it.
    follow(&mut host, &room(2_000), at(63));
    let many: Vec<_> = (30..230).map(|nonce| open(nonce, at(63))).collect();
    assert_eq!(host.handle(&many, at(63)), vec!["granted"; 200]);
    let restored = host.start(at(64));
    assert_eq!((restored.seen, restored.packets), (Condition::Intact, 201));
    assert_eq!(host.handle(&many, at(64)), vec!["replayed"; 200]);
    assert_eq!(host.handle(&[open(21, at(62))], at(64)), ["replayed"]);
}

#[test]
fn more_room_is_made_for_a_ring_that_has_wrapped_and_is_full() {
    let mut host = Host::new();
    let room =
        |capacity| Policy { replay: ReplayLimits { capacity, per_client: capacity }, ..policy() };
    host.policy = room(8);
    host.start(at(0));
    // One by one, so that the oldest is forgotten when the next comes and the ring goes round.
    for second in 31..131 {
        let _ = host.handle(&[open(1, at(second))], at(second));
        let _ = host.handle(&[open(2, at(second))], at(second));
    }
    let remembered = host.admission().gate().replay().packets().len();
    assert_eq!(remembered, 8);
    follow(&mut host, &room(100), at(131));
    let after: Vec<_> = (3..53).map(|nonce| open(nonce, at(131))).collect();
    assert_eq!(host.handle(&after, at(131)), vec!["granted"; 50]);
    let kept: Vec<_> = host.admission().gate().replay().packets().copied().collect();
    let restored = host.start(at(132));
    assert_eq!((restored.seen, restored.packets), (Condition::Intact, kept.len()));
    let found: Vec<_> = host.admission().gate().replay().packets().copied().collect();
    assert_eq!(found, kept);
}

#[test]
fn failures_that_were_counted_stay_counted_when_the_policy_changes() {
    let mut host = Host::warmed_up();
    let junk = [0xaa; 116];
    let stranger: IpAddr = "198.51.100.7".parse().unwrap();
    let fail = |host: &mut Host, second| {
        host.handle_from(&[(junk.as_slice(), stranger)], at(second)).last().cloned().unwrap()
    };
    for second in 31..36 {
        assert_eq!(fail(&mut host, second), "unknown-tag");
    }
    let mut changed = policy();
    changed.ban.duration = Duration::from_secs(7);
    follow(&mut host, &changed, at(36));
    assert_eq!(fail(&mut host, 36), "banned");
    let until = host.admission().gate().bans().get(Source::of(stranger)).unwrap().until;
    assert_eq!(until, at(43).uptime);

    // A ban keeps the time that it was made for.
    changed.ban.duration = Duration::from_secs(1);
    changed.ban.failures = NonZeroU32::new(100).unwrap();
    follow(&mut host, &changed, at(37));
    assert_eq!(host.admission().gate().bans().get(Source::of(stranger)).unwrap().until, until);
}

#[test]
fn a_ban_of_a_network_that_is_never_banned_is_lifted_in_the_kernel_and_the_file_and_no_other() {
    let mut host = Host::warmed_up();
    let sources: [Source; 2] = ["198.51.100.7", "192.0.2.7"].map(|it| it.parse().unwrap());
    for source in sources {
        let hour = Duration::from_hours(1);
        host.admission().ban(source, hour, BanReason::default(), at(31)).unwrap();
    }
    let mut changed = policy();
    changed.ban.never = vec!["192.0.2.0/24".parse().unwrap()];
    assert_eq!(follow(&mut host, &changed, at(32)), 1);
    let is_banned = |host: &Host, source| {
        let kind = knockd::gate::bans::BanKind::Admin;
        host.firewall.0.borrow().is_banned(source, kind, at(33).uptime)
    };
    assert!(is_banned(&host, sources[0]) && !is_banned(&host, sources[1]));
    host.policy = policy();
    assert_eq!(host.start(at(34)).banned, 1, "a restart doesn't find it either");
}

#[test]
fn revoked_grants_are_over_in_the_kernel_and_after_a_restart() {
    use knockd::admission::{Revoked, Whose};

    let mut host = Host::warmed_up();
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let client = host.admission().gate().directory().clients_by_name()["press-17"];
    let revoke = |host: &mut Host, whose| host.admission().revoke(whose, None, at(32));
    let elsewhere = Whose::Address(IpAddr::from([10, 77, 0, 9]).try_into().unwrap());
    assert_eq!(revoke(&mut host, elsewhere), Revoked::default());
    assert!(host.is_open(at(32)));
    assert_eq!(revoke(&mut host, Whose::Client(client)).grants, 1);
    assert!(!host.is_open(at(32)));
    assert_eq!(revoke(&mut host, Whose::Client(client)).grants, 0);
    // From where it was let in is known all the same, and for whom a door is open, by its address.
    assert_eq!(host.admission().doors_of(client), [door()].into());
    assert_eq!(host.start(at(33)).live, 0);
    assert_eq!(host.handle(&[open(2, at(33))], at(33)), ["granted"]);
    let address = Whose::Address(device().try_into().unwrap());
    assert_eq!(revoke(&mut host, address).grants, 1);
}

const DAY_MS: u64 = 86_400_000;
const START_MS: u64 = 20_718 * DAY_MS + DAY_MS / 2;

fn limits() -> ReplayLimits {
    ReplayLimits { capacity: 1_000, per_client: 1_000 }
}

fn skew(millis: u64) -> ClockSkew {
    ClockSkew::try_from(Duration::from_millis(millis)).unwrap()
}

fn instant(millis: u64) -> Now {
    Now {
        utc: Timestamp::from_millis(START_MS + millis),
        uptime: Uptime::from_millis(3 * DAY_MS + millis),
    }
}

fn packet(stamp: u64) -> [u8; common::DATAGRAM_LEN] {
    let timestamp = Timestamp::from_millis(stamp);
    let request = Request {
        timestamp,
        address: ClientAddress::Literal(device().try_into().unwrap()),
        open_for: OpenFor::Default,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let keys = ClientKeys::derive(&secret(), &Realm::default());
    seal(&keys, Day::of(timestamp).unwrap(), Nonce::from_random([0; 12]), &request)
}

proptest! {
    /// However the allowed skew is changed, and the daemon restarted under it, no packet is accepted twice: not
    /// those of this run, and not those that were lost.
    #[test]
    fn no_change_of_the_skew_makes_a_used_packet_new_again(
        first in 1_u64..100_000,
        acts in prop::collection::vec((0..4_u8, 1_u64..100_000, 0_u64..60_000), 1..20),
    ) {
        let policy = |millis| Policy { clock_skew: skew(millis), replay: limits(), ..policy() };
        let directory = || {
            Directory::new(policy(1).services, vec![client()], &Realm::default())
        };
        // What was accepted before this run is lost: stamped up to the skew ahead of its end.
        let lost = instant(0);
        let through = lost.uptime + Duration::from_millis(first);
        let floor = Floor { forgotten: None, lost_through: Some(through) };
        let gate = |millis, floor| {
            let memory = ReplayMemory::new(limits(), skew(millis), floor);
            let policy = policy(millis);
            let mut gate = Gate::new(directory(), memory, policy.grant, &policy.ban, policy.clock_skew);
            let _ = gate.prepare(lost.utc, usize::MAX, &mut Vec::new());
            gate
        };
        let mut running = gate(first, floor);
        let (mut allowed, mut passed) = (first, 0);
        let mut used: Vec<u64> = Vec::new();
        for (act, millis, later) in acts {
            passed += later;
            let now = instant(passed);
            match act {
                0 => {
                    allowed = millis;
                    let _ = running.follow(&policy(millis));
                }
                1 => {
                    let before = running.replay();
                    let mut memory = ReplayMemory::new(limits(), skew(allowed), before.floor());
                    memory.restore(before.packets().copied());
                    *running.replay_mut() = memory;
                }
                _ => {
                    let stamp = now.utc.as_millis() + millis % (2 * allowed) - allowed;
                    let decision = running.decide(&packet(stamp), device(), now);
                    if matches!(decision, Decision::Accept(_)) {
                        prop_assert!(!used.contains(&stamp), "accepted twice");
                        let newest_lost = lost.utc.as_millis() + first;
                        prop_assert!(stamp > newest_lost, "it may have been accepted before");
                        used.push(stamp);
                    }
                }
            }
            for stamp in &used {
                let again = running.decide(&packet(*stamp), device(), now);
                prop_assert!(matches!(again, Decision::Refuse(_)), "accepted twice");
            }
        }
    }
}
