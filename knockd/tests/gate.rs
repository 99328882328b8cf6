//! Scenarios on the gate: at this time, from this source, this datagram, exactly this decision.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, Timestamp, UnicastAddress, seal,
};
use data_encoding::HEXLOWER;
use knockd::gate::{
    Gate,
    clock::{Now, Uptime},
    decision::{Accepted, Decision, Effect, Reason, Refusal, StaleBound, Staleness},
    directory::{Directory, Progress},
    policy::{
        AddressPolicy, BanPolicy, Client, ClientClock, ClockSkew, GrantPolicy, Port, ReplayLimits,
        Service, Sessions, Standing,
    },
    replay::{Floor, ReplayMemory},
};
use serde::Deserialize;

const NOON: u64 = 1_790_000_000_123;
const SKEW_MS: u64 = 30_000;
const DAY_MS: u64 = 86_400_000;

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn at(utc_ms: u64) -> Now {
    Now { utc: Timestamp::from_millis(utc_ms), uptime: Uptime::from_millis(1_000_000) }
}

fn secret(seed: u8) -> Secret {
    let mut bytes = [seed; 32];
    bytes[0] = !seed;
    Secret::new(bytes).unwrap()
}

fn client(name: &str, seed: u8) -> Client {
    Client {
        name: name.parse().unwrap(),
        secret: secret(seed),
        services: ["mqtts".parse().unwrap()].into(),
        from: Vec::new(),
        address: AddressPolicy::Strict,
        clock: ClientClock::Utc,
        expires: None,
        old_key: None,
        standing: Standing::Enabled,
    }
}

fn services() -> Vec<Service> {
    [("mqtts", "tcp/8883"), ("coaps", "udp/5684")]
        .map(|(name, port)| Service {
            name: name.parse().unwrap(),
            ports: vec![port.parse::<Port>().unwrap()],
            to: Vec::new(),
        })
        .to_vec()
}

fn gate_with(clients: Vec<Client>, limits: ReplayLimits, forgotten: Option<u64>) -> Gate {
    let skew = ClockSkew::try_from(Duration::from_millis(SKEW_MS)).unwrap();
    let grant = GrantPolicy {
        open_for: Duration::from_secs(30),
        max: Duration::from_hours(1),
        per_client: NonZeroU32::new(64).unwrap(),
        sessions: Sessions::Keep,
    };
    let directory = Directory::new(services(), clients, &Realm::default());
    let floor = Floor { forgotten: forgotten.map(Timestamp::from_millis), lost_before: None };
    let replay = ReplayMemory::new(limits, skew, floor);
    let mut gate = Gate::new(directory, replay, grant, &BanPolicy::default(), skew);
    prepare(&mut gate, NOON);
    gate
}

/// Makes all tags of the days around this time.
fn prepare(gate: &mut Gate, now: u64) {
    let mut collisions = Vec::new();
    let progress = gate.prepare(Timestamp::from_millis(now), usize::MAX, &mut collisions);
    assert_eq!((progress, collisions), (Progress::Complete, Vec::new()));
}

fn gate(clients: Vec<Client>) -> Gate {
    gate_with(clients, ReplayLimits { capacity: 1000, per_client: 1000 }, None)
}

/// A packet in the making.
#[derive(Clone)]
struct Knock {
    seed: u8,
    nonce: u8,
    request: Request,
}

impl Knock {
    fn new() -> Self {
        Self {
            seed: 1,
            nonce: 0,
            request: Request {
                timestamp: Timestamp::from_millis(NOON),
                address: ClientAddress::Literal(UnicastAddress::try_from(ip("10.77.0.2")).unwrap()),
                open_for: OpenFor::Default,
                action: Action::Open,
                reply: ReplyWanted::No,
                service: Some("mqtts".parse().unwrap()),
            },
        }
    }

    fn stamped(mut self, millis: u64) -> Self {
        self.request.timestamp = Timestamp::from_millis(millis);
        self
    }

    fn of(mut self, seed: u8) -> Self {
        self.seed = seed;
        self
    }

