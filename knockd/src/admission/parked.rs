//! Accepted packets whose effect waits for the disk: those of clients without a clock, those stamped beyond the
//! ceiling, and all where there is no twin in memory. Whatever else comes meanwhile goes on.
//!
//! # Security considerations
//! - A packet here was accepted and is remembered: no copy of it is. What could not be written down has no effect, and
//!   stays remembered; its client's next packet is a new one.
//! - A right is checked again when the effect is due: who was shut out meanwhile gets nothing.
//! - No more than [`PACKETS`] wait, and [`OF_ONE_CLIENT`] of one client, so that none takes the others' places. A client
//!   that knocks faster than the disk answers is told so, and isn't taken for a disk that fails.

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use super::{
    Admission, Failure, Pending,
    disk::{Done, Ticket, copy},
};
use crate::{
    gate::{
        Gate,
        clock::Now,
        decision::{Accepted, Effect, Reason, Refusal},
        directory::{ClientId, ServiceId},
        grants::Owner,
    },
    journal::StateFile,
};

/// How many packets may wait: those of a burst at line rate, for as long as a slow disk takes to sync.
const PACKETS: usize = 1 << 16;
/// How many of one client may.
pub(super) const OF_ONE_CLIENT: usize = 64;

/// Tells an accepted packet from all others of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId {
    /// Which batch it came in.
    pub batch: u64,
    /// Its place there.
    pub at: usize,
}

/// What a packet's effect waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    /// That it is written down.
    pub(super) written: Option<Ticket>,
    /// That its counter, or a ceiling above it, is on the disk.
    pub(super) synced: Option<Ticket>,
}

impl Waits {
    pub(super) const fn is_over(&self) -> bool {
        self.written.is_none() && self.synced.is_none()
    }
}

/// What has become of orders: why they failed, if they did.
pub(super) type Results = HashMap<Ticket, Option<Failure>>;

/// The packets that wait.
#[derive(Default)]
pub(super) struct Parked {
    packets: VecDeque<Pending>,
    shares: HashMap<ClientId, usize>,
}

impl Parked {
    /// Takes a packet, if there is room for it.
    pub(super) fn take(&mut self, mut packet: Pending) -> Result<(), Box<Pending>> {
        let share = self.shares.get(&packet.accepted.client).copied().unwrap_or_default();
        if share >= OF_ONE_CLIENT {
            packet.failure = Some(Failure::TooManyWaiting);
            return Err(Box::new(packet));
        }
        if self.packets.len() >= PACKETS {
            let text = "the disk doesn't answer, and too many packets wait for it";
            let error = io::Error::new(io::ErrorKind::TimedOut, text);
            packet.failure = Some(Failure::journal(&error));
            return Err(Box::new(packet));
        }
        self.shares.insert(packet.accepted.client, share + 1);
        self.packets.push_back(packet);
        Ok(())
    }

    /// Those of a batch. They stand in the order in which they came.
    fn of_batch(&self, batch: u64) -> impl Iterator<Item = &Pending> {
        let first = self.packets.partition_point(|packet| packet.id.batch < batch);
        self.packets.range(first..).take_while(move |packet| packet.id.batch == batch)
    }

    fn holds(&self, id: PacketId) -> bool {
        self.packets.binary_search_by_key(&id, |packet| packet.id).is_ok()
    }

    /// Lets those go on that wait for nothing more, in the order in which they came.
    pub(super) fn go_on(&mut self, results: &Results) -> Vec<Pending> {
        if results.is_empty() {
            return Vec::new();
        }
        self.packets.iter_mut().for_each(|packet| packet.hear(results));
        let is_ready = |packet: &Pending| packet.waits.is_over();
        if !self.packets.iter().any(is_ready) {
            return Vec::new();
        }
        let (ready, waiting): (Vec<_>, Vec<_>) = self.packets.drain(..).partition(is_ready);
        self.packets = waiting.into();
        for packet in &ready {
            let client = packet.accepted.client;
            if let Some(share) = self.shares.get_mut(&client) {
                *share -= 1;
                if *share == 0 {
                    self.shares.remove(&client);
                }
            }
        }
        ready
    }
}

