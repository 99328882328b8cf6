//! What must hold, by all that was told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use common::{Action, SealedDatagram};
use knockd::{
    admission::{Failure, NoBan, Outcome},
    gate::{
        Gate,
        bans::BanKind,
        clock::{Now, Uptime},
        directory::{ClientId, ServiceId},
        grants::Door,
        policy::{AddressPolicy, Client, ClientClock, Standing},
        source::Source,
    },
};

use crate::{
    host::faults::{Fault, Place},
    setting::{Ban, CLIENTS, Knock, Of, Owner, SERVICES, address, secret, services, source},
};

/// A value, and what a restart may find in its place.
#[derive(Debug)]
pub(crate) struct Known<T> {
    pub(crate) now: Option<T>,
    pub(crate) in_file: BTreeSet<Option<T>>,
}

impl<T: Copy + Ord> Default for Known<T> {
    fn default() -> Self {
        Self { now: None, in_file: [None].into() }
    }
}

impl<T: Copy + Ord> Known<T> {
    /// It has happened, and is written down for certain or perhaps.
    pub(crate) fn becomes(&mut self, value: Option<T>, is_written: bool) {
        self.now = value;
        if is_written {
            self.in_file.clear();
        }
        self.in_file.insert(value);
    }

    /// It has not happened, and may be written down.
    pub(crate) fn may_be_written(&mut self, value: Option<T>) {
        self.in_file.insert(value);
    }
}

/// What must hold, by all that was told.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) grants: BTreeMap<Owner, Known<Uptime>>,
    pub(crate) bans: BTreeMap<usize, Known<Ban>>,
    pub(crate) disabled: BTreeSet<usize>,
    /// Packets that had an effect.
    pub(crate) spent: HashSet<SealedDatagram>,
    /// Whether the memory of them may have been removed, and not put back yet.
    pub(crate) may_lack_memory: bool,
}

impl Model {
    pub(crate) fn held(&mut self, owner: Owner) -> &mut Known<Uptime> {
        self.grants.entry(owner).or_default()
    }

    pub(crate) fn client(&self, number: usize) -> Client {
        Client {
            name: CLIENTS[number].parse().unwrap(),
            secret: secret(number),
            services: SERVICES.map(|(name, _)| name.parse().unwrap()).into(),
            from: Vec::new(),
            address: AddressPolicy::Strict,
            clock: ClientClock::Utc,
            expires: None,
            old_key: None,
            standing: match self.disabled.contains(&number) {
                true => Standing::Disabled,
                false => Standing::Enabled,
            },
        }
    }

    /// The doors that are to be open, and until when.
    pub(crate) fn doors(&self, now: Now) -> BTreeMap<Door, Uptime> {
        let services = services();
        let mut doors = BTreeMap::new();
        for ((_, at, service), known) in &self.grants {
            let Some(until) = known.now.filter(|until| *until > now.uptime) else { continue };
            for port in &services[*service].ports {
                let door = Door { address: address(*at), port: *port };
                let latest: &mut Uptime = doors.entry(door).or_insert(until);
                *latest = until.max(*latest);
            }
        }
        doors
    }

    pub(crate) fn live_bans(&self, now: Now) -> BTreeMap<(Source, BanKind), Uptime> {
        let live = |known: &Known<Ban>| known.now.filter(|(_, until)| *until > now.uptime);
        self.bans
            .iter()
            .filter_map(|(at, known)| live(known).map(|(kind, until)| ((source(*at), kind), until)))
            .collect()
    }

    /// A packet was dealt with, and this was told of it.
    pub(crate) fn hears(&mut self, knock: &Knock, told: Told, now: Now, faults: &Met) {
        let length = Duration::from_secs(knock.open_for_s.into());
        for owner in knock.owners() {
            let held = self.held(owner);
            let after = held.now.filter(|until| *until > now.uptime).max(Some(now.uptime + length));
            match (told, knock.action) {
                (Told::Done, Action::Open) => held.becomes(after, true),
                (Told::Done, Action::Close) => held.becomes(None, true),
                (Told::DoneUnwritten, _) => held.becomes(None, false),
                // Undone in the file as well, unless that failed.
                (Told::Failed, _) if !faults.any(Place::Grants) => {}
                (Told::Failed | Told::Nothing, Action::Open) => {
                    held.may_be_written(after);
                    held.may_be_written(Some(now.uptime + length));
                }
                (Told::Failed | Told::Nothing, Action::Close) => held.may_be_written(None),
            }
        }
    }

    /// The owners of an address, or of a client, have lost what they held.
    pub(crate) fn ends(&mut self, is_ended: impl Fn(Owner) -> bool, faults: &Met) {
        for (owner, held) in &mut self.grants {
            if is_ended(*owner) {
                held.becomes(None, !faults.any(Place::Grants));
            }
        }
    }
}

/// What was told of a packet that the gate accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing: the daemon was killed before.
    Nothing,
    Failed,
    Done,
    DoneUnwritten,
}

/// What was told, by packet or by address.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Packet(Of, Told, Option<Uptime>),
    Banned { until: Uptime, is_written: bool },
    NotBanned,
    BanLifted { is_written: bool },
}

impl Event {
    pub(crate) fn of(outcome: &Outcome, gate: &Gate) -> Option<Self> {
        let of = |client: &ClientId, services: &[ServiceId]| {
            let directory = gate.directory();
            let name = |service: &ServiceId| directory.service(*service).name.as_str().to_owned();
            let client = directory.name(*client).to_owned();
            Of { client, services: services.iter().map(name).collect() }
        };
        Some(match outcome {
            Outcome::Granted { client, services, until } => {
                Self::Packet(of(client, services), Told::Done, Some(*until))
            }
            Outcome::Closed { client, services, warning } => {
                let told = if warning.is_none() { Told::Done } else { Told::DoneUnwritten };
                Self::Packet(of(client, services), told, None)
            }
            Outcome::Failed { client, services, .. } => {
                Self::Packet(of(client, services), Told::Failed, None)
            }
            Outcome::Banned { until, warning, .. } => {
                Self::Banned { until: *until, is_written: warning.is_none() }
            }
            Outcome::NotBanned(NoBan::Failed(_)) => Self::NotBanned,
            Outcome::Refused(_)
            | Outcome::GaveWay { .. }
            | Outcome::Drifting { .. }
            | Outcome::NotBanned(NoBan::Spared(_)) => return None,
            Outcome::BanLifted { warning, .. } => {
                Self::BanLifted { is_written: !matches!(warning, Some(Failure::Journal(..))) }
            }
        })
    }
}

/// The faults that have come.
pub(crate) struct Met(pub(crate) Vec<Fault>);

impl Met {
    pub(crate) fn any(&self, place: Place) -> bool {
        self.0.iter().any(|fault| fault.place == place)
    }
}