    fn numbered(mut self, nonce: u8) -> Self {
        self.nonce = nonce;
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Request)) -> Self {
        change(&mut self.request);
        self
    }

    fn sealed(&self) -> SealedDatagram {
        self.sealed_on(Day::of(self.request.timestamp).unwrap())
    }

    fn sealed_on(&self, day: Day) -> SealedDatagram {
        let keys = ClientKeys::derive(&secret(self.seed), &Realm::default());
        seal(&keys, day, Nonce::from_random([self.nonce; 12]), &self.request)
    }
}

fn reason(decision: Decision) -> Reason {
    match decision {
        Decision::Refuse(Refusal { reason, .. }) => reason,
        Decision::Accept(accepted) => panic!("accepted: {accepted:?}"),
    }
}

fn accepted(decision: Decision) -> Accepted {
    match decision {
        Decision::Accept(accepted) => accepted,
        Decision::Refuse(refusal) => panic!("refused: {refusal:?}"),
    }
}

#[test]
fn a_sound_packet_opens_its_service_for_its_address_and_the_default_time() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let accepted = accepted(gate.decide(&Knock::new().sealed(), ip("10.77.0.2"), at(NOON)));
    assert_eq!(accepted.effect, Effect::Open(Duration::from_secs(30)));
    assert_eq!(accepted.address.ip(), ip("10.77.0.2"));
    assert_eq!(gate.directory().name(accepted.client), "press-17");
    let services: Vec<&str> =
        accepted.services.iter().map(|id| gate.directory().service(*id).name.as_str()).collect();
    assert_eq!(services, ["mqtts"]);
}

#[test]
fn a_packet_that_names_no_service_opens_every_service_of_its_client() {
    let mut both = client("press-17", 1);
    both.services = ["mqtts", "coaps"].map(|name| name.parse().unwrap()).into();
    let mut gate = gate(vec![both]);
    let knock = Knock::new().with(|request| request.service = None);
    assert_eq!(accepted(gate.decide(&knock.sealed(), ip("10.77.0.2"), at(NOON))).services.len(), 2);
}

#[test]
fn a_v4_mapped_source_is_that_ipv4_address() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let _ = accepted(gate.decide(&Knock::new().sealed(), ip("::ffff:10.77.0.2"), at(NOON)));
}

#[test]
fn the_allowed_skew_ends_at_its_last_millisecond_in_both_directions() {
    for (stamp, difference) in [
        (NOON - SKEW_MS, None),
        (NOON + SKEW_MS, None),
        (NOON - SKEW_MS - 1, Some(-30_001)),
        (NOON + SKEW_MS + 1, Some(30_001)),
    ] {
        let mut gate = gate(vec![client("press-17", 1)]);
        let decision =
            gate.decide(&Knock::new().stamped(stamp).sealed(), ip("10.77.0.2"), at(NOON));
        match difference {
            None => drop(accepted(decision)),
            Some(difference_ms) => assert_eq!(
                reason(decision),
                Reason::Stale(Staleness { difference_ms, bound: StaleBound::Skew })
            ),
        }
    }
}

#[test]
fn nothing_stamped_at_or_before_the_newest_forgotten_stamp_is_accepted() {
    let limits = ReplayLimits { capacity: 10, per_client: 10 };
    for (stamp, is_accepted) in [(NOON - 1, false), (NOON, false), (NOON + 1, true)] {
        let mut gate = gate_with(vec![client("press-17", 1)], limits, Some(NOON));
        match gate.decide(&Knock::new().stamped(stamp).sealed(), ip("10.77.0.2"), at(NOON)) {
            Decision::Accept(_) => assert!(is_accepted, "{stamp}"),
            Decision::Refuse(refusal) => {
                assert!(!is_accepted, "{stamp}");
                assert!(matches!(
                    refusal.reason,
                    Reason::Stale(Staleness { bound: StaleBound::Forgotten, .. })
                ));
            }
        }
    }
}

#[test]
fn a_packet_is_accepted_once_from_its_own_source_and_from_any_other() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let datagram = Knock::new().sealed();
    let _ = accepted(gate.decide(&datagram, ip("10.77.0.2"), at(NOON)));
    for later in [0, 1, SKEW_MS] {
        assert_eq!(
            reason(gate.decide(&datagram, ip("10.77.0.2"), at(NOON + later))),
            Reason::Replayed
        );
    }
    assert!(matches!(
        reason(gate.decide(&datagram, ip("10.77.0.9"), at(NOON))),
        Reason::AddressMismatch { .. }
    ));
    assert!(matches!(
        reason(gate.decide(&datagram, ip("10.77.0.2"), at(NOON + SKEW_MS + 1))),
        Reason::Stale(_)
    ));
}

