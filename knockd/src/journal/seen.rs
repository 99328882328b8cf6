//! The file of accepted packets. PROTOCOL.md, "What is remembered, and what if it can't be".
//!
//! A header and a ring of fixed-size records. Records are written first, then the header that counts
//! them: what the header doesn't count was never acted on, so that a torn end is no damage, and a file
//! that is cut anywhere holds fewer records than its header counts. The ring has as many places as
//! packets can be remembered (`replay.capacity`), and starts anew whenever nothing is: the file cleans
//! itself, and never grows beyond 64 bytes for each.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
};

use common::{Mac, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::{
    gate::{clock::Uptime, replay::Floor},
    plain,
};

use super::{
    BootId, DaemonId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder},
    read_all,
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "seen";

/// Largest file that is read, in bytes: that of the largest `replay.capacity` is half of it.
pub const FILE_MAX: u64 = 2 << 30;

const MAGIC: &[u8; 16] = b"knockd seen v1\0\0";
const HEADER_LEN: usize = 128;
const RECORD_LEN: usize = 64;

/// Stands for a client's name in a record: the first 8 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameHash(u64);

impl NameHash {
    /// The hash of a client's name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(name).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// An accepted packet, as the file holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it was stamped with.
    pub timestamp: Timestamp,
    /// What tells it from all others.
    pub mac: Mac,
    /// Whose it is.
    pub client: NameHash,
}

/// What is remembered at one moment: which packets, by their numbers, and what keeps all others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the oldest packet remembered.
    pub oldest: u64,
    /// Number that the next packet gets.
    pub next: u64,
    /// What keeps out packets that are not remembered.
    pub floor: Floor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    writer: Writer,
    capacity: u64,
    /// Number of the packet in the ring's first place.
    base: u64,
    span: Span,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let Floor { forgotten, lost_before } = self.span.floor;
        Encoder::new()
            .put(MAGIC)
            .put(&self.writer.boot.0)
            .put(&self.writer.daemon.0)
            .put(&self.capacity.to_be_bytes())
            .put(&self.base.to_be_bytes())
            .put(&self.span.oldest.to_be_bytes())
            .put(&self.span.next.to_be_bytes())
            .put(&optional(forgotten.map(Timestamp::as_millis)))
            .put(&optional(lost_before.map(Uptime::as_millis)))
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes)?;
        if decoder.take::<16>()? != *MAGIC {
            return None;
        }
        let writer = Writer { boot: BootId(decoder.take()?), daemon: DaemonId(decoder.take()?) };
        let (capacity, base) = (decoder.take_u64()?, decoder.take_u64()?);
        let (oldest, next) = (decoder.take_u64()?, decoder.take_u64()?);
        let floor = Floor {
            forgotten: take_optional(&mut decoder)?.map(Timestamp::from_millis),
            lost_before: take_optional(&mut decoder)?.map(Uptime::from_millis),
        };
        // A capacity is a u32: with a larger one the places would be beyond any file.
        let is_sound = (1..=u64::from(u32::MAX)).contains(&capacity)
            && base <= oldest
            && oldest <= next
            && next - oldest <= capacity;
        is_sound.then_some(Self { writer, capacity, base, span: Span { oldest, next, floor } })
    }

    /// Where a packet's record stands in the file.
    fn offset(&self, number: u64) -> u64 {
        HEADER_LEN as u64 + (number - self.base) % self.capacity * RECORD_LEN as u64
    }
}

/// A number that may be missing: a byte that says whether it is there, and eight.
fn optional(number: Option<u64>) -> [u8; 9] {
    let mut bytes = [0; 9];
    if let (Some(number), [there, place @ ..]) = (number, &mut bytes) {
        *there = 1;
        *place = number.to_be_bytes();
    }
    bytes
}

fn take_optional(decoder: &mut Decoder<'_>) -> Option<Option<u64>> {
    let [there] = decoder.take()?;
    let number = decoder.take_u64()?;
    Some((there != 0).then_some(number))
}

fn encode(number: u64, record: &Record) -> [u8; RECORD_LEN] {
    Encoder::new()
        .put(&number.to_be_bytes())
        .put(&record.timestamp.as_millis().to_be_bytes())
        .put(&record.client.0.to_be_bytes())
        .put(record.mac.as_bytes())
        .finish()
}

fn decode(bytes: &[u8]) -> Option<(u64, Record)> {
    let mut decoder = Decoder::new(bytes)?;
    let number = decoder.take_u64()?;
    let timestamp = Timestamp::from_millis(decoder.take_u64()?);
    let client = NameHash(decoder.take_u64()?);
    let mac = Mac::from_bytes(decoder.take()?);
    Some((number, Record { timestamp, mac, client }))
}

/// What an earlier run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it can be relied on to be whole.
    pub condition: Condition,
    /// The accepted packets that could be read, oldest first.
    pub packets: Vec<Record>,
    /// What kept all other packets out, if that could be read. Its uptime is that of the boot that wrote it.
    pub floor: Floor,
}

/// Whether the file can be relied on to hold every packet that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Intact,
    /// There is none.
    Missing,
    /// It was written before a reboot, and not synced.
    EarlierBoot,
    /// It isn't as it was written.
    Damaged(Damage),
}

