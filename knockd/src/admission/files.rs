//! The files of the state folder, open for changes and kept in their place.

use std::{fs::File, io};

use tracing::warn;

use crate::journal::{
    StateError, StateFile, StateFolder, banned::BannedFile, counted::CountedFile, held::HeldFile,
    seen::SeenFile,
};

/// The files in the state folder, open for changes.
pub struct Files<D = File> {
    /// Where they are; locked for as long as packets are accepted.
    pub folder: StateFolder<D>,
    /// Accepted packets.
    pub seen: SeenFile<D>,
    /// The counters of clients without a clock.
    pub counted: CountedFile<D>,
    /// Who holds which door.
    pub held: HeldFile<D>,
    /// Who is banned.
    pub banned: BannedFile<D>,
}

impl<D: StateFile> Files<D> {
    /// Puts back what somebody has removed or replaced, so that a restart finds what is written from here on.
    ///
    /// # Errors
    /// If it can't be put back: then nothing must be accepted.
    pub fn keep_in_place(&mut self) -> io::Result<()> {
        self.put_back().map_err(|error| match error {
            StateError::Io { error, .. } => error,
            in_use @ StateError::InUse { .. } => io::Error::other(in_use),
        })
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// What the disk says; the rest is still to be written.
    pub fn catch_up(&mut self) -> io::Result<()> {
        let held = self.held.catch_up();
        self.banned.catch_up().and(held)
    }

    fn put_back(&mut self) -> Result<(), StateError> {
        let Self { folder, seen, counted, held, banned } = self;
        folder.keep()?;
        // The memory of accepted packets comes last, as at start: where it is whole, so are the others.
        for (path, put_back) in [
            (folder.held(), held.put_back(folder)?),
            (folder.banned(), banned.put_back(folder)?),
            (folder.counted(), counted.put_back(folder)?),
            (folder.seen(), seen.put_back(folder)?),
        ] {
            if put_back {
                warn!(
                    event = "file-put-back",
                    "{} was removed or replaced by somebody while the daemon runs: put back as it was",
                    path.display()
                );
            }
        }
        Ok(())
    }
}
