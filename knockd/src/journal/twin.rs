//! A second copy of accepted packets and counters, in memory: on /run, which a reboot empties, and which no backup,
//! snapshot or restored disk brings back.
//!
//! # Security considerations
//! - A state folder that was put back as it was within this boot lacks what was accepted since; its twin doesn't, and
//!   is taken up with it. What either holds is remembered, so that neither can be turned back alone.
//! - It survives kill -9 as the file on the disk does, and is written before any effect, too: a packet doesn't wait
//!   for a disk that hangs. Where it can't be written, packets wait for the disk instead.
//! - One that lacks anything since a failed write counts for nothing until all that is remembered is in it again.
//! - Why not the kernel's table: every change of it is a transaction, and whoever may list the ruleset would read it.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use common::Tag;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::gate::counters::Counter;

use super::{
    BootId, StateError, StateFolder, Writer,
    counted::{self, CountedFile},
    seen::{self, Condition, Found, Record, SeenFile, Span},
};

/// The folder of all twins. The unit keeps one by this name over restarts (RuntimeDirectory=).
const FOLDER: &str = "knockd-memory";
/// The folders that the service manager has made for us.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// Where the twin of this state folder is.
#[must_use]
pub fn place(state: &Path) -> PathBuf {
    let made = env::var(RUNTIME_DIRECTORY).unwrap_or_default();
    let ours = made.split(':').map(Path::new).find(|path| path.ends_with(FOLDER));
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let digest: [u8; 32] = Sha256::digest(state.as_os_str().as_encoded_bytes()).into();
    let name = HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]));
    ours.map_or_else(|| Path::new("/run").join(FOLDER), Path::to_owned).join(name)
}

/// What an earlier run of this boot has left in it.
#[derive(Debug, Default)]
pub struct Left {
    /// The accepted packets, if it has all of them.
    pub seen: Option<Found>,
    /// The counters.
    pub counters: Vec<(Tag, Counter)>,
}

/// Reads what an earlier run of this boot has left.
#[must_use]
pub fn load(folder: &StateFolder, boot: BootId) -> Left {
    let seen = seen::load(folder, boot).ok().filter(|found| found.condition == Condition::Intact);
    let counters = match seen {
        Some(_) => counted::load(folder).map(|found| found.counters).unwrap_or_default(),
        None => Vec::new(),
    };
    Left { seen, counters }
}

/// The twin, open for more.
pub struct Twin {
    folder: StateFolder,
    seen: SeenFile,
    /// `None` once something of it could not be written: it is gone then.
    counted: Option<CountedFile>,
    lacks: bool,
}

impl Twin {
    /// Puts a new one in the old one's place, with all that is remembered.
    ///
    /// # Errors
    /// If it can't be written; nothing is left of the old one then, if that can be removed.
    pub fn create(
        folder: StateFolder,
        writer: Writer,
        capacity: u32,
        span: Span,
        packets: impl IntoIterator<Item = Record>,
        counters: impl IntoIterator<Item = (Tag, Counter)>,
    ) -> Result<Self, StateError> {
        let made = || {
            let put = |content: &[u8]| folder.replace(&folder.counted(), content);
            let counted = CountedFile::create_with(writer, counters, put)?;
            let put = |content: &[u8]| folder.replace(&folder.seen(), content);
            let seen = SeenFile::create_with(writer, capacity, span, None, packets, put)?;
            Ok((seen, counted))
        };
        match made() {
            Ok((seen, counted)) => Ok(Self { folder, seen, counted: Some(counted), lacks: false }),
            Err(error) => {
                remove(&folder.seen());
                Err(error)
            }
        }
    }

    /// Writes down that packets were accepted.
    ///
    /// # Errors
    /// If they, or earlier ones, could not be written: then they must be on the disk before they have an effect.
    pub fn accept(&mut self, records: &[Record], span: Span) -> io::Result<()> {
        let is_all = span.next - span.oldest == records.len() as u64;
        if self.lacks && !is_all {
            return Err(io::Error::other("it lacks earlier packets"));
        }
        self.lacks = true;
        self.folder
            .keep()
            .and_then(|()| self.seen.put_back(&self.folder))
            .map_err(io::Error::other)?;
        self.seen.append(records, span)?;
        self.lacks = false;
        Ok(())
    }

    /// Writes counters down, if that can be.
    pub fn count(&mut self, counters: &[(Tag, Counter)]) {
        let Some(counted) = &mut self.counted else { return };
        let is_there = counted.put_back(&self.folder).is_ok();
        if !is_there || counted.write(counters).is_err() {
            // An older counter that is kept would count as the one that was set anew.
            self.counted = None;
            remove(&self.folder.counted());
        }
    }

    /// Has room for as many packets: one that it lacked would be new again where the state folder is put back. It copies
    /// all that is remembered, while the caller waits. Where that can't be, it has from when nothing is remembered; until
    /// then those that don't fit wait for the disk.
    pub fn make_room(&mut self, capacity: u32) {
        let path = self.folder.seen();
        let put = |content: &[u8]| self.folder.replace(&path, content).map_err(io::Error::other);
        if self.lacks || self.seen.enlarge(capacity, put).is_err() {
            self.seen.make_room_when_empty(capacity);
        }
    }
}

fn remove(path: &Path) {
    // Where it can't be, nothing could be written there either.
    let _ = fs::remove_file(path);
}

impl StateFolder<File> {
    /// The folder of a state folder's twin.
    ///
    /// # Errors
    /// If it can't be made or locked.
    pub fn open_twin(state: &Path) -> Result<Self, StateError> {
        Self::open(&place(state))
    }
}