impl Pending {
    /// Waits no longer for what is done.
    pub(super) fn hear(&mut self, results: &Results) {
        let Waits { written, synced } = &mut self.waits;
        for waits in [written, synced] {
            if let Some(result) = waits.and_then(|ticket| results.get(&ticket)) {
                self.failure = self.failure.take().or_else(|| result.clone());
                *waits = None;
            }
        }
    }
}

impl<F, D: StateFile> Admission<F, D> {
    /// The packets of the last batch that ask for a reply and whose effect waits: the way back to who sent them is to
    /// be kept.
    pub fn waiting_for_reply(&self) -> impl Iterator<Item = PacketId> {
        let asks = |packet: &&Pending| packet.accepted.reply.is_some();
        self.parked.of_batch(self.batch).filter(asks).map(|packet| packet.id)
    }

    /// Whether a packet's effect still waits.
    pub fn waits(&self, id: PacketId) -> bool {
        self.parked.holds(id)
    }

    /// Has all that is to be written go to the disk. To be called when there is nothing else to be done.
    pub fn hand_over(&mut self) {
        self.disk.hand_over();
    }

    /// Takes note of all that the disk has done.
    pub(super) fn hear(&mut self, heard: Vec<Done>, now: Now) -> Results {
        let mut results = Results::new();
        let mut heard = heard.into_iter();
        while let Some(one) = heard.next().or_else(|| self.disk.done()) {
            self.disk.note(&one);
            if let Some(ticket) = one.ticket {
                self.ceiling_is_done(ticket, &one.result, now);
                results.insert(ticket, one.result.err().map(|error| Failure::journal(&error)));
            }
        }
        results
    }

    fn ceiling_is_done(&mut self, ticket: Ticket, result: &io::Result<()>, now: Now) {
        let Some(at) = self.ceilings.iter().position(|(asked, _)| *asked == ticket) else { return };
        let (_, to) = self.ceilings.swap_remove(at);
        match result {
            Ok(()) => self.ceiling.confirm(to),
            Err(_) => self.ceiling.refuse(now.uptime),
        }
    }

    /// Why the disk refuses what it is told, if it does.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn disk_is_well(&self) -> io::Result<()> {
        self.disk.refusal().map_or(Ok(()), |error| Err(copy(error)))
    }
}

/// Why a packet may no longer have its effect, for which it had to wait. One that may have it for less time by now asks
/// for less.
pub(super) fn shut_out_meanwhile(packet: &mut Pending, gate: &Gate, now: Now) -> Option<Refusal> {
    let Accepted { client, address, ref services, effect, .. } = packet.accepted;
    let directory = gate.directory();
    let is_the_same = |name: &String| directory.name(client) == name;
    let is_still_there = packet.name.as_ref().is_none_or(is_the_same);
    let entry = directory.entry(client).filter(|_| is_still_there);
    let standing = match entry {
        None => Err(Reason::ClientDisabled),
        Some(entry) => entry.check_standing(now.utc),
    };
    let end = || {
        let owner = |service: &ServiceId| Owner { address, client, service: *service };
        // Those that it may hold no longer are less than any end.
        services.iter().map(|service| gate.may_hold(&owner(service), now)).min().flatten()
    };
    let reason = match (standing, effect) {
        (Err(reason), _) => reason,
        (Ok(()), _) if gate.bans().is_shut_out(packet.source, now.uptime) => Reason::Banned,
        (Ok(()), Effect::Close) => return None,
        (Ok(()), Effect::Open(asked)) => match end() {
            None => Reason::ServiceNotAllowed(None),
            Some(end) => {
                packet.accepted.effect = Effect::Open(asked.min(end.since(now.uptime)));
                return None;
            }
        },
    };
    Some(Refusal { client: entry.map(|_| client), reason })
}