#[test]
fn a_copy_that_races_ahead_from_elsewhere_does_not_burn_the_genuine_packet() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let datagram = Knock::new().sealed();
    assert!(matches!(
        reason(gate.decide(&datagram, ip("10.77.0.9"), at(NOON))),
        Reason::AddressMismatch { .. }
    ));
    let _ = accepted(gate.decide(&datagram, ip("10.77.0.2"), at(NOON)));
}

#[test]
fn no_step_of_the_clock_makes_a_used_packet_new_again() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let old = Knock::new().sealed();
    let _ = accepted(gate.decide(&old, ip("10.77.0.2"), at(NOON)));
    let later = NOON + DAY_MS / 2;
    prepare(&mut gate, later);
    let _ =
        accepted(gate.decide(&Knock::new().stamped(later).sealed(), ip("10.77.0.2"), at(later)));
    prepare(&mut gate, NOON);
    let refused = reason(gate.decide(&old, ip("10.77.0.2"), at(NOON)));
    assert!(
        matches!(refused, Reason::Stale(Staleness { bound: StaleBound::Forgotten, .. })),
        "{refused:?}"
    );
}

#[test]
fn a_disabled_client_is_told_apart_from_a_stranger() {
    let mut disabled = client("press-17", 1);
    disabled.standing = Standing::Disabled;
    let mut gate = gate(vec![disabled]);
    assert_eq!(
        reason(gate.decide(&Knock::new().sealed(), ip("10.77.0.2"), at(NOON))),
        Reason::ClientDisabled
    );
}

#[test]
fn a_client_has_expired_from_the_very_millisecond_on() {
    for (end, is_accepted) in [(NOON + 1, true), (NOON, false)] {
        let mut expiring = client("press-17", 1);
        expiring.expires = Some(Timestamp::from_millis(end));
        let mut gate = gate(vec![expiring]);
        match gate.decide(&Knock::new().sealed(), ip("10.77.0.2"), at(NOON)) {
            Decision::Accept(_) => assert!(is_accepted),
            Decision::Refuse(refusal) => {
                assert_eq!((is_accepted, refusal.reason), (false, Reason::ClientExpired))
            }
        }
    }
}

#[test]
fn a_client_knocks_from_its_networks_only() {
    let mut bound = client("press-17", 1);
    bound.from = vec!["10.3.0.0/16".parse().unwrap(), "10.77.0.2/32".parse().unwrap()];
    let mut gate = gate(vec![bound]);
    let _ = accepted(gate.decide(&Knock::new().sealed(), ip("10.77.0.2"), at(NOON)));
    let elsewhere = Knock::new().numbered(1).with(|request| {
        request.address =
            ClientAddress::Literal(UnicastAddress::try_from(ip("10.77.0.3")).unwrap());
    });
    assert_eq!(
        reason(gate.decide(&elsewhere.sealed(), ip("10.77.0.3"), at(NOON))),
        Reason::NetworkNotAllowed
    );
}

#[test]
fn the_source_is_taken_as_the_address_only_where_the_clients_entry_allows_it() {
    let mut observed = client("gateway", 2);
    observed.address = AddressPolicy::Observed;
    let mut gate = gate(vec![client("press-17", 1), observed]);
    let asks = |seed| {
        Knock::new().of(seed).with(|request| request.address = ClientAddress::Observed).sealed()
    };
    assert_eq!(
        reason(gate.decide(&asks(1), ip("10.77.0.2"), at(NOON))),
        Reason::AddressMismatch { asked: None, source: ip("10.77.0.2") }
    );
    assert_eq!(
        accepted(gate.decide(&asks(2), ip("192.0.2.7"), at(NOON))).address.ip(),
        ip("192.0.2.7")
    );
}

