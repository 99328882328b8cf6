//! The file of accepted packets. PROTOCOL.md, "What is remembered, and what if it can't be".
//!
//! A header and a ring of fixed-size records. Records are written first, then the header that counts
//! them: what the header doesn't count was never acted on, so that a torn end is no damage, and a file
//! that is cut anywhere holds fewer records than its header counts. The ring has as many places as
//! packets can be remembered (`replay.capacity`), and starts anew whenever nothing is: the file cleans
//! itself, and never grows beyond 64 bytes for each.
//!
//! # Security considerations
//! - Records and header are not synced: they survive the daemon, and not a loss of power. What does is the header's
//!   ceiling, synced before a packet beyond it has any effect ([`crate::gate::ceiling`]), and, after an orderly
//!   end, everything. A file of an earlier boot counts as whole only if its header says that it was ended in order.
//! - That mark is gone from the disk before the next daemon accepts anything.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    time::Duration,
};

use common::{Mac, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::{
    gate::{clock::Now, policy::ClockSkew, replay::Floor},
    plain,
};

pub use super::header::{End, Layout};
use super::{
    BootId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder},
    header::{HEADER_LEN, Header},
    read_all,
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "seen";

/// Largest file that is read, in bytes: that of the largest `replay.capacity` is half of it.
pub const FILE_MAX: u64 = 2 << 30;

pub(super) const RECORD_LEN: usize = 64;

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
    /// The same as a stamp, by the clock as it is: what is left of the floor after a reboot.
    pub floor_utc: Option<Timestamp>,
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
    /// That floor as a stamp, by the clock as it was when it was written.
    pub floor_utc: Option<Timestamp>,
    /// No packet stamped later was accepted.
    pub ceiling: Option<Timestamp>,
    /// Which layout it has; `None` if it has no header.
    pub layout: Option<Layout>,
}

impl Found {
    const fn nothing(condition: Condition) -> Self {
        let floor = Floor { forgotten: None, lost_through: None };
        Self { condition, packets: Vec::new(), floor, floor_utc: None, ceiling: None, layout: None }
    }

    /// What is to keep out packets that may have been accepted and are not among these. `skew` is the one that was
    /// allowed then, for all that is known.
    #[must_use]
    pub fn floor(&self, now: Now, skew: ClockSkew) -> Floor {
        let forgotten = self.floor.forgotten.max(self.floor_utc);
        let after_a_boot = Floor { forgotten, lost_through: None };
        let lost = || after_a_boot.and(Floor::lost(now, skew));
        match (self.condition, self.layout) {
            (Condition::Intact, Some(Layout::V1)) => {
                let end = |start| start + Duration::from_millis(skew.as_millis());
                Floor { lost_through: self.floor.lost_through.map(end), ..self.floor }
            }
            (Condition::Intact, _) => self.floor,
            (Condition::First, _) => Floor::default(),
            (Condition::Stopped, _) => after_a_boot,
            (Condition::EarlierBoot, Some(Layout::V2)) => {
                Floor { forgotten: forgotten.max(self.ceiling), lost_through: None }
            }
            (Condition::Missing | Condition::EarlierBoot | Condition::Damaged(_), _) => lost(),
        }
    }
}

