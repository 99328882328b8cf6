//! A file of places of one size, one for each key: written over when what stands there changes, and taken by
//! another key when it is over. The file never has more places than keys were ever in it at once.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::Hash,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    BootId, DaemonId, StateError, Writer,
    codec::{Decoder, Encoder},
};

const HEADER_LEN: usize = 64;
/// Length of a place in bytes, its checksum included.
pub(super) const PLACE_LEN: usize = 128;

/// A file's content; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
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
}

impl<K: Copy + Eq + Hash, F: FileExt> Places<K, F> {
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
        Ok(Self { file: put(&bytes)?, places, free: Vec::new() })
    }

    /// Writes a key's place.
    pub(super) fn write(&mut self, key: K, content: &[u8; PLACE_LEN]) -> io::Result<()> {
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

    /// Wipes a key's place, and frees it.
    pub(super) fn strike_out(&mut self, key: &K) -> io::Result<()> {
        match self.places.get(key) {
            Some(place) => self.file.write_all_at(&[0; PLACE_LEN], offset(*place))?,
            None => return Ok(()),
        }
        self.forget(key);
        Ok(())
    }

    /// Frees a key's place; what stands there is over by itself.
    pub(super) fn forget(&mut self, key: &K) {
        self.free.extend(self.places.remove(key));
    }
}

impl<K> Places<K> {
    /// Makes sure that what was written survives a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn offset(place: u64) -> u64 {
    HEADER_LEN as u64 + place * PLACE_LEN as u64
}
