//! From decisions to open doors: what the gate accepted is written down, then opened, or else undone.
//!
//! # Security considerations
//! - Nothing opens that isn't written down, and nothing is told as opened that the kernel has not
//!   confirmed.
//! - What counts against sources is dealt with when the batch's doors are open: a grant always comes before a
//!   ban.
//! - If the kernel refuses a batch, each packet of it is tried alone: one that can't be opened takes no
//!   other with it.
//! - After whatever the kernel refuses, what it holds is in doubt until it was compared with what it ought to
//!   hold: a door that it did not shut doesn't stay open.

mod bans;
mod change;
mod counters;
mod files;
mod fullest;
mod outcome;
mod reply;
mod revoke;

pub use bans::{AdminBan, BanError};
pub use counters::ResyncError;
pub use files::Files;
pub use outcome::{Failure, NoBan, Outcome};
pub use reply::ReplyDue;
pub use revoke::{Revoked, Whose};

use fullest::Fullest;

use std::{collections::BTreeSet, fs::File, io, mem, net::IpAddr, sync::Arc};

use common::UnicastAddress;

use crate::{
    firewall::{CHANGES_AT_ONCE, Firewall, FirewallError},
    gate::{
        Gate,
        bans::BanChange,
        clock::{Now, Uptime},
        decision::{Accepted, Decision, Effect, Memory},
        directory::{ClientId, ServiceId},
        grants::{Before, Change, Grants, Owner, TooMany},
    },
    journal::{
        StateFile,
        held::Grant,
        seen::{NameHash, Record, Span},
    },
    reconcile::{Reconciled, reconcile},
    tags::{TagKeeper, Upkeep},
};

/// All that a packet goes through, from the gate to the kernel.
pub struct Admission<F, D = File> {
    gate: Gate,
    grants: Grants,
    files: Files<D>,
    firewall: F,
    kernel: KernelState,
    fullest: Fullest,
    /// When the host's own addresses were looked up last.
    own_read: Option<Uptime>,
    /// What is to be answered of the last batch.
    replies: Vec<ReplyDue>,
}

/// Whether the kernel's elements are known to be those of the live grants and bans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelState {
    /// They were, and every change since was confirmed.
    Known,
    /// A change was not confirmed: [`Admission::reconcile`] is due.
    InDoubt,
}

