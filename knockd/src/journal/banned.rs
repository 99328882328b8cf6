//! The file of bans: they survive a restart of the daemon, and a reboot.
//!
//! A place for each source, as `places` keeps them. A ban's end stands there by both clocks: within
//! a boot the uptime counts, which nobody can step; after a reboot the clock on the wall, and then no ban
//! lasts longer than it was made for.

use std::{
    collections::HashMap, fs::File, io, net::IpAddr, os::unix::fs::FileExt, path::Path,
    time::Duration,
};

use common::Timestamp;

use crate::gate::{
    bans::{Ban, BanKind, BanReason},
    clock::{Now, Uptime},
    source::Source,
};

use super::{
    BootId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder, copy_text, text},
    places::{self, PLACE_LEN, Places},
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "bans";

const MAGIC: &[u8; 16] = b"knockd bans   v1";

/// What an earlier run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The bans that still hold.
    Bans(Vec<(Source, Ban)>),
    /// There is no file.
    None,
    /// The file isn't as it was written: the bans in it are lost.
    Damaged,
}

/// Reads the bans that still hold now.
///
/// # Errors
/// If there is a file and it can't be read at all.
pub fn load(path: &Path, boot: BootId, now: Now) -> Result<Found, StateError> {
    Ok(places::read(path)?.map_or(Found::None, |bytes| parse(&bytes, boot, now)))
}

/// Why each source is banned that the file has a place for, whether its ban still holds or not: for who only
/// looks, and knows from the kernel who is banned.
///
/// # Errors
/// If there is a file and it can't be read at all.
pub fn reasons(path: &Path) -> Result<HashMap<Source, BanReason>, StateError> {
    let bytes = places::read(path)?.unwrap_or_default();
    let places = places::parse(&bytes, MAGIC).map(|(_, places)| places);
    let stored = places.into_iter().flatten().filter_map(Stored::from_bytes);
    Ok(stored.map(|Stored { source, ban, .. }| (source, ban.reason)).collect())
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8], boot: BootId, now: Now) -> Found {
    let Some((writer, places)) = places::parse(bytes, MAGIC) else { return Found::Damaged };
    let bans = places.filter_map(|place| {
        let Stored { source, ban, until_utc } = Stored::from_bytes(place)?;
        let left = match writer.boot == boot {
            true => ban.until.since(now.uptime),
            false => {
                let left = until_utc.as_millis().saturating_sub(now.utc.as_millis());
                Duration::from_millis(left).min(ban.length)
            }
        };
        let until = now.uptime + left;
        (!left.is_zero()).then_some((source, Ban { until, ..ban }))
    });
    Found::Bans(bans.collect())
}

/// A ban as the file holds it.
struct Stored {
    source: Source,
    ban: Ban,
    until_utc: Timestamp,
}

impl Stored {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes)?;
        let until = Uptime::from_millis(decoder.take_u64()?);
        let until_utc = Timestamp::from_millis(decoder.take_u64()?);
        let length = Duration::from_millis(decoder.take_u64()?);
        let source = Source::from_first(IpAddr::from(decoder.take::<16>()?));
        let kind = match decoder.take::<1>()? {
            [1] => BanKind::Failures,
            [2] => BanKind::Admin,
            _ => return None,
        };
        let reason = text(&decoder.take::<{ BanReason::MAX_LEN }>()?)?.parse().ok()?;
        Some(Self { source, ban: Ban { kind, until, length, reason }, until_utc })
    }
}

fn to_bytes(source: Source, ban: &Ban, now: Now) -> [u8; PLACE_LEN] {
    let mut reason = [0; BanReason::MAX_LEN];
    copy_text(&mut reason, ban.reason.as_str());
    let address = match source.first() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let kind = match ban.kind {
        BanKind::Failures => 1,
        BanKind::Admin => 2,
    };
    let length = u64::try_from(ban.length.as_millis()).unwrap_or(u64::MAX);
    Encoder::new()
        .put(&ban.until.as_millis().to_be_bytes())
        .put(&now.utc_of(ban.until).as_millis().to_be_bytes())
        .put(&length.to_be_bytes())
        .put(&address)
        .put(&[kind])
        .put(&reason)
        .finish()
}

/// The file, open for changes.
#[derive(Debug)]
pub struct BannedFile<F = File>(Places<Source, F>);

impl<D: StateFile> BannedFile<D> {
    /// Puts a new file with these bans in the old one's place.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create<'a>(
        folder: &StateFolder<D>,
        writer: Writer,
        bans: impl IntoIterator<Item = (&'a Source, &'a Ban)>,
        now: Now,
    ) -> Result<Self, StateError> {
        Self::create_with(writer, bans, now, |content| folder.replace(&folder.banned(), content))
    }

    /// Makes sure that what was put survives a loss of power.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    /// Puts the file back if somebody has removed it, or put another in its place. Whether it had to be.
    ///
    /// # Errors
    /// If it can't be: what is written from then on would not be found by a restart.
    pub fn put_back(&mut self, folder: &StateFolder<D>) -> Result<bool, StateError> {
        self.0.put_back(folder, &folder.banned())
    }
}

impl<F: FileExt> BannedFile<F> {
    /// Writes what could not be written before, up to the first failure.
    ///
    /// # Errors
    /// What the disk says; the rest is still to be written.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.0.catch_up()
    }

    /// Makes a file with these bans; `put` makes one of this content.
    ///
    /// # Errors
    /// What `put` says.
    pub fn create_with<'a, E>(
        writer: Writer,
        bans: impl IntoIterator<Item = (&'a Source, &'a Ban)>,
        now: Now,
        put: impl FnOnce(&[u8]) -> Result<F, E>,
    ) -> Result<Self, E> {
        let bans = bans.into_iter().map(|(source, ban)| (*source, to_bytes(*source, ban, now)));
        Places::create(MAGIC, writer, bans, put).map(Self)
    }

    /// Writes a source's ban down, or that it has none.
    ///
    /// # Errors
    /// If it could not be written: until [`Self::catch_up`] has, a restart of the daemon doesn't know of it.
    pub fn put(&mut self, source: Source, ban: Option<&Ban>, now: Now) -> io::Result<()> {
        match ban {
            Some(ban) => self.0.write(source, &to_bytes(source, ban, now)),
            // Wiped even when its time is over: by another clock, after a reboot, it may not be.
            None => self.0.strike_out(&source),
        }
    }
}
