//! A file of places of one size, one for each key: written over when what stands there changes, and taken by
//! another key when it is over. The file never has more places than keys were ever in it at once. What could
//! not be written is owed, and written when it can be.
//!
//! # Security considerations
//! No place lies across two pages: the kernel may end a write between pages, for want of room or because the
//! process is killed, and the place of a live grant would be half of one.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    hash::Hash,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    BootId, DaemonId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder},
};
use crate::plain;

/// As long as a place, so that those behind it divide every page evenly.
const HEADER_LEN: usize = PLACE_LEN;
/// Length of a place in bytes, its checksum included.
pub(super) const PLACE_LEN: usize = 128;

/// Largest file that is read, in bytes: twice what a million grants take, which are as many as there can be.
const FILE_MAX: u64 = 256 << 20;

/// A file's content; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match plain::read(path, FILE_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::Io { path: path.to_owned(), error }),
    }
}

/// Who wrote a file's content, and its places: a free one is all zero, a torn one was never acted on, and
/// neither has a valid checksum. `None` if the header isn't as it was written.
pub(super) fn parse<'a>(
    bytes: &'a [u8],
    magic: &[u8; 16],
) -> Option<(Writer, impl Iterator<Item = &'a [u8]>)> {
    let (header, places) = bytes.split_at_checked(HEADER_LEN)?;
    let mut decoder = Decoder::new(header)?;
    if decoder.take::<16>()? != *magic {
        return None;
    }
    let writer = Writer { boot: BootId(decoder.take()?), daemon: DaemonId(decoder.take()?) };
    Some((writer, places.chunks_exact(PLACE_LEN)))
}

/// The file, open for changes.
#[derive(Debug)]
pub(super) struct Places<K, F = File> {
    file: F,
    places: HashMap<K, u64>,
    free: Vec<u64>,
    /// The last word on keys whose places could not be written: `None` to be wiped.
    /// In order: the first one is found at once, however many went before it.
    owed: BTreeMap<K, Option<[u8; PLACE_LEN]>>,
}

impl<K: Copy + Ord + Hash, F: FileExt> Places<K, F> {
    /// A file with these places; `put` makes one of this content.
    pub(super) fn create<E>(
        magic: &[u8; 16],
        writer: Writer,
        contents: impl IntoIterator<Item = (K, [u8; PLACE_LEN])>,
        put: impl FnOnce(&[u8]) -> Result<F, E>,
    ) -> Result<Self, E> {
        let header: [u8; HEADER_LEN] =
            Encoder::new().put(magic).put(&writer.boot.0).put(&writer.daemon.0).finish();
        let mut bytes = header.to_vec();
        let mut places = HashMap::new();
        for (place, (key, content)) in (0..).zip(contents) {
            bytes.extend_from_slice(&content);
            places.insert(key, place);
        }
        Ok(Self { file: put(&bytes)?, places, free: Vec::new(), owed: BTreeMap::new() })
    }

    /// Writes a key's place.
    pub(super) fn write(&mut self, key: K, content: &[u8; PLACE_LEN]) -> io::Result<()> {
        self.set(key, Some(*content))
    }

    /// Wipes a key's place, and frees it.
    pub(super) fn strike_out(&mut self, key: &K) -> io::Result<()> {
        self.set(*key, None)
    }

    /// Frees a key's place; what stands there is over by itself.
    pub(super) fn forget(&mut self, key: &K) {
        self.owed.remove(key);
        self.free.extend(self.places.remove(key));
    }

    /// Writes what could not be written before, up to the first failure.
    pub(super) fn catch_up(&mut self) -> io::Result<()> {
        while let Some((key, content)) = self.owed.first_key_value() {
            let (key, content) = (*key, *content);
            self.set(key, content)?;
        }
        Ok(())
    }

    fn set(&mut self, key: K, content: Option<[u8; PLACE_LEN]>) -> io::Result<()> {
        let written = match &content {
            Some(content) => self.fill(key, content),
            None => self.wipe(&key),
        };
        match written {
            Ok(()) => self.owed.remove(&key),
            Err(_) => self.owed.insert(key, content),
        };
        written
    }

    fn fill(&mut self, key: K, content: &[u8; PLACE_LEN]) -> io::Result<()> {
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.free.last().copied().unwrap_or(self.places.len() as u64),
        };
        self.file.write_all_at(content, offset(place))?;
        if self.places.insert(key, place).is_none() {
            self.free.pop();
        }
        Ok(())
    }

    fn wipe(&mut self, key: &K) -> io::Result<()> {
        if let Some(place) = self.places.get(key) {
            self.file.write_all_at(&[0; PLACE_LEN], offset(*place))?;
        }
        self.free.extend(self.places.remove(key));
        Ok(())
    }
}

impl<K, D: StateFile> Places<K, D> {
    /// Makes sure that what was written survives a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Puts the file back if it isn't at this path any more. Whether it had to be.
    pub(super) fn put_back(
        &mut self,
        folder: &StateFolder<D>,
        path: &Path,
    ) -> Result<bool, StateError> {
        folder.put_back(path, &mut self.file)
    }
}

fn offset(place: u64) -> u64 {
    HEADER_LEN as u64 + place * PLACE_LEN as u64
}
