//! The counters of clients without a clock, written down, and set anew for a device that has lost its own.

use std::io;

use super::{Admission, Failure, Pending};
use crate::{
    firewall::Firewall,
    gate::{
        clock::Now,
        counters::{Advance, Counter, Exhausted},
        decision::Memory,
        directory::ClientId,
    },
    journal::StateFile,
};
use common::{Day, Tag};

/// Why a client's counter can't be set anew.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    /// It has none.
    #[error("it has a clock (clock = \"utc\"), and no counter that could be lost")]
    HasClock,
    /// There is no number left.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// It can't be written down.
    #[error("the state folder can't be written: {0}")]
    Journal(#[from] io::Error),
}

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// Sets a client's counter anew, under its key and an old one: returns from where on its device is to count.
    /// Nothing at or below that is accepted from here on.
    ///
    /// # Errors
    /// [`ResyncError`]; its counter is as it was then.
    pub fn resync(&mut self, client: ClientId, now: Now) -> Result<u64, ResyncError> {
        let entry = self.gate.directory().entry(client);
        let keys: Vec<Tag> =
            entry.map(|entry| entry.tags(Day::COUNTER).collect()).unwrap_or_default();
        if keys.is_empty() {
            return Err(ResyncError::HasClock);
        }
        let advances = self.gate.counters_mut().resync(&keys, now.utc)?;
        let to = advances.first().map_or(0, |advance| advance.to);
        let changed: Vec<_> = keys.iter().map(|key| (*key, Counter::Last(to))).collect();
        let kept = self.files.keep_in_place();
        if let Err(error) = kept.and_then(|()| self.files.counted.write(&changed)) {
            for advance in advances {
                self.gate.counters_mut().take_back(advance);
            }
            return Err(error.into());
        }
        Ok(to)
    }

    /// The clients whose counters are lost.
    pub fn lost_counters(&self) -> impl Iterator<Item = ClientId> {
        let directory = self.gate.directory();
        directory.clients().map(|(client, _)| client).filter(move |client| {
            let keys = directory.entry(*client).map(|entry| entry.tags(Day::COUNTER));
            let is_lost = |key: Tag| self.gate.counters().of(key) == Some(Counter::Lost);
            keys.into_iter().flatten().any(is_lost)
        })
    }

    /// Writes down the counters of the packets that have one, before any effect: one sync for all of them. `failed`
    /// says why nothing can be written, if that is known.
    pub(super) fn remember_counters(&mut self, pending: &mut [Pending], failed: Option<&Failure>) {
        let steps: Vec<Advance> = pending.iter().filter_map(Pending::advance).collect();
        if steps.is_empty() {
            return;
        }
        let counters: Vec<_> =
            steps.iter().map(|step| (step.key, Counter::Last(step.to))).collect();
        let failed = failed.cloned().or_else(|| {
            self.files.counted.write(&counters).err().map(|error| Failure::journal(&error))
        });
        let Some(failure) = failed else { return };
        for step in steps.into_iter().rev() {
            self.gate.counters_mut().take_back(step);
        }
        for packet in pending.iter_mut().filter(|packet| packet.advance().is_some()) {
            packet.failure = Some(failure.clone());
        }
    }
}

impl Pending {
    const fn advance(&self) -> Option<Advance> {
        match self.accepted.memory {
            Memory::Counter(advance) => Some(advance),
            Memory::Mac => None,
        }
    }
}
