//! The files of the state folder, open for changes and kept in their place.

use std::{fs::File, io};

use common::{Tag, Timestamp};
use tracing::warn;

use crate::{
    gate::{counters::Counter, grants::Owner},
    journal::{
        StateError, StateFile, StateFolder,
        banned::BannedFile,
        counted::CountedFile,
        held::{Encoded, HeldFile},
        seen::{Record, SeenFile, Span},
    },
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
    /// Accepted packets that could not be written, oldest first: they come before the next ones.
    owed: Vec<Record>,
    /// What is remembered with them.
    owed_with: Option<Span>,
    /// Why they could not be.
    owed_why: Option<io::Error>,
    /// Why a grant could not be written, since that was asked last.
    unheld: Option<io::Error>,
}

/// What must be on the disk before a packet has its effect.
#[derive(Clone, Debug, Default)]
pub struct Sync {
    /// Counters of clients without a clock.
    pub counters: Vec<(Tag, Counter)>,
    /// A higher ceiling on stamps.
    pub ceiling: Option<Timestamp>,
}

impl<D: StateFile> Files<D> {
    /// These files.
    pub const fn new(
        folder: StateFolder<D>,
        seen: SeenFile<D>,
        counted: CountedFile<D>,
        held: HeldFile<D>,
        banned: BannedFile<D>,
    ) -> Self {
        Self {
            folder,
            seen,
            counted,
            held,
            banned,
            owed: Vec::new(),
            owed_with: None,
            owed_why: None,
            unheld: None,
        }
    }

    /// Writes down that packets were accepted, behind those that could not be written before. `span` is what is
    /// remembered with them.
    ///
    /// # Errors
    /// What the disk says; they are owed then.
    pub fn accept(&mut self, records: Vec<Record>, span: Span) -> io::Result<()> {
        self.owed.extend(records);
        let remembered = usize::try_from(span.next - span.oldest).unwrap_or(usize::MAX);
        let forgotten = self.owed.len().saturating_sub(remembered);
        self.owed.drain(..forgotten);
        self.owed_with = Some(span);
        if let Err(error) = self.keep_in_place() {
            self.owed_why = Some(super::disk::copy(&error));
            return Err(error);
        }
        // Where that fails again, it is no reason to refuse these.
        let _ = self.catch_up();
        self.accept_owed()
    }

    /// Writes down until when an owner holds its doors.
    ///
    /// # Errors
    /// What the disk says: then the owner must not be let in, and is to be struck out.
    pub fn hold(&mut self, owner: Owner, grant: Encoded) -> io::Result<()> {
        let held = self.held.hold(owner, grant);
        if let Err(error) = &held {
            self.unheld = Some(super::disk::copy(error));
        }
        held
    }

    /// Whether every grant since the last time was written down.
    ///
    /// # Errors
    /// What the disk said of the last one that was not.
    pub fn all_held(&mut self) -> io::Result<()> {
        self.unheld.take().map_or(Ok(()), Err)
    }

    /// Whether all accepted packets are written down.
    ///
    /// # Errors
    /// What the disk said when the last of them could not be written.
    pub fn check_owed(&self) -> io::Result<()> {
        self.owed_why.as_ref().map_or(Ok(()), |why| Err(super::disk::copy(why)))
    }

    /// Writes down the accepted packets that could not be written before.
    ///
    /// # Errors
    /// What the disk says; they are owed still.
    pub fn accept_owed(&mut self) -> io::Result<()> {
        let Some(span) = self.owed_with else { return Ok(()) };
        if let Err(error) = self.seen.append(&self.owed, span) {
            self.owed_why = Some(super::disk::copy(&error));
            return Err(error);
        }
        self.owed = Vec::new();
        (self.owed_with, self.owed_why) = (None, None);
        Ok(())
    }

    /// Has this on the disk when it returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&mut self, sync: &Sync) -> io::Result<()> {
        self.keep_in_place()?;
        if !sync.counters.is_empty() {
            self.counted.write(&sync.counters)?;
        }
        sync.ceiling.map_or(Ok(()), |ceiling| self.seen.raise_ceiling(ceiling))
    }

    /// Has everything on the disk, and says that the daemon ends in order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn close(&mut self, span: Span) -> io::Result<()> {
        self.accept(Vec::new(), span)?;
        self.catch_up()?;
        self.banned.sync()?;
        self.seen.close(span)
    }

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

    /// Writes what could not be written before, but for accepted packets, which go with the next ones.
    ///
    /// # Errors
    /// What the disk says; the rest is still to be written.
    pub fn catch_up(&mut self) -> io::Result<()> {
        let held = self.held.catch_up();
        self.banned.catch_up().and(held)
    }

    /// Makes room for as many accepted packets as are to be remembered at once.
    ///
    /// # Errors
    /// [`StateError`]; then the file is as it was.
    pub fn make_room(&mut self, capacity: u32) -> Result<(), StateError> {
        self.seen.make_room(&self.folder, capacity)
    }

    fn put_back(&mut self) -> Result<(), StateError> {
        let Self { folder, seen, counted, held, banned, .. } = self;
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
