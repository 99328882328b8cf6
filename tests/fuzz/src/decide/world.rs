//! Who knocks, and at what: a few clients that differ in what their entries allow, and a stranger.

use std::{net::IpAddr, num::NonZeroU32, sync::LazyLock, time::Duration};

use common::{ClientKeys, Realm, Secret, Timestamp};
use ipnet::IpNet;
use knockd::gate::{
    Gate,
    directory::{Directory, Enrolment},
    policy::{
        AddressPolicy, BanPolicy, BanScope, Client, ClientClock, ClockSkew, GrantPolicy, OldKey,
        ReplayLimits, Service, Sessions, Standing,
    },
    replay::{Floor, ReplayMemory},
    source::Translators,
};

use super::Known;

/// When every story begins, in milliseconds since 1970.
pub(super) const START_MS: u64 = 1_790_000_000_123;
/// The allowed skew.
pub(super) const SKEW_MS: u64 = 30_000;
/// From when on the old key of who has one is good no longer.
pub(super) const OLD_KEY_UNTIL_MS: u64 = START_MS + 40_000;
/// How long it is told from a stranger's then.
pub(super) const OLD_KEY_TOLD_MS: u64 = 7 * 86_400_000;
/// Packets remembered at once: few, so that a story can fill the memory.
pub(super) const CAPACITY: u32 = 6;
/// Those of one client.
pub(super) const PER_CLIENT: usize = 3;
/// Addresses that one client can hold doors for: few, so that a story has some give way.
pub(super) const ADDRESSES: usize = 2;

/// Failures that are tolerated at once: few, so that a story can ban somebody.
pub(super) const FAILURES: u32 = 2;
/// Within which time as many are refilled, in milliseconds.
pub(super) const WINDOW_MS: u64 = 60_000;
/// How long a source is banned by its failures, in milliseconds.
pub(super) const BAN_MS: u64 = 600_000;

/// Someone who can seal packets.
pub(super) struct Actor {
    keys: ClientKeys,
    old_keys: Option<ClientKeys>,
    /// `None` for the stranger.
    pub(super) entry: Option<Client>,
}

impl Actor {
    pub(super) fn keys(&self) -> &ClientKeys {
        &self.keys
    }

    /// Those that it had before, if it had any.
    pub(super) fn old_keys(&self) -> Option<&ClientKeys> {
        self.old_keys.as_ref()
    }

    fn with_an_old_key(mut self) -> Self {
        let secret = Secret::new([&[8][..], &[9; 31]].concat().try_into().unwrap()).unwrap();
        self.old_keys = Some(ClientKeys::derive(&secret, &Realm::default()));
        let until = Timestamp::from_millis(OLD_KEY_UNTIL_MS);
        if let Some(entry) = &mut self.entry {
            entry.old_key = Some(Box::new(OldKey { secret, until }));
        }
        self
    }

    fn without_a_clock(mut self) -> Self {
        if let Some(entry) = &mut self.entry {
            entry.clock = ClientClock::Counter;
        }
        self
    }

    /// Whether its packets carry a number in place of the time.
    pub(super) fn counts(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.clock == ClientClock::Counter)
    }

    pub(super) fn is_client(&self) -> bool {
        self.entry.is_some()
    }
}

pub(super) static CAST: LazyLock<[Actor; 8]> = LazyLock::new(|| {
    let both = ["mqtts", "coaps"].as_slice();
    let networks = ["10.3.0.0/16", "2001:db8::/32"].map(|it| it.parse::<IpNet>().unwrap());
    let expires = Some(Timestamp::from_millis(START_MS + 20_000));
    [
        actor("plain", both, &[], AddressPolicy::Strict, None),
        actor("observed", &["mqtts"], &[], AddressPolicy::Observed, None),
        actor("expires", &["mqtts"], &[], AddressPolicy::Strict, expires),
        actor("networks", &["coaps"], &networks, AddressPolicy::Observed, None),
        actor("other", both, &[], AddressPolicy::Observed, expires),
        actor("rotated", both, &[], AddressPolicy::Strict, None).with_an_old_key(),
        actor("counting", both, &[], AddressPolicy::Observed, None).without_a_clock(),
        Actor { entry: None, ..actor("stranger", both, &[], AddressPolicy::Observed, None) },
    ]
});

fn actor(
    name: &str,
    services: &[&str],
    from: &[IpNet],
    address: AddressPolicy,
    expires: Option<Timestamp>,
) -> Actor {
    let mut secret = [7; 32];
    secret[..name.len()].copy_from_slice(name.as_bytes());
    let secret = Secret::new(secret).unwrap();
    let keys = ClientKeys::derive(&secret, &Realm::default());
    let entry = Client {
        name: name.parse().unwrap(),
        secret,
        services: services.iter().map(|name| name.parse().unwrap()).collect(),
        from: from.to_vec(),
        address,
        clock: ClientClock::Utc,
        expires,
        old_key: None,
        standing: Standing::Enabled,
    };
    Actor { keys, old_keys: None, entry: Some(entry) }
}

/// A client as the directory takes it.
pub(super) fn enrolment(by: usize, enabled: bool) -> Enrolment {
    let mut client = CAST[by].entry.clone().expect("the stranger has no entry");
    client.standing = if enabled { Standing::Enabled } else { Standing::Disabled };
    Enrolment::new(client, &Realm::default())
}

pub(super) fn skew() -> ClockSkew {
    ClockSkew::try_from(Duration::from_millis(SKEW_MS)).unwrap()
}

pub(super) fn limits(capacity: usize) -> ReplayLimits {
    ReplayLimits { capacity: capacity as u32, per_client: PER_CLIENT as u32 }
}

pub(super) const GRANT: GrantPolicy = GrantPolicy {
    open_for: Duration::from_secs(30),
    max: Duration::from_secs(3_600),
    per_client: NonZeroU32::new(ADDRESSES as u32).unwrap(),
    sessions: Sessions::Keep,
};

/// A gate that knows all clients, with nothing remembered and no tags.
pub(super) fn gate() -> (Gate, Vec<Known>) {
    let services = [("mqtts", "tcp/8883"), ("coaps", "udp/5684")].map(|(name, port)| Service {
        name: name.parse().unwrap(),
        ports: vec![port.parse().unwrap()],
        to: Vec::<IpAddr>::new(),
    });
    let mut directory = Directory::new(services.to_vec(), Vec::new(), &Realm::default());
    let known = (0..CAST.len())
        .map(|by| Known {
            id: CAST[by].is_client().then(|| directory.add(enrolment(by, true))),
            enabled: true,
        })
        .collect();
    let replay = ReplayMemory::new(limits(CAPACITY as usize), skew(), Floor::default());
    let ban = BanPolicy {
        failures: NonZeroU32::new(FAILURES).unwrap(),
        window: Duration::from_millis(WINDOW_MS),
        duration: Duration::from_millis(BAN_MS),
        scope: BanScope::Knock,
        never: vec!["10.3.0.0/16".parse().unwrap()],
        translators: Translators::default(),
    };
    let mut gate = Gate::new(directory, replay, GRANT, &ban, skew());
    let own = ["::1", "fe80::99"].map(|own| own.parse().unwrap());
    assert!(gate.bans_mut().set_own(own.to_vec()).is_empty());
    (gate, known)
}
