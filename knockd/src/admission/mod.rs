//! From decisions to open doors: what the gate accepted is written down, then opened, or else undone.
//!
//! # Security considerations
//! - Nothing opens that isn't written down, and nothing is told as opened that the kernel has not
//!   confirmed. Written down is what a killed daemon finds again: in the twin in memory, or on the disk (`write`).
//!   What must outlive a loss of power, too, waits for the disk (`parked`).
//! - What counts against sources is dealt with when the batch's doors are open: a grant always comes before a
//!   ban.
//! - If the kernel refuses a batch, each packet of it is tried alone: one that can't be opened takes no
//!   other with it.
//! - After whatever the kernel refuses, what it holds is in doubt until it was compared with what it ought to
//!   hold: a door that it did not shut doesn't stay open.

mod bans;
mod change;
mod counters;
mod disk;
mod files;
mod fullest;
mod outcome;
mod parked;
mod reply;
mod revoke;
mod write;

pub use bans::{AdminBan, BanError};
pub use counters::ResyncError;
pub use disk::{Done, Hearing};
pub use files::{Files, Sync};
pub use outcome::{Failure, NoBan, Outcome};
pub use parked::PacketId;
pub use reply::ReplyDue;
pub use revoke::{Revoked, Whose};
pub use write::span;

use fullest::Fullest;

use std::{collections::BTreeSet, fs::File, io, mem, net::IpAddr, sync::Arc};

use common::UnicastAddress;

use common::Timestamp;

use crate::{
    firewall::{CHANGES_AT_ONCE, Firewall, FirewallError},
    gate::{
        Gate,
        bans::BanChange,
        ceiling::Ceiling,
        clock::{Now, Uptime},
        decision::{Accepted, Decision, Effect},
        directory::{ClientId, ServiceId},
        grants::{Before, Change, Grants, Owner, TooMany},
    },
    journal::{StateFile, held::Grant, seen::Record, twin::Twin},
    reconcile::{InDoubt, Reconciled, reconcile, reconcile_few, settle},
    tags::{TagKeeper, Upkeep},
};

use disk::{Disk, Ticket};
use parked::{Parked, Waits, shut_out_meanwhile};