/// Whether the file can be relied on to hold every packet that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can: it is of this boot.
    Intact,
    /// It can: it is of an earlier boot, and its daemon has ended in order.
    Stopped,
    /// There is none, and there never was one.
    First,
    /// There is none, and there may have been one.
    Missing,
    /// It is of an earlier boot, which something has ended: what was accepted last may be missing.
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
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::nothing(folder.absence())),
        Err(error) => Err(StateError::Io { path, error }),
    }
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8], boot: BootId) -> Found {
    let Some(header) = bytes.get(..HEADER_LEN).and_then(Header::from_bytes) else {
        return Found::nothing(Condition::Damaged(Damage::Header));
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
    let is_of_this_boot = header.writer.boot == boot;
    let condition = match (is_of_this_boot, header.end) {
        // What the disk holds of the records says nothing then: the ceiling does.
        (false, End::Open) => Condition::EarlierBoot,
        _ if missing > 0 => Condition::Damaged(Damage::Records { missing, counted }),
        (true, _) => Condition::Intact,
        (false, End::Clean) => Condition::Stopped,
    };
    let Span { floor, floor_utc, .. } = header.span;
    let layout = Some(header.layout);
    Found { condition, packets, floor, floor_utc, ceiling: header.ceiling, layout }
}

/// The file, open for more packets.
#[derive(Debug)]
pub struct SeenFile<F = File> {
    file: F,
    header: Header,
    /// How many places there are to be from when nothing is remembered.
    wanted: u64,
}

impl<D: StateFile> SeenFile<D> {
    /// Puts a new file with these packets, numbered from `span.oldest`, in the old one's place, so that it survives a
    /// loss of power. `ceiling` is what the old one said.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(
        folder: &StateFolder<D>,
        writer: Writer,
        capacity: u32,
        span: Span,
        ceiling: Option<Timestamp>,
        packets: impl IntoIterator<Item = Record>,
    ) -> Result<Self, StateError> {
        let put = |content: &[u8]| folder.replace_for_good(&folder.seen(), content);
        Self::create_with(writer, capacity, span, ceiling, packets, put)
    }

    /// Makes sure that what was written survives a loss of power.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Raises the ceiling: it survives a loss of power when this returns.
    ///
    /// # Errors
    /// What the disk says: then the ceiling is as it was, for all that anybody may rely on.
    pub fn raise_ceiling(&mut self, to: Timestamp) -> io::Result<()> {
        let ceiling = self.header.ceiling.max(Some(to));
        self.write_header(Header { ceiling, ..self.header })?;
        self.file.sync()
    }

    /// Says that the daemon ends in order, once all that it has written is on the disk. Nothing must be accepted
    /// after it.
    ///
    /// # Errors
    /// What the disk says: then the file is one of a daemon that something has ended.
    pub fn close(&mut self, span: Span) -> io::Result<()> {
        self.write_header(Header { span, ..self.header })?;
        self.file.sync()?;
        self.write_header(Header { end: End::Clean, ..self.header })?;
        self.file.sync()
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
        let Header { writer, span, ceiling, .. } = self.header;
        let content = read_all(&self.file).map_err(StateError::io(&folder.seen()))?;
        let found = parse(&content, writer.boot);
        if found.condition != Condition::Intact {
            let error = io::Error::new(ErrorKind::InvalidData, "it isn't as it was written");
            return Err(StateError::Io { path: folder.seen(), error });
        }
        *self = Self::create(folder, writer, capacity, span, ceiling, found.packets)?;
        Ok(())
    }

    /// Puts the file back if somebody has removed it, or put another in its place. Whether it had to be.
    ///
    /// # Errors
    /// If it can't be: what is written from then on would not be found by a restart.
    pub fn put_back(&mut self, folder: &StateFolder<D>) -> Result<bool, StateError> {
        folder.put_back_for_good(&folder.seen(), &mut self.file)
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
        ceiling: Option<Timestamp>,
        packets: impl IntoIterator<Item = Record>,
        put: impl FnOnce(&[u8]) -> Result<F, E>,
    ) -> Result<Self, E> {
        let header = Header {
            layout: Layout::V2,
            writer,
            capacity: u64::from(capacity).max(1),
            base: span.oldest,
            span,
            ceiling,
            end: End::Open,
        };
        let mut content = header.to_bytes().to_vec();
        for (number, packet) in (span.oldest..).zip(packets) {
            content.extend_from_slice(&encode(number, &packet));
        }
        Ok(Self { file: put(&content)?, header, wanted: header.capacity })
    }

    /// Writes packets behind the others: one write of records (two where the ring wraps), one of the
    /// header. `span` is what is remembered with them.
    ///
    /// # Errors
    /// If they could not be written, or there is no room for all that is remembered. None of them counts then,
    /// whatever stands in the file.
    pub fn append(&mut self, packets: &[Record], span: Span) -> io::Result<()> {
        let count = packets.len() as u64;
        let first = span.next - count;
        let mut header = Header { span, ..self.header };
        if span.oldest == first {
            (header.base, header.capacity) = (first, header.capacity.max(self.wanted));
        }
        if span.next - span.oldest > header.capacity {
            return Err(io::Error::new(ErrorKind::StorageFull, "the file has too few places"));
        }
        // Records about to be overwritten must not be counted by the header that a crash would leave.
        if header.base != self.header.base
            || header.capacity != self.header.capacity
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

    /// No packet stamped later was accepted.
    #[must_use]
    pub const fn ceiling(&self) -> Option<Timestamp> {
        self.header.ceiling
    }

    /// Makes room for this many packets, if there is less: `put` makes a larger file of what this one holds, as it is.
    ///
    /// # Errors
    /// If it can't be read or written; it is as it was then.
    pub fn enlarge(
        &mut self,
        capacity: u32,
        put: impl FnOnce(&[u8]) -> io::Result<F>,
    ) -> io::Result<()> {
        let capacity = u64::from(capacity);
        if capacity <= self.header.capacity {
            return Ok(());
        }
        let content = read_all(&self.file)?;
        let Span { oldest, next, .. } = self.header.span;
        let header = Header { capacity, base: oldest, ..self.header };
        let mut larger = header.to_bytes().to_vec();
        for number in oldest..next {
            let start = usize::try_from(self.header.offset(number)).map_err(io::Error::other)?;
            let record = content.get(start..).and_then(|rest| rest.get(..RECORD_LEN));
            larger.extend_from_slice(record.ok_or(ErrorKind::UnexpectedEof)?);
        }
        self.file = put(&larger)?;
        (self.header, self.wanted) = (header, capacity);
        Ok(())
    }

    /// Makes room for this many packets from when nothing is remembered: nothing has to be moved then.
    pub const fn make_room_when_empty(&mut self, capacity: u32) {
        let capacity = capacity as u64;
        if self.wanted < capacity {
            self.wanted = capacity;
        }
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
