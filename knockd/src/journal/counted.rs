//! The file of counters: of each key that a client without a clock has used, the last number accepted.
//! PROTOCOL.md, "What is remembered".
//!
//! A header that counts the places, and a place of 32 bytes for each key, written over when its counter rises.
//!
//! # Security considerations
//! - A counter has no window to hide behind, as a timestamp has: every change is synced before it has an effect,
//!   and so the file outlives a reboot and a loss of power as well.
//! - A place lies in one sector of the disk, which is written as a whole or not at all. One that the header counts and
//!   that can't be read or isn't there is somebody's lost counter, and taken for that of whoever has none.
//! - Places are never freed: an old key that comes back finds its counter. The file grows by an admin's acts alone,
//!   32 bytes for each key that ever had a counter.
//! - An old copy of the file, put in its place while no daemon runs, can't be told from it: whoever restores a state
//!   folder sets its counters anew (`knockd client resync`).

use std::{collections::HashMap, fs::File, io};

use common::{TAG_LEN, Tag};

use crate::gate::counters::Counter;

use super::{
    BootId, DaemonId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder},
    places,
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "counters";

const MAGIC: &[u8; 16] = b"knockd counts v1";
const HEADER_LEN: usize = 128;
const PLACE_LEN: usize = 32;

/// What an earlier run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it can be relied on to be whole.
    pub condition: Condition,
    /// The counters that could be read.
    pub counters: Vec<(Tag, Counter)>,
}

/// Whether the file can be relied on to hold every counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Whole,
    /// There is none.
    Missing,
    /// It isn't as it was written.
    Damaged(Damage),
}

/// What is wrong with a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first bytes are none of a header.
    #[error("its header is not one of ours")]
    Header,
    /// Counters that the header counts are missing or unreadable.
    #[error("{missing} of {counted} counters in it can't be read")]
    Places {
        /// How many.
        missing: u64,
        /// Of how many that the header counts.
        counted: u64,
    },
}

/// Reads what an earlier run left behind.
///
/// # Errors
/// If there is a file and it can't be read at all.
pub fn load<D: StateFile>(folder: &StateFolder<D>) -> Result<Found, StateError> {
    let none = || Found { condition: Condition::Missing, counters: Vec::new() };
    Ok(places::read(&folder.counted())?.map_or_else(none, |bytes| parse(&bytes)))
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8]) -> Found {
    let header = bytes.split_at_checked(HEADER_LEN);
    let Some((counted, places)) = header.and_then(|(header, rest)| Some((count(header)?, rest)))
    else {
        let condition = Condition::Damaged(Damage::Header);
        return Found { condition, counters: Vec::new() };
    };
    // What stands in a place that the header doesn't count was never acted on.
    let places = (0..counted).zip(places.chunks_exact(PLACE_LEN));
    let counters: Vec<_> = places.filter_map(|(_, place)| decode(place)).collect();
    let sound = counters.len() as u64;
    let condition = match counted - sound {
        0 => Condition::Whole,
        missing => Condition::Damaged(Damage::Places { missing, counted }),
    };
    Found { condition, counters }
}

fn count(header: &[u8]) -> Option<u64> {
    let mut decoder = Decoder::new(header)?;
    if decoder.take::<16>()? != *MAGIC {
        return None;
    }
    let _writer = Writer { boot: BootId(decoder.take()?), daemon: DaemonId(decoder.take()?) };
    decoder.take_u64()
}

fn header(writer: Writer, count: u64) -> [u8; HEADER_LEN] {
    Encoder::new()
        .put(MAGIC)
        .put(&writer.boot.0)
        .put(&writer.daemon.0)
        .put(&count.to_be_bytes())
        .finish()
}

const LAST: u8 = 1;
const LOST: u8 = 2;

fn encode(key: Tag, counter: Counter) -> [u8; PLACE_LEN] {
    let (kind, number) = match counter {
        Counter::Last(last) => (LAST, last),
        Counter::Lost => (LOST, 0),
    };
    Encoder::new().put(key.as_bytes()).put(&[kind]).put(&number.to_be_bytes()).finish()
}

fn decode(place: &[u8]) -> Option<(Tag, Counter)> {
    let mut decoder = Decoder::new(place)?;
    let key = Tag::from_bytes(decoder.take::<TAG_LEN>()?);
    let [kind] = decoder.take()?;
    let number = decoder.take_u64()?;
    let counter = match kind {
        LAST => Counter::Last(number),
        LOST => Counter::Lost,
        _ => return None,
    };
    Some((key, counter))
}

/// The file, open for changes.
#[derive(Debug)]
pub struct CountedFile<F = File> {
    file: F,
    writer: Writer,
    places: HashMap<Tag, u64>,
}

impl<D: StateFile> CountedFile<D> {
    /// Puts a new file with these counters in the old one's place, for good.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(
        folder: &StateFolder<D>,
        writer: Writer,
        counters: impl IntoIterator<Item = (Tag, Counter)>,
    ) -> Result<Self, StateError> {
        let put = |content: &[u8]| folder.replace_for_good(&folder.counted(), content);
        Self::create_with(writer, counters, put)
    }

    /// Makes a file with these counters; `put` makes one of this content.
    ///
    /// # Errors
    /// What `put` says.
    pub fn create_with<E>(
        writer: Writer,
        counters: impl IntoIterator<Item = (Tag, Counter)>,
        put: impl FnOnce(&[u8]) -> Result<D, E>,
    ) -> Result<Self, E> {
        let mut places = HashMap::new();
        let mut content = vec![0; HEADER_LEN];
        for (place, (key, counter)) in (0..).zip(counters) {
            content.extend_from_slice(&encode(key, counter));
            places.insert(key, place);
        }
        for (byte, of) in content.iter_mut().zip(header(writer, places.len() as u64)) {
            *byte = of;
        }
        Ok(Self { file: put(&content)?, writer, places })
    }

    /// Puts the file back if somebody has removed it, or put another in its place. Whether it had to be.
    ///
    /// # Errors
    /// If it can't be: what is written from then on would not be found by a restart.
    pub fn put_back(&mut self, folder: &StateFolder<D>) -> Result<bool, StateError> {
        folder.put_back_for_good(&folder.counted(), &mut self.file)
    }

    /// Writes counters down, of several of one key the last: they survive a loss of power when it returns. Costs one
    /// sync for all of them, and one more where a key is among them that has no place yet.
    ///
    /// # Errors
    /// What the disk says. What stands in the file then may be ahead of what it was, or unreadable, and never behind.
    pub fn write(&mut self, counters: &[(Tag, Counter)]) -> io::Result<()> {
        let mut fresh: HashMap<Tag, u64> = HashMap::new();
        let held = self.places.len() as u64;
        for (key, counter) in counters {
            let next = held + fresh.len() as u64;
            let place = match self.places.get(key) {
                Some(place) => *place,
                None => *fresh.entry(*key).or_insert(next),
            };
            self.file.write_all_at(&encode(*key, *counter), offset(place))?;
        }
        if !fresh.is_empty() {
            // What the header counts must be there: otherwise a loss of power would leave a damaged file.
            self.file.sync()?;
            let count = held + fresh.len() as u64;
            self.file.write_all_at(&header(self.writer, count), 0)?;
        }
        self.file.sync()?;
        self.places.extend(fresh);
        Ok(())
    }
}

fn offset(place: u64) -> u64 {
    HEADER_LEN as u64 + place * PLACE_LEN as u64
}