/// All that a packet goes through, from the gate to the kernel.
pub struct Admission<F, D = File> {
    gate: Gate,
    grants: Grants,
    disk: Disk<D>,
    twin: Option<Twin>,
    /// Accepted packets that the twin has, and that the disk has not been told of: too much waits for it.
    untold: Vec<Record>,
    ceiling: Ceiling,
    /// Higher ceilings that the disk was asked to hold.
    ceilings: Vec<(Ticket, Timestamp)>,
    parked: Parked,
    /// The number of the last batch.
    batch: u64,
    firewall: F,
    kernel: KernelState,
    fullest: Fullest,
    /// The changes that were not confirmed.
    in_doubt: InDoubt,
    /// When the host's own addresses were looked up last.
    own_read: Option<Uptime>,
    /// What of them could not be read then, as it was told.
    own_unread: Vec<String>,
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
    id: PacketId,
    source: IpAddr,
    accepted: Accepted,
    undo: Vec<Before>,
    changes: Vec<Change>,
    waits: Waits,
    /// Its client's name, where it has to wait: another client can have its place meanwhile.
    name: Option<String>,
    /// The addresses at which its client's own grants gave way to it.
    given_way: BTreeSet<UnicastAddress>,
    failure: Option<Failure>,
    warning: Option<Failure>,
}

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// With all that an earlier run left behind, as [`crate::restore`] makes it.
    pub fn new(
        gate: Gate,
        grants: Grants,
        files: Files<D>,
        twin: Option<Twin>,
        ceiling: Ceiling,
        firewall: F,
    ) -> Self {
        Self {
            gate,
            grants,
            disk: Disk::here(files),
            twin,
            untold: Vec::new(),
            ceiling,
            ceilings: Vec::new(),
            parked: Parked::default(),
            batch: 0,
            firewall,
            kernel: KernelState::Known,
            fullest: Fullest::unknown(),
            in_doubt: InDoubt::default(),
            own_read: None,
            own_unread: Vec::new(),
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
        self.is_settled();
        Ok(reconciled)
    }

    /// The same if the kernel's elements are few enough to be read in no time: `None` if they aren't. Where doors are
    /// missing that are too many to be opened in no time, they are due yet.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn reconcile_few(&mut self, now: Now) -> Result<Option<Reconciled>, FirewallError> {
        let bans = self.gate.bans();
        let reconciled =
            reconcile_few(&mut self.firewall, &self.grants, bans, CHANGES_AT_ONCE, now.uptime)?;
        if reconciled.is_some() {
            self.is_settled();
        }
        Ok(reconciled)
    }

    /// Makes these of the kernel's elements what they ought to be.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn settle_these(&mut self, touched: &InDoubt, now: Now) -> Result<(), FirewallError> {
        settle(&mut self.firewall, &self.grants, self.gate.bans(), touched, now.uptime)
    }

    /// Makes what was not confirmed what it ought to be; returns how many doors and bans that are, or `None` where they
    /// are more than are remembered one by one, and whoever keeps the table makes all of them right.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn settle(&mut self, now: Now) -> Result<Option<usize>, FirewallError> {
        if self.in_doubt.is_too_much() {
            if self.firewall.doubt_everything() {
                self.is_settled();
                return Ok(None);
            }
            return Ok(Some(self.reconcile(now)?.changed()));
        }
        settle(&mut self.firewall, &self.grants, self.gate.bans(), &self.in_doubt, now.uptime)?;
        let settled = self.in_doubt.doors.len() + self.in_doubt.bans.len();
        self.is_settled();
        Ok(Some(settled))
    }

    fn is_settled(&mut self) {
        (self.kernel, self.in_doubt) = (KernelState::Known, InDoubt::default());
    }

    /// Whether the kernel's elements are known to be those of the live grants and bans.
    pub const fn kernel(&self) -> KernelState {
        self.kernel
    }

    fn change_doors(&mut self, changes: &[Change], now: Now) -> Result<(), FirewallError> {
        let changed = self.firewall.apply(changes, now.uptime);
        if changed.is_err() {
            self.kernel = KernelState::InDoubt;
            let doors = changes.iter().map(|change| change.door);
            self.in_doubt.doors.extend(doors.take(InDoubt::MOST + 1));
        }
        changed
    }

    fn change_doors_if_any(&mut self, changes: &[Change], now: Now) -> Result<(), FirewallError> {
        if changes.is_empty() { Ok(()) } else { self.change_doors(changes, now) }
    }

    fn change_bans(&mut self, changes: &[BanChange], now: Now) -> Result<(), FirewallError> {
        let changed = self.firewall.ban(changes, now.uptime);
        if changed.is_err() {
            self.kernel = KernelState::InDoubt;
            let bans = changes.iter().map(|change| (change.source, change.kind));
            self.in_doubt.bans.extend(bans.take(InDoubt::MOST + 1));
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
    /// of a refused one at once, of an accepted one when its door is open; of one that waits for the disk,
    /// [`Self::disk_has_done`] tells. Returns how many were accepted.
    pub fn handle<'a>(
        &mut self,
        batch: impl Iterator<Item = (&'a [u8], IpAddr)>,
        now: Now,
        mut tell: impl FnMut(&Outcome, IpAddr, &Gate),
    ) -> usize {
        let mut pending = Vec::new();
        let mut strikes = Vec::new();
        self.replies.clear();
        self.batch += 1;
        for (at, (datagram, source)) in batch.enumerate() {
            match self.gate.decide(datagram, source, now) {
                Decision::Accept(accepted) => {
                    let id = PacketId { batch: self.batch, at };
                    pending.push(Pending::new(id, source, accepted));
                }
                Decision::Refuse(refusal) => {
                    tell(&Outcome::refused(refusal, datagram), source, &self.gate);
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

    /// Deals with what the disk has done: packets that waited for it have their effect.
    pub fn disk_has_done(
        &mut self,
        heard: Vec<Done>,
        now: Now,
        mut tell: impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        self.replies.clear();
        let mut ready = Vec::new();
        let results = self.hear(heard, now);
        for mut packet in self.parked.go_on(&results) {
            match shut_out_meanwhile(&mut packet, &self.gate, now) {
                Some(refusal) => {
                    let refused = Outcome::Refused { refusal, packet: Some(packet.accepted.mac) };
                    tell(&refused, packet.source, &self.gate);
                }
                None => ready.push(packet),
            }
        }
        self.take_effect(ready, now, &mut tell);
    }

    /// Lets go of the grants whose time is over.
    pub fn forget_ended_grants(&mut self, now: Now) {
        for owner in self.grants.expire(now.uptime, self.gate.directory()) {
            let forget = move |files: &mut Files<D>| {
                files.held.forget(&owner);
                Ok(())
            };
            // It has no way to fail.
            let _ = self.disk.order(forget);
        }
    }

    /// Leads accepted packets to their doors, or to where they wait for the disk.
    fn admit(
        &mut self,
        mut pending: Vec<Pending>,
        now: Now,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        self.write_down(&mut pending, now);
        // Where there is no thread, all of it is done by now.
        let results = self.hear(Vec::new(), now);
        let mut ready = self.parked.go_on(&results);
        for mut packet in pending {
            packet.hear(&results);
            if packet.waits.is_over() {
                ready.push(packet);
                continue;
            }
            packet.name = Some(self.gate.directory().name(packet.accepted.client).to_owned());
            if let Err(refused) = self.parked.take(packet) {
                ready.push(*refused);
            }
        }
        self.take_effect(ready, now, tell);
    }

    /// Leads packets that are written down to their doors.
    fn take_effect(
        &mut self,
        mut pending: Vec<Pending>,
        now: Now,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        if pending.is_empty() {
            return;
        }
        self.take_counters_back(&pending);
        self.forget_ended_grants(now);
        for packet in pending.iter_mut().filter(|packet| packet.failure.is_none()) {
            self.hold(packet, now);
        }
        if self.disk.have_it_done().is_err() {
            self.hold_one_by_one(&mut pending, now);
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

    /// Where the disk has refused a grant of a batch: lets those packets go on of which it takes the grants.
    fn hold_one_by_one(&mut self, pending: &mut [Pending], now: Now) {
        for packet in pending.iter_mut().rev() {
            self.undo(packet);
        }
        // What the disk says of putting back what was before counts for nobody.
        let _ = self.disk.have_it_done();
        for packet in pending.iter_mut().filter(|packet| packet.failure.is_none()) {
            self.hold(packet, now);
            if let Err(error) = self.disk.have_it_done() {
                self.undo(packet);
                packet.failure = Some(Failure::journal(&error));
                let _ = self.disk.have_it_done();
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
            let _ = self.release(before.owner);
        }
    }

    fn write_hold(&mut self, owner: Owner) -> io::Result<()> {
        let Some(until) = self.grants.held_until(&owner) else {
            return self.release(owner);
        };
        let directory = self.gate.directory();
        let grant = Grant {
            client: directory.name(owner.client),
            address: owner.address,
            service: directory.service(owner.service).name,
            until,
        };
        let grant = grant.encode();
        self.disk.order(move |files| files.hold(owner, grant))
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
    fn new(id: PacketId, source: IpAddr, accepted: Accepted) -> Self {
        Self {
            id,
            source,
            accepted,
            undo: Vec::new(),
            changes: Vec::new(),
            waits: Waits::default(),
            name: None,
            given_way: BTreeSet::new(),
            failure: None,
            warning: None,
        }
    }
}