#[test]
fn no_door_opens_for_a_source_that_is_no_clients_address() {
    let mut observed = client("gateway", 1);
    observed.address = AddressPolicy::Observed;
    let mut gate = gate(vec![observed]);
    let asks = Knock::new().with(|request| request.address = ClientAddress::Observed).sealed();
    for source in ["fe80::1", "127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255"] {
        assert!(
            matches!(
                reason(gate.decide(&asks, ip(source), at(NOON))),
                Reason::AddressMismatch { .. }
            ),
            "{source}"
        );
    }
}

#[test]
fn a_service_that_exists_and_is_not_the_clients_is_refused_like_one_that_does_not_exist() {
    let mut gate = gate(vec![client("press-17", 1)]);
    for (nonce, name) in [(1, "coaps"), (2, "ssh")] {
        let service = name.parse().unwrap();
        let knock = Knock::new().numbered(nonce).with(|request| request.service = Some(service));
        assert_eq!(
            reason(gate.decide(&knock.sealed(), ip("10.77.0.2"), at(NOON))),
            Reason::ServiceNotAllowed(Some(service))
        );
    }
}

#[test]
fn checks_are_made_in_the_protocols_order() {
    // Everything from step 6 on is wrong with this packet; mending one thing shows the next.
    let mut entry = client("press-17", 1);
    entry.standing = Standing::Disabled;
    entry.from = vec!["10.3.0.0/16".parse().unwrap()];
    let wrong = Knock::new()
        .stamped(NOON - SKEW_MS - 1)
        .with(|request| request.service = Some("ssh".parse().unwrap()));
    let decide = |entry: &Client, knock: &Knock, source: &str| {
        reason(gate(vec![entry.clone()]).decide(&knock.sealed(), ip(source), at(NOON))).name()
    };
    assert_eq!(decide(&entry, &wrong, "10.77.0.9"), "stale");
    let wrong = wrong.stamped(NOON);
    assert_eq!(decide(&entry, &wrong, "10.77.0.9"), "client-disabled");
    entry.standing = Standing::Enabled;
    assert_eq!(decide(&entry, &wrong, "10.77.0.9"), "network-not-allowed");
    entry.from.clear();
    assert_eq!(decide(&entry, &wrong, "10.77.0.9"), "address-mismatch");
    assert_eq!(decide(&entry, &wrong, "10.77.0.2"), "service-not-allowed");
}

#[test]
fn tags_of_yesterday_and_tomorrow_are_known_and_those_of_two_days_off_are_not() {
    let mut gate = gate(vec![client("press-17", 1)]);
    for (stamp, expected) in [
        (NOON - DAY_MS, "stale"),
        (NOON + DAY_MS, "stale"),
        (NOON - 2 * DAY_MS, "unknown-tag"),
        (NOON + 2 * DAY_MS, "unknown-tag"),
    ] {
        let datagram = Knock::new().stamped(stamp).sealed();
        assert_eq!(reason(gate.decide(&datagram, ip("10.77.0.2"), at(NOON))).name(), expected);
    }
}

#[test]
fn tags_that_are_made_in_steps_are_found_today_first_and_all_in_the_end() {
    let clients: Vec<Client> = (1..=5).map(|seed| client(&format!("press-{seed}"), seed)).collect();
    let mut directory = Directory::new(services(), clients, &Realm::default());
    let today = Day::of(Timestamp::from_millis(NOON)).unwrap();
    let tag = |directory: &Directory, day, at| directory.tags_on(day, at..at + 1).next().unwrap();
    let mut steps = 0;
    while directory.prepare(today, 2, &mut Vec::new()) == Progress::More {
        steps += 1;
        let made =
            (0..5).filter(|at| directory.find(tag(&directory, today, *at)).is_some()).count();
        assert_eq!(made, 5.min(steps * 2));
    }
    assert_eq!(steps, 7);
    for day in [today.previous().unwrap(), today, today.next().unwrap()] {
        for at in 0..5 {
            let (client, _, found) = directory.find(tag(&directory, day, at)).unwrap();
            assert_eq!(
                (directory.name(client), found),
                (format!("press-{}", at + 1).as_str(), day)
            );
        }
    }
}

