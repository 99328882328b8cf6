//! A host with a daemon's insides and a firewall in memory: for scenarios from datagram to door.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]
#![allow(dead_code, reason = "each scenario uses another part")]

pub(crate) mod faults;

use std::{cell::RefCell, io, net::IpAddr, num::NonZeroU32, path::Path, rc::Rc, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, ServiceName, Tag, Timestamp, UnicastAddress, seal,
};
use knockd::{
    admission::{Admission, NoBan, Outcome},
    firewall::{Firewall, FirewallError, memory::MemoryFirewall},
    gate::{
        bans::{BanChange, BanKind},
        clock::{Now, Uptime},
        directory::Directory,
        grants::{Change, Door},
        policy::{
            AddressPolicy, BanPolicy, Client, ClientClock, ClockSkew, GrantPolicy, Policy,
            ReplayLimits, ReplyPolicy, Service, Sessions, Standing,
        },
        source::Source,
    },
    journal::{BootId, DaemonId, StateFolder, Writer},
    local::NeverBanned,
    restore::{RestoreError, Restored, restore},
};
use tempfile::TempDir;

use faults::{Disk, Faults, Place};

const START: u64 = 1_790_000_000_000;
const SKEW: Duration = Duration::from_secs(30);

pub(crate) fn at(seconds: u64) -> Now {
    Now {
        utc: Timestamp::from_millis(START + seconds * 1_000),
        uptime: Uptime::from_millis(50_000 + seconds * 1_000),
    }
}

/// The firewall, shared with the test so that it can look and disturb.
#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Rc<RefCell<MemoryFirewall>>, pub(crate) Faults);

impl Firewall for Shared {
    fn apply(&mut self, changes: &[Change], now: Uptime) -> Result<(), FirewallError> {
        let apply = || self.0.borrow_mut().apply(changes, now);
        self.1.around(Place::Kernel, FirewallError::Refused, apply)
    }

    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError> {
        let ban = || self.0.borrow_mut().ban(changes, now);
        self.1.around(Place::Kernel, FirewallError::Refused, ban)
    }

    fn bans(&mut self) -> Result<Option<Vec<(Source, BanKind, Duration)>>, FirewallError> {
        self.1.around(Place::Kernel, FirewallError::Netlink, || self.0.borrow_mut().bans())
    }

    fn own_addresses(&mut self) -> io::Result<NeverBanned> {
        let own = || self.0.borrow_mut().own_addresses();
        self.1.around(Place::OwnAddresses, |error| error, own)
    }

    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError> {
        let admit = || self.0.borrow_mut().admit_tags(tags);
        self.1.around(Place::Kernel, FirewallError::Refused, admit)
    }

    fn doors(&mut self) -> Result<Option<Vec<(Door, Duration)>>, FirewallError> {
        self.1.around(Place::Kernel, FirewallError::Netlink, || self.0.borrow_mut().doors())
    }

    fn replace(
        &mut self,
        doors: &[(Door, Duration)],
        bans: &[(Source, BanKind, Duration)],
    ) -> Result<(), FirewallError> {
        self.1.around(Place::Kernel, FirewallError::Refused, || {
            self.0.borrow_mut().replace(doors, bans)
        })
    }

    fn doubt_everything(&mut self) -> bool {
        self.0.borrow_mut().doubt_everything()
    }
}

pub(crate) struct Host {
    pub(crate) temporary: TempDir,
    pub(crate) firewall: Shared,
    pub(crate) boot: BootId,
    pub(crate) policy: Policy,
    pub(crate) running: Option<Admission<Shared, Disk>>,
}

pub(crate) fn secret() -> Secret {
    let mut bytes = [7; 32];
    bytes[0] = 8;
    Secret::new(bytes).unwrap()
}

pub(crate) fn policy() -> Policy {
    Policy {
        realm: Realm::default(),
        clock_skew: ClockSkew::try_from(SKEW).unwrap(),
        ban: BanPolicy::default(),
        grant: GrantPolicy {
            open_for: Duration::from_secs(60),
            max: Duration::from_hours(1),
            per_client: NonZeroU32::new(64).unwrap(),
            sessions: Sessions::Keep,
        },
        services: vec![Service {
            name: "mqtts".parse().unwrap(),
            ports: vec!["tcp/8883".parse().unwrap()],
            to: Vec::new(),
        }],
        replay: ReplayLimits { capacity: 1000, per_client: 1000 },
        reply: ReplyPolicy::Off,
    }
}

