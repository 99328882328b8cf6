//! What is written down before a packet has its effect, and where.
//!
//! # Security considerations
//! - An accepted packet is in the twin in memory before it has any effect, or on the disk: a killed daemon finds it
//!   again. The disk is told of it in either case, and has all of them by an orderly end.
//! - Where the disk refuses what it is told, or has too much to do, no packet has an effect that it hasn't confirmed.
//! - A counter is on the disk, and so is a ceiling on stamps at or above the packet's: a loss of power takes nothing
//!   of that.

use std::{io, mem, time::Duration};

use super::{Admission, Failure, Files, Hearing, Pending, Sync, disk::Ticket};
use crate::{
    gate::{Gate, clock::Now, counters::Counter, decision::Memory, grants::Owner, replay::Floor},
    journal::{
        StateFile,
        seen::{NameHash, Record, Span},
    },
};

impl<F, D: StateFile> Admission<F, D> {
    /// Writes down that these packets are accepted, and says what the effect of each waits for.
    pub(super) fn write_down(&mut self, pending: &mut [Pending], now: Now) {
        let by_mac = |packet: &&Pending| packet.accepted.memory == Memory::Mac;
        let directory = self.gate.directory();
        let record = |Pending { accepted, .. }: &Pending| Record {
            timestamp: accepted.timestamp,
            mac: accepted.mac,
            client: NameHash::of(directory.name(accepted.client)),
        };
        let records: Vec<Record> = pending.iter().filter(by_mac).map(record).collect();
        let written = self.remember(records, now);
        for packet in pending.iter().filter(by_mac) {
            self.ceiling.accept(packet.accepted.timestamp, now);
        }
        let counters: Vec<_> = pending.iter().filter_map(Pending::advance).collect();
        let counters: Vec<_> =
            counters.iter().map(|step| (step.key, Counter::Last(step.to))).collect();
        if let Some(twin) = &mut self.twin
            && !counters.is_empty()
        {
            twin.count(&counters);
        }
        let synced = self.sync(counters, now);
        let ceiling = self.ceilings.last().map(|(ticket, _)| *ticket);
        for packet in pending {
            match (packet.accepted.memory, &written) {
                (Memory::Counter(_), _) => packet.waits.synced = synced,
                (Memory::Mac, Ok(ticket)) => {
                    packet.waits.written = *ticket;
                    if !self.ceiling.covers(packet.accepted.timestamp) {
                        packet.waits.synced = ceiling;
                    }
                }
                (Memory::Mac, Err(error)) => packet.failure = Some(Failure::journal(error)),
            }
        }
    }

