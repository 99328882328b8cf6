//! The firewall's twin in memory, for tests: doors with an end, and faults on demand.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    time::Duration,
};

use common::Tag;

use super::{BanLeft, Firewall, FirewallError};
use crate::{
    gate::{
        bans::{BanChange, BanKind},
        clock::Uptime,
        grants::{Change, Door},
        source::Source,
    },
    local::{NeverBanned, Role},
};

/// Doors in memory.
#[derive(Debug, Default)]
pub struct MemoryFirewall {
    doors: BTreeMap<Door, Uptime>,
    bans: BTreeMap<(Source, BanKind), Uptime>,
    now: Option<Uptime>,
    tags: HashMap<Tag, Duration>,
    fault: Option<io::ErrorKind>,
    own: NeverBanned,
    few: Option<usize>,
    replaced: usize,
    is_kept: bool,
    doubted: usize,
}

impl MemoryFirewall {
    /// Makes every transaction from now on fail; `None` makes them succeed again.
    pub const fn fail_with(&mut self, fault: Option<io::ErrorKind>) {
        self.fault = fault;
    }

    /// Has more than so many doors, or bans, count as too many to be read.
    pub const fn read_at_most(&mut self, few: usize) {
        self.few = Some(few);
    }

    /// How often all that there was has been replaced.
    #[must_use]
    pub const fn replaced(&self) -> usize {
        self.replaced
    }

    /// Has somebody keep the table, who makes right what is in doubt.
    pub const fn is_kept(&mut self) {
        self.is_kept = true;
    }

    /// How often everything in it was to be made right by whoever keeps it.
    #[must_use]
    pub const fn doubted(&self) -> usize {
        self.doubted
    }

    fn few<T>(&self, all: Vec<T>) -> Option<Vec<T>> {
        self.few.is_none_or(|few| all.len() <= few).then_some(all)
    }

    /// Gives the host these addresses.
    pub fn set_own_addresses(&mut self, own: Vec<IpAddr>) {
        self.own = own.into_iter().map(|address| (address, Role::Own)).collect();
    }

    /// Lets time go on to this uptime.
    pub const fn advance(&mut self, now: Uptime) {
        self.now = Some(now);
    }

    /// The tags that were let past, each with the time that it was given last.
    #[must_use]
    pub const fn tags(&self) -> &HashMap<Tag, Duration> {
        &self.tags
    }

    /// Whether a source is banned at this time, and by whom.
    #[must_use]
    pub fn is_banned(&self, source: Source, kind: BanKind, now: Uptime) -> bool {
        self.bans.get(&(source, kind)).is_some_and(|until| now < *until)
    }

    /// Whether a door is open at this time.
    #[must_use]
    pub fn is_open(&self, door: &Door, now: Uptime) -> bool {
        self.doors.get(door).is_some_and(|until| now < *until)
    }
}

impl Firewall for MemoryFirewall {
    fn apply(&mut self, changes: &[Change], now: Uptime) -> Result<(), FirewallError> {
        if let Some(kind) = self.fault {
            return Err(FirewallError::Refused(kind.into()));
        }
        self.now = Some(now);
        for change in changes {
            match change.until {
                Some(until) => self.doors.insert(change.door, until),
                None => self.doors.remove(&change.door),
            };
        }
        Ok(())
    }

    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError> {
        if let Some(kind) = self.fault {
            return Err(FirewallError::Refused(kind.into()));
        }
        self.now = Some(now);
        for BanChange { source, kind, until } in changes {
            match until {
                Some(until) => self.bans.insert((*source, *kind), *until),
                None => self.bans.remove(&(*source, *kind)),
            };
        }
        Ok(())
    }

    fn bans(&mut self) -> Result<Option<Vec<BanLeft>>, FirewallError> {
        let now = self.now.unwrap_or(Uptime::from_millis(0));
        let live = self.bans.iter().filter(|(_, until)| **until > now);
        let live = live.map(|((source, kind), until)| (*source, *kind, until.since(now)));
        Ok(self.few(live.collect()))
    }

    fn own_addresses(&mut self) -> io::Result<NeverBanned> {
        Ok(self.own.clone())
    }

    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError> {
        if let Some(kind) = self.fault {
            return Err(FirewallError::Refused(kind.into()));
        }
        self.tags.extend(tags.iter().copied());
        self.tags.retain(|_, timeout| !timeout.is_zero());
        Ok(())
    }

    fn doors(&mut self) -> Result<Option<Vec<(Door, Duration)>>, FirewallError> {
        let now = self.now.unwrap_or(Uptime::from_millis(0));
        let open = self.doors.iter().filter(|(_, until)| **until > now);
        Ok(self.few(open.map(|(door, until)| (*door, until.since(now))).collect()))
    }

    fn replace(
        &mut self,
        doors: &[(Door, Duration)],
        bans: &[BanLeft],
    ) -> Result<(), FirewallError> {
        if let Some(kind) = self.fault {
            return Err(FirewallError::Refused(kind.into()));
        }
        let now = self.now.unwrap_or(Uptime::from_millis(0));
        self.doors = doors.iter().map(|(door, left)| (*door, now + *left)).collect();
        let bans = bans.iter().map(|(source, kind, left)| ((*source, *kind), now + *left));
        self.bans = bans.collect();
        self.replaced += 1;
        Ok(())
    }

    fn doubt_everything(&mut self) -> bool {
        self.doubted += usize::from(self.is_kept);
        self.is_kept
    }
}
