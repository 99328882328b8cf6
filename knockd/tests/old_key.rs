//! A key that is changed with overlap: at this time, under this key, exactly this decision.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::{num::NonZeroU32, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request, Secret,
    Timestamp, seal,
};
use knockd::{
    firewall::memory::MemoryFirewall,
    gate::{
        Gate,
        clock::{Now, Uptime},
        decision::{Decision, Effect, Refusal},
        directory::{Directory, Enrolment, Progress},
        policy::{
            AddressPolicy, BanPolicy, Client, ClientClock, ClockSkew, GrantPolicy, OldKey,
            ReplayLimits, Service, Sessions, Standing,
        },
        replay::{Floor, ReplayMemory},
    },
    tags::{TagKeeper, Upkeep},
};
use proptest::prelude::*;

/// Noon, so that a day that is counted in milliseconds ends in the middle of one of UTC.
const NOON: u64 = 20_718 * DAY_MS + DAY_MS / 2;
const DAY_MS: u64 = 86_400_000;
const OLD: u8 = 1;
const NEW: u8 = 2;

fn secret(seed: u8) -> Secret {
    let mut bytes = [seed; 32];
    bytes[0] = !seed;
    Secret::new(bytes).unwrap()
}

fn keys(seed: u8) -> ClientKeys {
    ClientKeys::derive(&secret(seed), &Realm::default())
}

fn client(until: Option<u64>) -> Client {
    Client {
        name: "press-17".parse().unwrap(),
        secret: secret(NEW),
        old_key: until.map(|until| {
            Box::new(OldKey { secret: secret(OLD), until: Timestamp::from_millis(until) })
        }),
        services: ["mqtts".parse().unwrap()].into(),
        from: Vec::new(),
        address: AddressPolicy::Strict,
        clock: ClientClock::Utc,
        expires: None,
        standing: Standing::Enabled,
    }
}

fn skew() -> ClockSkew {
    ClockSkew::try_from(Duration::from_secs(30)).unwrap()
}

fn gate(client: Client) -> Gate {
    let service = Service {
        name: "mqtts".parse().unwrap(),
        ports: vec!["tcp/8883".parse().unwrap()],
        to: Vec::new(),
    };
    let grant = GrantPolicy {
        open_for: Duration::from_secs(30),
        max: Duration::from_hours(1),
        per_client: NonZeroU32::new(64).unwrap(),
        sessions: Sessions::Keep,
    };
    let limits = ReplayLimits { capacity: 1000, per_client: 1000 };
    let directory = Directory::new(vec![service], vec![client], &Realm::default());
    let replay = ReplayMemory::new(limits, skew(), Floor::default());
    Gate::new(directory, replay, grant, &BanPolicy::default(), skew())
}

/// What becomes of a fresh packet under a key at this time: "accepted", or the reason.
fn knock(gate: &mut Gate, seed: u8, millis: u64) -> &'static str {
    match decide(gate, seed, millis, OpenFor::Default) {
        Decision::Accept(_) => "accepted",
        Decision::Refuse(Refusal { client, reason }) => {
            assert_eq!(client.is_some(), reason.name() != "unknown-tag");
            reason.name()
        }
    }
}

