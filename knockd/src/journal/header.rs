//! The header of the file of accepted packets.
//!
//! # Security considerations
//! - It lies in one sector of the disk, which is written as a whole or not at all, and ends with a checksum.
//! - The header of an earlier layout is read, and never taken for more than it says: it names no ceiling and no
//!   orderly end, and the start of what may be lost where this one names the end.

use common::Timestamp;

use crate::gate::{clock::Uptime, replay::Floor};

use super::{
    BootId, DaemonId, Writer,
    codec::{Decoder, Encoder},
    seen::{RECORD_LEN, Span},
};

const MAGIC: &[u8; 16] = b"knockd seen v2\0\0";
const MAGIC_V1: &[u8; 16] = b"knockd seen v1\0\0";

/// Length in bytes.
pub(super) const HEADER_LEN: usize = 128;

/// Which layout a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Without a ceiling; the floor's uptime is when packets were lost, and not up to which stamp.
    V1,
    /// As files are written.
    V2,
}

/// Whether the daemon that wrote the file has ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It runs, or ran until something ended it.
    Open,
    /// It has, and everything was on the disk before it said so.
    Clean,
}

/// What stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) layout: Layout,
    pub(super) writer: Writer,
    pub(super) capacity: u64,
    /// Number of the packet in the ring's first place.
    pub(super) base: u64,
    pub(super) span: Span,
    /// No packet stamped later was accepted by the time that this was synced.
    pub(super) ceiling: Option<Timestamp>,
    pub(super) end: End,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let Span { oldest, next, floor: Floor { forgotten, lost_through }, floor_utc } = self.span;
        Encoder::new()
            .put(MAGIC)
            .put(&self.writer.boot.0)
            .put(&self.writer.daemon.0)
            .put(&self.capacity.to_be_bytes())
            .put(&self.base.to_be_bytes())
            .put(&oldest.to_be_bytes())
            .put(&next.to_be_bytes())
            .put(&optional(forgotten.map(Timestamp::as_millis)))
            .put(&optional(lost_through.map(Uptime::as_millis)))
            .put(&optional(floor_utc.map(Timestamp::as_millis)))
            .put(&optional(self.ceiling.map(Timestamp::as_millis)))
            .put(&[u8::from(self.end == End::Clean)])
            .finish()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes)?;
        let layout = match decoder.take::<16>()? {
            magic if magic == *MAGIC => Layout::V2,
            magic if magic == *MAGIC_V1 => Layout::V1,
            _ => return None,
        };
        let writer = Writer { boot: BootId(decoder.take()?), daemon: DaemonId(decoder.take()?) };
        let (capacity, base) = (decoder.take_u64()?, decoder.take_u64()?);
        let (oldest, next) = (decoder.take_u64()?, decoder.take_u64()?);
        let mut stamp = || Some(take_optional(&mut decoder)?.map(Timestamp::from_millis));
        let (forgotten, lost_through) = (stamp()?, stamp()?);
        // What an earlier layout left at zero reads as missing.
        let (floor_utc, ceiling) = (stamp()?, stamp()?);
        let [end] = decoder.take()?;
        let end = if end == 1 { End::Clean } else { End::Open };
        let lost_through = lost_through.map(|lost| Uptime::from_millis(lost.as_millis()));
        let floor = Floor { forgotten, lost_through };
        // A capacity is a u32: with a larger one the places would be beyond any file.
        let is_sound = (1..=u64::from(u32::MAX)).contains(&capacity)
            && base <= oldest
            && oldest <= next
            && next - oldest <= capacity;
        let span = Span { oldest, next, floor, floor_utc };
        is_sound.then_some(Self { layout, writer, capacity, base, span, ceiling, end })
    }

    /// Where a packet's record stands in the file.
    pub(super) const fn offset(&self, number: u64) -> u64 {
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