    /// Writes accepted packets down; the ticket of what their effect waits for, if it must.
    fn remember(&mut self, records: Vec<Record>, now: Now) -> io::Result<Option<Ticket>> {
        if records.is_empty() {
            return Ok(None);
        }
        let span = span(&self.gate, now);
        let in_twin = self.twin.as_mut().is_some_and(|twin| twin.accept(&records, span).is_ok());
        self.untold.extend(records);
        if self.disk.is_full() {
            let remembered = usize::try_from(span.next - span.oldest).unwrap_or(usize::MAX);
            let forgotten = self.untold.len().saturating_sub(remembered);
            self.untold.drain(..forgotten);
            let text = "the disk doesn't answer, and too much waits for it";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let records = mem::take(&mut self.untold);
        let accept = move |files: &mut Files<D>| files.accept(records, span);
        if in_twin && self.disk.refusal().is_none() {
            self.disk.order(accept).map(|()| None)
        } else {
            Ok(Some(self.disk.order_and_hear(accept)))
        }
    }

    /// Has counters on the disk, and a higher ceiling if that is due; the ticket of it.
    fn sync(&mut self, counters: Vec<(common::Tag, Counter)>, now: Now) -> Option<Ticket> {
        let ceiling = self.ceiling.raise(now.uptime);
        if counters.is_empty() && ceiling.is_none() {
            return None;
        }
        let ticket = self.disk.sync(Sync { counters, ceiling });
        self.ceilings.extend(ceiling.map(|to| (ticket, to)));
        Some(ticket)
    }

    /// Raises the ceiling on stamps ahead, if that is due.
    pub fn keep_ceiling(&mut self, now: Now) {
        self.sync(Vec::new(), now);
    }

    /// In how long [`Self::keep_ceiling`] has something to do; `None` if nothing is to be done until a packet comes.
    pub fn ceiling_due_in(&self, now: Now) -> Option<Duration> {
        self.ceiling.due_in(now.uptime)
    }

    /// Has more kept out: packets were accepted, and what is remembered doesn't know of them.
    ///
    /// # Errors
    /// What the disk says, if it has answered.
    pub fn lose(&mut self, lost: Floor, now: Now) -> io::Result<()> {
        self.gate.replay_mut().raise_floor(lost);
        self.write_floor(now)
    }

    /// Writes down what keeps packets out, as it is now.
    ///
    /// # Errors
    /// What the disk says, if it has answered.
    pub fn write_floor(&mut self, now: Now) -> io::Result<()> {
        let span = span(&self.gate, now);
        let records = mem::take(&mut self.untold);
        if let Some(twin) = &mut self.twin {
            // Where it fails, the twin lacks something from here on, and says so.
            let _ = twin.accept(&[], span);
        }
        self.disk.order(move |files| {
            files.accept(records, span)?;
            files.seen.sync()
        })
    }

    /// Puts back what somebody has removed from the state folder, and writes what could not be written before.
    ///
    /// # Errors
    /// What the disk says; it is tried again with the next packet that is accepted.
    pub fn keep_files(&mut self) -> io::Result<()> {
        self.disk.order(|files| {
            files.keep_in_place()?;
            let packets = files.accept_owed();
            files.catch_up().and(packets)
        })?;
        self.disk_is_well()
    }

    /// Strikes an owner out, whose grant has ended early.
    pub(super) fn release(&mut self, owner: Owner) -> io::Result<()> {
        self.disk.order(move |files| files.held.release(&owner))
    }

    /// The daemon ends in order: everything is on the disk when this returns, and the next one has lost nothing, whether
    /// it is of this boot or not.
    ///
    /// # Errors
    /// What the disk says. Then the next daemon finds what it would after a loss of power, or a kill.
    pub fn close(&mut self, now: Now) -> io::Result<()> {
        let span = span(&self.gate, now);
        let records = mem::take(&mut self.untold);
        self.disk.order_the_last(move |files| {
            files.accept(records, span)?;
            files.close(span)
        })
    }

    /// Takes back the counters of packets that could not be written down, if none above them was accepted since.
    pub(super) fn take_counters_back(&mut self, pending: &[Pending]) {
        let failed = pending.iter().rev().filter(|packet| packet.failure.is_some());
        for step in failed.filter_map(Pending::advance) {
            if self.gate.counters().of(step.key) == Some(Counter::Last(step.to)) {
                self.gate.counters_mut().take_back(step);
            }
        }
    }
}

impl<F, D: StateFile + Send + 'static> Admission<F, D> {
    /// From here on a thread writes to the disk.
    ///
    /// # Errors
    /// If there can be no other thread.
    pub fn write_on_a_thread(mut self) -> io::Result<(Self, Hearing)> {
        let (disk, hearing) = self.disk.start_thread()?;
        self.disk = disk;
        Ok((self, hearing))
    }
}

/// What is remembered now, as the file counts it.
#[must_use]
pub fn span(gate: &Gate, now: Now) -> Span {
    let replay = gate.replay();
    let oldest = replay.oldest();
    let (floor, next) = (replay.floor(), oldest + replay.packets().len() as u64);
    Span { oldest, next, floor, floor_utc: floor.by(now) }
}
