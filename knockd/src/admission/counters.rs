//! The counters of clients without a clock, written down, and set anew for a device that has lost its own.

use std::io;

use super::{Admission, Pending, Sync};
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
        if let Some(twin) = &mut self.twin {
            twin.count(&changed);
        }
        let sync = Sync { counters: changed, ceiling: None };
        match self.disk.order_and_wait(move |files| files.sync(&sync)) {
            Ok(()) => Ok(to),
            // It is written as soon as the disk answers: what counts is where the device must not count from.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
            Err(error) => {
                for advance in advances {
                    self.gate.counters_mut().take_back(advance);
                }
                Err(error.into())
            }
        }
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
}

impl Pending {
    pub(super) const fn advance(&self) -> Option<Advance> {
        match self.accepted.memory {
            Memory::Counter(advance) => Some(advance),
            Memory::Mac => None,
        }
    }
}