/// What is wrong with a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first bytes are none of a header.
    #[error("its header is not one of ours")]
    Header,
    /// Packets that the header counts are missing or unreadable.
    #[error("{missing} of {counted} packets in it can't be read")]
    Records {
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
pub fn load<D: StateFile>(folder: &StateFolder<D>, boot: BootId) -> Result<Found, StateError> {
    let path = folder.seen();
    match plain::read(&path, FILE_MAX) {
        Ok(bytes) => Ok(parse(&bytes, boot)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found {
            condition: Condition::Missing,
            packets: Vec::new(),
            floor: Floor::default(),
        }),
        Err(error) => Err(StateError::Io { path, error }),
    }
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8], boot: BootId) -> Found {
    let Some(header) = bytes.get(..HEADER_LEN).and_then(Header::from_bytes) else {
        let condition = Condition::Damaged(Damage::Header);
        return Found { condition, packets: Vec::new(), floor: Floor::default() };
    };
    let read = |number| {
        let start = usize::try_from(header.offset(number)).ok()?;
        let (found, record) = decode(bytes.get(start..start.checked_add(RECORD_LEN)?)?)?;
        (found == number).then_some(record)
    };
    let counted = header.span.next - header.span.oldest;
    // A header may lie about how many there are, but no more fit than the file has places for.
    let places = (bytes.len() / RECORD_LEN) as u64;
    let first_read = header.span.oldest.max(header.span.next.saturating_sub(places));
    let packets: Vec<Record> = (first_read..header.span.next).filter_map(read).collect();
    let missing = counted - packets.len() as u64;
    let condition = if missing > 0 {
        Condition::Damaged(Damage::Records { missing, counted })
    } else if header.writer.boot != boot {
        Condition::EarlierBoot
    } else {
        Condition::Intact
    };
    Found { condition, packets, floor: header.span.floor }
}

/// The file, open for more packets.
#[derive(Debug)]
pub struct SeenFile<F = File> {
    file: F,
    header: Header,
}

impl<D: StateFile> SeenFile<D> {
    /// Puts a new file with these packets, numbered from `span.oldest`, in the old one's place.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(
        folder: &StateFolder<D>,
        writer: Writer,
        capacity: u32,
        span: Span,
        packets: impl IntoIterator<Item = Record>,
    ) -> Result<Self, StateError> {
        let put = |content: &[u8]| folder.replace(&folder.seen(), content);
        Self::create_with(writer, capacity, span, packets, put)
    }

    /// Makes room for this many packets, if there is less: writes a larger file, and puts it in this one's place.
    /// A larger one than needed does no harm.
    ///
    /// # Errors
    /// If it can't be read or written; it is as it was then.
    pub fn make_room(&mut self, folder: &StateFolder<D>, capacity: u32) -> Result<(), StateError> {
        if u64::from(capacity) <= self.header.capacity {
            return Ok(());
        }
        let Header { writer, span, .. } = self.header;
        let content = read_all(&self.file).map_err(StateError::io(&folder.seen()))?;
        let found = parse(&content, writer.boot);
        if found.condition != Condition::Intact {
            let error = io::Error::new(ErrorKind::InvalidData, "it isn't as it was written");
            return Err(StateError::Io { path: folder.seen(), error });
        }
        *self = Self::create(folder, writer, capacity, span, found.packets)?;
        Ok(())
    }

    /// Puts the file back if somebody has removed it, or put another in its place. Whether it had to be.
    ///
    /// # Errors
    /// If it can't be: what is written from then on would not be found by a restart.
    pub fn put_back(&mut self, folder: &StateFolder<D>) -> Result<bool, StateError> {
        folder.put_back(&folder.seen(), &mut self.file)
    }
}

impl<F: FileExt> SeenFile<F> {
    /// Makes a file with these packets, numbered from `span.oldest`; `put` makes one of this content.
    ///
    /// # Errors
    /// What `put` says.
    pub fn create_with<E>(
        writer: Writer,
        capacity: u32,
        span: Span,
        packets: impl IntoIterator<Item = Record>,
        put: impl FnOnce(&[u8]) -> Result<F, E>,
    ) -> Result<Self, E> {
        let header =
            Header { writer, capacity: u64::from(capacity).max(1), base: span.oldest, span };
        let mut content = header.to_bytes().to_vec();
        for (number, packet) in (span.oldest..).zip(packets) {
            content.extend_from_slice(&encode(number, &packet));
        }
        Ok(Self { file: put(&content)?, header })
    }

    /// Writes packets behind the others: one write of records (two where the ring wraps), one of the
    /// header. `span` is what is remembered with them.
    ///
    /// # Errors
    /// If they could not be written. None of them counts then, whatever stands in the file.
    pub fn append(&mut self, packets: &[Record], span: Span) -> io::Result<()> {
        let count = packets.len() as u64;
        let first = span.next - count;
        let mut header = Header { span, ..self.header };
        if span.oldest == first {
            header.base = first;
        }
        // Records about to be overwritten must not be counted by the header that a crash would leave.
        if header.base != self.header.base
            || span.next - self.header.span.oldest > self.header.capacity
        {
            self.write_header(Header { span: Span { next: first, ..span }, ..header })?;
        }
        let until_wrap = header.capacity - (first - header.base) % header.capacity;
        let split = packets.len().min(usize::try_from(until_wrap).unwrap_or(usize::MAX));
        let (before_wrap, after_wrap) = packets.split_at(split);
        self.write_records(&header, first, before_wrap)?;
        self.write_records(&header, first + split as u64, after_wrap)?;
        self.write_header(header)
    }

    fn write_records(&self, header: &Header, first: u64, packets: &[Record]) -> io::Result<()> {
        if packets.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> =
            (first..).zip(packets).flat_map(|(number, packet)| encode(number, packet)).collect();
        self.file.write_all_at(&bytes, header.offset(first))
    }

    fn write_header(&mut self, header: Header) -> io::Result<()> {
        self.file.write_all_at(&header.to_bytes(), 0)?;
        self.header = header;
        Ok(())
    }
}