#[test]
fn across_midnight_a_fresh_packet_of_either_day_is_accepted() {
    let midnight = (NOON / DAY_MS + 1) * DAY_MS;
    for (nonce, stamp, now) in
        [(1, midnight - 1, midnight), (2, midnight, midnight - 1), (3, midnight, midnight)]
    {
        let mut gate = gate(vec![client("press-17", 1)]);
        prepare(&mut gate, now);
        let datagram = Knock::new().numbered(nonce).stamped(stamp).sealed();
        let _ = accepted(gate.decide(&datagram, ip("10.77.0.2"), at(now)));
    }
}

#[test]
fn a_stamp_one_millisecond_on_the_other_side_of_midnight_than_its_tag_is_malformed() {
    let midnight = (NOON / DAY_MS + 1) * DAY_MS;
    for (stamp, tags_day) in [(midnight - 1, midnight), (midnight, midnight - 1)] {
        let mut gate = gate(vec![client("press-17", 1)]);
        let day = Day::of(Timestamp::from_millis(tags_day)).unwrap();
        let datagram = Knock::new().stamped(stamp).sealed_on(day);
        let refused = reason(gate.decide(&datagram, ip("10.77.0.2"), at(midnight)));
        assert_eq!(refused.name(), "malformed", "{refused:?}");
    }
}

#[test]
fn a_client_fills_its_own_share_of_the_memory_and_nobody_elses() {
    let limits = ReplayLimits { capacity: 5, per_client: 2 };
    let mut gate = gate_with(vec![client("loud", 1), client("quiet", 2)], limits, None);
    for nonce in 0..2 {
        let _ = accepted(gate.decide(
            &Knock::new().numbered(nonce).sealed(),
            ip("10.77.0.2"),
            at(NOON),
        ));
    }
    let one_more = Knock::new().numbered(2).sealed();
    assert_eq!(reason(gate.decide(&one_more, ip("10.77.0.2"), at(NOON))), Reason::ReplayMemoryFull);
    let _ = accepted(gate.decide(&Knock::new().of(2).sealed(), ip("10.77.0.2"), at(NOON)));
    let later = NOON + SKEW_MS + 1;
    let fresh = Knock::new().stamped(later).sealed();
    let _ = accepted(gate.decide(&fresh, ip("10.77.0.2"), at(later)));
}

#[test]
fn no_bytes_of_any_length_make_it_panic_or_change_it() {
    let mut gate = gate(vec![client("press-17", 1)]);
    let mut noise = 0x9e37_79b9_u32;
    for length in (0..400).chain([1_500, 65_507]) {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise.to_be_bytes()[0]
            })
            .collect();
        let expected = if length == 116 { "unknown-tag" } else { "malformed" };
        assert_eq!(reason(gate.decide(&bytes, ip("10.77.0.2"), at(NOON))).name(), expected);
    }
    assert_eq!(gate.replay().packets().len(), 0);
}

#[derive(Deserialize)]
struct Refused {
    secret: String,
    realm: String,
    now_ms: u64,
    clock_skew_ms: u64,
    source: IpAddr,
    client_services: Vec<String>,
    client_address: String,
    vectors: Vec<RefusedVector>,
}

#[derive(Deserialize)]
struct RefusedVector {
    reason: String,
    name: String,
    datagram: String,
}

#[test]
fn each_of_the_refused_vectors_is_refused_with_its_reason() {
    let file: Refused =
        serde_json::from_str(include_str!("../../common/vectors/refused-1.json")).unwrap();
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
    assert_eq!((file.realm.as_str(), file.client_address.as_str()), ("", "strict"));
    assert_eq!(file.clock_skew_ms, SKEW_MS);
    let mut entry = client("press-17", 1);
    entry.secret = Secret::new(hex(&file.secret).try_into().unwrap()).unwrap();
    entry.services = file.client_services.iter().map(|name| name.parse().unwrap()).collect();
    let mut gate = gate(vec![entry]);
    prepare(&mut gate, file.now_ms);
    assert!(!file.vectors.is_empty());
    for vector in file.vectors {
        let refused = reason(gate.decide(&hex(&vector.datagram), file.source, at(file.now_ms)));
        assert_eq!(refused.name(), vector.reason, "{}", vector.name);
    }
}