pub(crate) fn client() -> Client {
    Client {
        name: "press-17".parse().unwrap(),
        secret: secret(),
        services: ["mqtts".parse().unwrap()].into(),
        from: Vec::new(),
        address: AddressPolicy::Strict,
        clock: ClientClock::Utc,
        expires: None,
        old_key: None,
        standing: Standing::Enabled,
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            temporary: tempfile::tempdir().unwrap(),
            firewall: Shared::default(),
            boot: BootId::from_bytes([1; 16]),
            policy: policy(),
            running: None,
        }
    }

    /// A host whose daemon has been running for longer than the skew.
    pub(crate) fn warmed_up() -> Self {
        let mut host = Self::new();
        host.start(at(0));
        host
    }

    pub(crate) fn start(&mut self, now: Now) -> Restored {
        self.start_with(now, vec![client()])
    }

    pub(crate) fn start_with(&mut self, now: Now, clients: Vec<Client>) -> Restored {
        self.try_to_start(now, clients).unwrap()
    }

    pub(crate) fn try_to_start(
        &mut self,
        now: Now,
        clients: Vec<Client>,
    ) -> Result<Restored, RestoreError> {
        drop(self.running.take());
        self.firewall.0.borrow_mut().advance(now.uptime);
        let faults = self.firewall.1.clone();
        let make = move |path: &Path, file| Disk::new(path, file, &faults);
        let folder = StateFolder::open_with(&self.temporary.path().join("state"), make).unwrap();
        let policy = self.policy.clone();
        let directory = Directory::new(policy.services.clone(), clients, &policy.realm);
        let writer = Writer { boot: self.boot, daemon: DaemonId::from_random([9; 16]) };
        let (mut admission, restored) =
            restore(&policy, directory, folder, writer, self.firewall.clone(), now)?;
        let _ = admission.gate_mut().prepare(now.utc, usize::MAX, &mut Vec::new());
        self.running = Some(admission);
        Ok(restored)
    }

    /// What becomes of these datagrams from the device's address, in a word each.
    pub(crate) fn handle(&mut self, datagrams: &[SealedDatagram], now: Now) -> Vec<String> {
        let batch: Vec<(&[u8], IpAddr)> =
            datagrams.iter().map(|datagram| (datagram.as_slice(), device())).collect();
        self.handle_from(&batch, now)
    }

    /// What becomes of these datagrams, each with its source, in a word for each event.
    pub(crate) fn handle_from(&mut self, batch: &[(&[u8], IpAddr)], now: Now) -> Vec<String> {
        let mut told = Vec::new();
        let admission = self.running.as_mut().unwrap();
        admission.handle(batch.iter().copied(), now, |outcome, _, _| told.push(word(outcome)));
        told
    }

    /// The daemon's insides.
    pub(crate) fn admission(&mut self) -> &mut Admission<Shared, Disk> {
        self.running.as_mut().unwrap()
    }

    pub(crate) fn is_open(&self, now: Now) -> bool {
        self.firewall.0.borrow().is_open(&door(), now.uptime)
    }

    pub(crate) fn fail_with(&self, fault: Option<io::ErrorKind>) {
        self.firewall.0.borrow_mut().fail_with(fault);
    }

    pub(crate) fn state(&self, name: &str) -> std::path::PathBuf {
        self.temporary.path().join("state").join(name)
    }
}

/// Where the device knocks from.
pub(crate) fn device() -> IpAddr {
    "10.77.0.2".parse().unwrap()
}

pub(crate) fn door() -> Door {
    Door { address: UnicastAddress::try_from(device()).unwrap(), port: "tcp/8883".parse().unwrap() }
}

pub(crate) fn packet(action: Action, nonce: u8, now: Now) -> SealedDatagram {
    sealed(&secret(), action, None, nonce, now)
}

/// A packet that asks for a service by its name.
pub(crate) fn packet_for(
    secret: &Secret,
    service: Option<ServiceName>,
    nonce: u8,
    now: Now,
) -> SealedDatagram {
    sealed(secret, Action::Open, service, nonce, now)
}

fn sealed(
    secret: &Secret,
    action: Action,
    service: Option<ServiceName>,
    nonce: u8,
    now: Now,
) -> SealedDatagram {
    let request = Request {
        timestamp: now.utc,
        address: ClientAddress::Literal(door().address),
        open_for: OpenFor::Default,
        action,
        reply: ReplyWanted::No,
        service,
    };
    let keys = ClientKeys::derive(secret, &Realm::default());
    seal(&keys, Day::of(now.utc).unwrap(), Nonce::from_random([nonce; 12]), &request)
}

pub(crate) fn open(nonce: u8, now: Now) -> SealedDatagram {
    packet(Action::Open, nonce, now)
}

/// An outcome in a word or two.
pub(crate) fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Granted { .. } => "granted".to_owned(),
        Outcome::Closed { warning: None, .. } => "closed".to_owned(),
        Outcome::Closed { warning: Some(failure), .. } => format!("closed, {}", failure.name()),
        Outcome::Refused { refusal, .. } => refusal.reason.name().to_owned(),
        Outcome::Failed { failure, .. } => failure.name().to_owned(),
        Outcome::Banned { warning: None, .. } => "banned".to_owned(),
        Outcome::Banned { warning: Some(failure), .. } => format!("banned, {}", failure.name()),
        Outcome::NotBanned(NoBan::Spared(_)) => "spared".to_owned(),
        Outcome::NotBanned(NoBan::Failed(failure)) => format!("not banned, {}", failure.name()),
        Outcome::GaveWay { .. } => "gave way".to_owned(),
        Outcome::Drifting { .. } => "drifting".to_owned(),
        Outcome::BanLifted { warning: None, .. } => "ban lifted".to_owned(),
        Outcome::BanLifted { warning: Some(failure), .. } => {
            format!("ban lifted, {}", failure.name())
        }
    }
}