/// What is said of a fresh packet under a key at this time, which asks for so long.
fn decide(gate: &mut Gate, seed: u8, millis: u64, open_for: OpenFor) -> Decision {
    let timestamp = Timestamp::from_millis(millis);
    let now = Now { utc: timestamp, uptime: Uptime::from_millis(millis - NOON + DAY_MS) };
    assert_eq!(gate.prepare(timestamp, usize::MAX, &mut Vec::new()), Progress::Complete);
    let source = "10.77.0.2".parse().unwrap();
    let request = Request {
        timestamp,
        address: ClientAddress::Literal(std::net::IpAddr::try_into(source).unwrap()),
        open_for,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let day = Day::of(timestamp).unwrap();
    let packet = seal(&keys(seed), day, Nonce::from_random([0; 12]), &request);
    gate.decide(&packet, source, now)
}

#[test]
fn an_old_key_opens_for_no_longer_than_it_is_good_and_the_new_one_for_all_of_its_time() {
    let end = NOON + DAY_MS;
    let entry_end = Timestamp::from_millis(end + 1_000);
    let mut gate = gate(Client { expires: Some(entry_end), ..client(Some(end)) });
    let hour = OpenFor::from_secs(3_600);
    for (seed, before_end, opened) in [
        (OLD, 3_600_000, 3_600_000),
        (OLD, 3_599_999, 3_599_999),
        (OLD, 1, 1),
        (NEW, 3_599_000, 3_600_000),
        (NEW, 1, 1_001),
    ] {
        let Decision::Accept(accepted) = decide(&mut gate, seed, end - before_end, hour) else {
            panic!("it is good until {before_end} ms from then");
        };
        assert_eq!(accepted.effect, Effect::Open(Duration::from_millis(opened)), "{before_end}");
    }
}

#[test]
fn both_keys_open_until_the_very_millisecond_at_which_the_old_one_ends() {
    let end = NOON + 7 * DAY_MS;
    let mut gate = gate(client(Some(end)));
    for millis in [NOON, NOON + DAY_MS, end - 1] {
        assert_eq!(knock(&mut gate, OLD, millis), "accepted", "{millis}");
        assert_eq!(knock(&mut gate, NEW, millis), "accepted", "{millis}");
    }
    for millis in [end, end + DAY_MS] {
        assert_eq!(knock(&mut gate, OLD, millis), "old-key-expired", "{millis}");
        assert_eq!(knock(&mut gate, NEW, millis), "accepted", "{millis}");
    }
}

#[test]
fn a_week_behind_its_end_an_old_key_is_a_strangers() {
    let end = NOON + 1;
    let mut gate = gate(client(Some(end)));
    let last = end + 7 * DAY_MS;
    assert_eq!(knock(&mut gate, OLD, last), "old-key-expired");
    assert_eq!(knock(&mut gate, OLD, last + DAY_MS), "unknown-tag");
    assert_eq!(knock(&mut gate, NEW, last + DAY_MS), "accepted");
    // A clock that was ahead by mistake has cost nothing.
    assert_eq!(knock(&mut gate, OLD, NOON), "accepted");
}

#[test]
fn a_packet_is_good_once_whichever_of_the_keys_it_is_under() {
    let mut gate = gate(client(Some(NOON + DAY_MS)));
    for seed in [OLD, NEW] {
        assert_eq!(knock(&mut gate, seed, NOON), "accepted");
        assert_eq!(knock(&mut gate, seed, NOON), "replayed");
    }
    // Also when the key that it was under has become the old one meanwhile.
    let mut gate = self::gate(Client { secret: secret(OLD), ..client(None) });
    assert_eq!(knock(&mut gate, OLD, NOON), "accepted");
    replace(&mut gate, client(Some(NOON + DAY_MS)));
    assert_eq!(knock(&mut gate, OLD, NOON), "replayed");
    assert_eq!(knock(&mut gate, OLD, NOON + 1), "accepted");
    assert_eq!(knock(&mut gate, NEW, NOON + 1), "accepted");
}

#[test]
fn a_disabled_client_is_told_as_that_under_either_key() {
    let standing = Standing::Disabled;
    let mut gate = gate(Client { standing, ..client(Some(NOON)) });
    for seed in [OLD, NEW] {
        assert_eq!(knock(&mut gate, seed, NOON), "client-disabled");
    }
}

fn replace(gate: &mut Gate, client: Client) {
    let id = gate.directory().clients_by_name()["press-17"];
    let enrolment = Enrolment::new(client, &Realm::default());
    assert!(gate.directory().differs(id, &enrolment));
    gate.directory_mut().replace(vec![(id, enrolment)]);
    let same = gate.directory().clients_by_name()["press-17"];
    assert_eq!(same, id);
}

#[test]
fn the_kernels_filter_lets_the_tags_of_both_keys_past() {
    let gate = gate(client(Some(NOON + DAY_MS)));
    let now = Now { utc: Timestamp::from_millis(NOON), uptime: Uptime::from_millis(0) };
    let day = Day::of(now.utc).unwrap();
    let (mut keeper, mut firewall) = (TagKeeper::new(skew()), MemoryFirewall::default());
    while keeper.keep(gate.directory(), &mut firewall, now).unwrap() == Upkeep::More {}
    for seed in [OLD, NEW] {
        assert!(firewall.tags().contains_key(&keys(seed).tag(day)), "{seed}");
    }
    assert_eq!(firewall.tags().len(), 2);
    // And those of a client that comes by a reload.
    let mut late = MemoryFirewall::default();
    let id = gate.directory().clients_by_name()["press-17"];
    keeper.let_in(&[id], gate.directory(), &mut late, now).unwrap();
    assert_eq!(late.tags(), firewall.tags());
}

proptest! {
    /// Whatever keys come and go, a packet is accepted under the keys that are good, and no others.
    #[test]
    fn after_any_changes_exactly_the_keys_that_are_good_open(
        changes in prop::collection::vec((0..4_u8, 0..5_u8, 0..3_u64), 1..12),
    ) {
        let mut gate = gate(Client { secret: secret(10), ..client(None) });
        let (mut new, mut old) = (10, None);
        let mut now = NOON;
        for (key, overlap, passed) in changes {
            now += passed * DAY_MS + 1;
            let before = (new, old);
            old = (overlap > 0).then(|| (new, now + u64::from(overlap) * DAY_MS / 2));
            new = 10 + key;
            if old.is_some_and(|(old, _)| old == new) {
                (new, old) = before;
                continue;
            }
            if (new, old) != before {
                let old_key = old.map(|(seed, until)| {
                    Box::new(OldKey { secret: secret(seed), until: Timestamp::from_millis(until) })
                });
                replace(&mut gate, Client { secret: secret(new), old_key, ..client(None) });
            }
            for seed in 10..14 {
                let told = knock(&mut gate, seed, now);
                let must = match old {
                    _ if seed == new => "accepted",
                    Some((old, until)) if old == seed && now < until => "accepted",
                    Some((old, _)) if old == seed => "old-key-expired",
                    _ => "unknown-tag",
                };
                prop_assert_eq!(told, must, "key {}", seed);
            }
        }
    }
}