/// An accepted packet on its way.
struct Pending {
    /// Its place in the batch.
    at: usize,
    source: IpAddr,
    accepted: Accepted,
    undo: Vec<Before>,
    changes: Vec<Change>,
    /// The addresses at which its client's own grants gave way to it.
    given_way: BTreeSet<UnicastAddress>,
    failure: Option<Failure>,
    warning: Option<Failure>,
}

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// With all that an earlier run left behind, as [`crate::restore`] makes it.
    pub const fn new(gate: Gate, grants: Grants, files: Files<D>, firewall: F) -> Self {
        Self {
            gate,
            grants,
            files,
            firewall,
            kernel: KernelState::Known,
            fullest: Fullest::unknown(),
            own_read: None,
            replies: Vec::new(),
        }
    }

    /// The gate.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The gate, to turn to another day.
    pub const fn gate_mut(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// The live grants.
    pub const fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The firewall.
    pub const fn firewall(&self) -> &F {
        &self.firewall
    }

    /// The firewall, to be watched and mended.
    pub const fn firewall_mut(&mut self) -> &mut F {
        &mut self.firewall
    }

    /// Makes the kernel's elements those of the live grants.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn reconcile(&mut self, now: Now) -> Result<Reconciled, FirewallError> {
        let reconciled = reconcile(&mut self.firewall, &self.grants, self.gate.bans(), now.uptime)?;
        self.kernel = KernelState::Known;
        Ok(reconciled)
    }

    /// Whether the kernel's elements are known to be those of the live grants and bans.
    pub const fn kernel(&self) -> KernelState {
        self.kernel
    }

    /// Puts back what somebody has removed from the state folder, and writes what could not be written before.
    ///
    /// # Errors
    /// What the disk says; it is tried again with the next packet that is accepted.
    pub fn keep_files(&mut self) -> io::Result<()> {
        self.files.keep_in_place()?;
        self.files.catch_up()
    }

    fn change_doors(&mut self, changes: &[Change], now: Now) -> Result<(), FirewallError> {
        let changed = self.firewall.apply(changes, now.uptime);
        self.confirm(changed)
    }

    fn change_doors_if_any(&mut self, changes: &[Change], now: Now) -> Result<(), FirewallError> {
        if changes.is_empty() { Ok(()) } else { self.change_doors(changes, now) }
    }

    fn change_bans(&mut self, changes: &[BanChange], now: Now) -> Result<(), FirewallError> {
        let changed = self.firewall.ban(changes, now.uptime);
        self.confirm(changed)
    }

    fn confirm(&mut self, changed: Result<(), FirewallError>) -> Result<(), FirewallError> {
        if changed.is_err() {
            self.kernel = KernelState::InDoubt;
        }
        changed
    }

    /// Lets some more of the clients' tags past the kernel's filter, if any are missing.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn keep_tags(&mut self, keeper: &mut TagKeeper, now: Now) -> Result<Upkeep, FirewallError> {
        keeper.keep(self.gate.directory(), &mut self.firewall, now)
    }

    /// Lets the tags of some clients past the kernel's filter at once.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn let_tags_in(
        &mut self,
        keeper: &mut TagKeeper,
        clients: &[ClientId],
        now: Now,
    ) -> Result<(), FirewallError> {
        keeper.let_in(clients, self.gate.directory(), &mut self.firewall, now)
    }

    /// Deals with a batch of datagrams that were received at `now`. `tell` hears of each what became of it:
    /// of a refused one at once, of an accepted one when its door is open. Returns how many were accepted.
    pub fn handle<'a>(
        &mut self,
        batch: impl Iterator<Item = (&'a [u8], IpAddr)>,
        now: Now,
        mut tell: impl FnMut(&Outcome, IpAddr, &Gate),
    ) -> usize {
        let mut pending = Vec::new();
        let mut strikes = Vec::new();
        self.replies.clear();
        for (at, (datagram, source)) in batch.enumerate() {
            match self.gate.decide(datagram, source, now) {
                Decision::Accept(accepted) => pending.push(Pending::new(at, source, accepted)),
                Decision::Refuse(refusal) => {
                    tell(&Outcome::Refused(refusal), source, &self.gate);
                    if refusal.is_strike() {
                        strikes.push((source, refusal));
                    }
                }
            }
        }
        let accepted = pending.len();
        if accepted > 0 {
            self.admit(pending, now, &mut tell);
        }
        if !strikes.is_empty() {
            self.punish(&strikes, now, &mut tell);
        }
        accepted
    }

    /// Lets go of the grants whose time is over.
    pub fn forget_ended_grants(&mut self, now: Now) {
        for owner in self.grants.expire(now.uptime, self.gate.directory()) {
            self.files.held.forget(&owner);
        }
    }

    /// Leads accepted packets to their doors.
    fn admit(
        &mut self,
        mut pending: Vec<Pending>,
        now: Now,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        self.forget_ended_grants(now);
        self.remember(&mut pending);
        for packet in pending.iter_mut().filter(|packet| packet.failure.is_none()) {
            self.hold(packet, now);
        }
        self.open(&mut pending, now);
        let sources: Vec<IpAddr> = pending.iter().map(|packet| packet.source).collect();
        for mut packet in pending {
            let source = packet.source;
            let (client, drift) = (packet.accepted.client, packet.accepted.drift);
            let asked = packet.asked();
            let given_way = mem::take(&mut packet.given_way);
            let outcome = self.outcome(packet, now);
            self.replies.extend(asked.and_then(|asked| asked.answered(&outcome, now)));
            tell(&outcome, source, &self.gate);
            for address in given_way {
                tell(&Outcome::GaveWay { client, address }, source, &self.gate);
            }
            if let Some(drift) = drift {
                tell(&Outcome::Drifting { client, drift }, source, &self.gate);
            }
        }
        self.pardon(&sources, now, tell);
    }

    /// Writes down that these packets are accepted, before any effect: one write for all of them.
    fn remember(&mut self, pending: &mut [Pending]) {
        let directory = self.gate.directory();
        let records: Vec<Record> = pending
            .iter()
            .filter(|packet| packet.accepted.memory == Memory::Mac)
            .map(|Pending { accepted, .. }| Record {
                timestamp: accepted.timestamp,
                mac: accepted.mac,
                client: NameHash::of(directory.name(accepted.client)),
            })
            .collect();
        let in_place = self.files.keep_in_place();
        // Where that fails again, it is no reason to refuse these.
        let _ = self.files.catch_up();
        let failed = in_place.err().map(|error| Failure::journal(&error));
        self.remember_counters(pending, failed.as_ref());
        if records.is_empty() {
            return;
        }
        let span = span(&self.gate);
        let failed = failed.or_else(|| {
            let appended = self.files.seen.append(&records, span);
            appended.err().map(|error| Failure::journal(&error))
        });
        if let Some(failure) = failed {
            self.gate.replay_mut().take_back(records.len());
            let packets = pending.iter_mut();
            for packet in packets.filter(|packet| packet.accepted.memory == Memory::Mac) {
                packet.failure = Some(failure.clone());
            }
        }
    }

    /// Changes who holds which door, writes that down, and collects what the kernel is to change.
    fn hold(&mut self, packet: &mut Pending, now: Now) {
        let Accepted { client, address, effect, .. } = packet.accepted;
        let services = Arc::clone(&packet.accepted.services);
        if let Effect::Open(_) = effect {
            self.give_way_to(packet);
        }
        for service in services.iter().copied() {
            let owner = Owner { address, client, service };
            if let Err(failure) = self.hold_one(owner, packet, now) {
                match effect {
                    Effect::Open(_) => {
                        self.undo(packet);
                        packet.failure = Some(failure);
                        return;
                    }
                    // It closes all the same: only a restart, until this is written, would give the grant back.
                    Effect::Close => packet.warning = Some(failure),
                }
            }
        }
    }

    fn hold_one(&mut self, owner: Owner, packet: &mut Pending, now: Now) -> Result<(), Failure> {
        if let Effect::Open(_) = packet.accepted.effect {
            self.gate.visits_mut().record(owner);
        }
        let directory = self.gate.directory();
        let before = match packet.accepted.effect {
            Effect::Open(duration) => self
                .grants
                .open(owner, now.uptime + duration, directory, &mut packet.changes)
                .map_err(|TooMany| self.fullest.failure(&self.grants, directory, now))?,
            Effect::Close => self.grants.close(owner, directory, &mut packet.changes),
        };
        packet.undo.push(before);
        self.write_hold(owner).map_err(|error| Failure::journal(&error))
    }

    /// Has the client's own oldest grants give way to a packet of it, where it holds as many as it may.
    fn give_way_to(&mut self, packet: &mut Pending) {
        let Accepted { client, address, ref services, .. } = packet.accepted;
        let (per_client, directory) = (self.gate.per_client(), self.gate.directory());
        let changes = &mut packet.changes;
        let given_way =
            self.grants.make_room(client, address, services, per_client, directory, changes);
        for before in given_way {
            packet.given_way.insert(before.owner.address);
            packet.undo.push(before);
            // Where this can't be written, it is owed; a restart would find one address more than it may hold.
            let _ = self.files.held.release(&before.owner);
        }
    }

    fn write_hold(&mut self, owner: Owner) -> io::Result<()> {
        let Some(until) = self.grants.held_until(&owner) else {
            return self.files.held.release(&owner);
        };
        let directory = self.gate.directory();
        let grant = Grant {
            client: directory.name(owner.client),
            address: owner.address,
            service: directory.service(owner.service).name,
            until,
        };
        self.files.held.hold(owner, grant)
    }

    /// Makes the kernel follow, in one transaction for all packets; if it refuses, one for each.
    fn open(&mut self, pending: &mut [Pending], now: Now) {
        let all: Vec<Change> =
            pending.iter().flat_map(|packet| packet.changes.iter().copied()).collect();
        // More than can be made as one: then each packet's, so that none is open that isn't told so.
        let as_one = all.len() <= CHANGES_AT_ONCE;
        if all.is_empty() || as_one && self.change_doors(&all, now).is_ok() {
            return;
        }
        for packet in pending.iter_mut().rev() {
            self.undo(packet);
        }
        for packet in pending.iter_mut().filter(|packet| packet.failure.is_none()) {
            self.hold(packet, now);
            if packet.changes.is_empty() {
                continue;
            }
            if let Err(error) = self.change_doors(&packet.changes, now) {
                self.undo(packet);
                packet.failure = Some(Failure::firewall(&error));
            }
        }
    }

    /// Puts the grants back as they were before a packet.
    fn undo(&mut self, packet: &mut Pending) {
        packet.changes.clear();
        packet.given_way.clear();
        for before in packet.undo.drain(..).rev() {
            self.grants.undo(before, self.gate.directory());
            // Where even this can't be written, it is owed; until then the file may hold what its client asked for.
            let _ = self.write_hold(before.owner);
        }
    }

    fn outcome(&self, packet: Pending, now: Now) -> Outcome {
        let Pending { accepted, failure, warning, .. } = packet;
        let Accepted { client, address, services, effect, .. } = accepted;
        let held_until = |service: &ServiceId| {
            self.grants.held_until(&Owner { address, client, service: *service })
        };
        match (failure, effect) {
            (Some(failure), _) => Outcome::Failed { client, services, failure },
            (None, Effect::Open(duration)) => Outcome::Granted {
                until: services
                    .iter()
                    .filter_map(held_until)
                    .min()
                    .unwrap_or(now.uptime + duration),
                client,
                services,
            },
            (None, Effect::Close) => Outcome::Closed { client, services, warning },
        }
    }
}

impl Pending {
    const fn new(at: usize, source: IpAddr, accepted: Accepted) -> Self {
        Self {
            at,
            source,
            accepted,
            undo: Vec::new(),
            changes: Vec::new(),
            given_way: BTreeSet::new(),
            failure: None,
            warning: None,
        }
    }
}

/// What is remembered now, as the file counts it.
#[must_use]
pub fn span(gate: &Gate) -> Span {
    let replay = gate.replay();
    let oldest = replay.oldest();
    Span { oldest, next: oldest + replay.packets().len() as u64, floor: replay.floor() }
}
