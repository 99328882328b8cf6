//! A gate with clients and packets for it, for the benchmark of decisions and its callgrind twin.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that goes wrong ends with a panic"
)]

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, Timestamp, UnicastAddress, seal,
};
use knockd::gate::{
    Gate,
    clock::{Now, Uptime},
    decision::Decision,
    directory::Directory,
    policy::{
        AddressPolicy, BanPolicy, Client, ClientClock, ClockSkew, GrantPolicy, ReplayLimits,
        Service, Sessions, Standing,
    },
    replay::{Floor, ReplayMemory},
};

const NOW_MS: u64 = 1_790_000_000_000;

fn now() -> Now {
    Now { utc: Timestamp::from_millis(NOW_MS), uptime: Uptime::from_millis(0) }
}

fn source() -> IpAddr {
    "10.77.0.2".parse().unwrap()
}

fn secret(number: u32) -> Secret {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Secret::new(bytes).unwrap()
}

pub(crate) fn gate(clients: u32) -> Gate {
    let service = Service {
        name: "mqtts".parse().unwrap(),
        ports: vec!["tcp/8883".parse().unwrap()],
        to: Vec::new(),
    };
    let clients = (0..clients)
        .map(|number| Client {
            name: format!("client-{number}").parse().unwrap(),
            secret: secret(number),
            services: [service.name].into(),
            from: Vec::new(),
            address: AddressPolicy::Strict,
            clock: ClientClock::Utc,
            expires: None,
            old_key: None,
            standing: Standing::Enabled,
        })
        .collect();
    let skew = ClockSkew::try_from(Duration::from_secs(30)).unwrap();
    let grant = GrantPolicy {
        open_for: Duration::from_secs(30),
        max: Duration::from_secs(3600),
        per_client: NonZeroU32::new(64).unwrap(),
        sessions: Sessions::Keep,
    };
    let limits = ReplayLimits { capacity: 1 << 24, per_client: 1 << 24 };
    let directory = Directory::new(vec![service], clients, &Realm::default());
    let replay = ReplayMemory::new(limits, skew, Floor::default());
    let mut gate = Gate::new(directory, replay, grant, &BanPolicy::default(), skew);
    let _ = gate.prepare(now().utc, usize::MAX, &mut Vec::new());
    gate
}

pub(crate) struct Packets {
    keys: ClientKeys,
    request: Request,
    number: u64,
}

impl Packets {
    pub(crate) fn new() -> Self {
        Self {
            keys: ClientKeys::derive(&secret(0), &Realm::default()),
            request: Request {
                timestamp: now().utc,
                address: ClientAddress::Literal(UnicastAddress::try_from(source()).unwrap()),
                open_for: OpenFor::Default,
                action: Action::Open,
                reply: ReplyWanted::No,
                service: Some("mqtts".parse().unwrap()),
            },
            number: 0,
        }
    }

    pub(crate) fn next(&mut self) -> SealedDatagram {
        self.number += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.number.to_be_bytes());
        let day = Day::of(self.request.timestamp).unwrap();
        seal(&self.keys, day, Nonce::from_random(nonce), &self.request)
    }
}

pub(crate) fn decide(gate: &mut Gate, datagram: &[u8]) -> Decision {
    gate.decide(std::hint::black_box(datagram), source(), now())
}
