//! The ceiling on stamps: what is on the disk says that no packet stamped later was accepted.
//!
//! # Security considerations
//! - After a loss of power nobody knows which packets were accepted since the last sync. All of them were stamped at or
//!   below the ceiling that was on the disk before they had any effect: nothing stamped so is accepted again,
//!   whatever the clock shows at the start, and whichever skew is allowed then.
//! - It is raised ahead, so that hardly a packet waits for the disk, and no further than [`Ceiling::AHEAD`] beyond a
//!   packet that was accepted and the time that has passed since by the uptime: a clock that is ahead raises nothing
//!   by itself, and so shuts nobody out after it was set right.
//! - A packet beyond it, of a device whose clock is ahead or the first one after a rest, has no effect until a higher
//!   ceiling is on the disk.

use std::time::Duration;

use common::Timestamp;

use super::clock::{Now, Uptime};

/// The ceiling, and where it ought to be.
#[derive(Debug, Default)]
pub struct Ceiling {
    /// What is on the disk.
    synced: Option<Timestamp>,
    /// What the disk was asked to hold, and hasn't confirmed.
    asked: Option<Timestamp>,
    /// The newest stamp accepted.
    newest: Option<Timestamp>,
    /// What the clock showed when a packet was accepted, and not more than the packet did.
    reference: Option<Now>,
    /// When a packet was accepted last.
    last: Option<Uptime>,
    /// When the disk refused last.
    refused: Option<Uptime>,
}

impl Ceiling {
    /// How far it is raised ahead: also how long after a loss of power a fresh packet may be refused.
    pub const AHEAD: Duration = Duration::from_secs(15);
    /// It is raised again when it is no further ahead than this.
    const LEAST: Duration = Duration::from_secs(10);
    /// For how long after a packet it is kept ahead. A host where nobody knocks writes nothing.
    const KEPT: Duration = Duration::from_mins(10);
    /// How old what is known of the clock may be while packets come.
    const REFERENCE: Duration = Duration::from_mins(1);
    /// How long after the disk has refused it is asked again.
    const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

    /// With what is on the disk.
    #[must_use]
    pub fn new(synced: Option<Timestamp>) -> Self {
        Self { synced, asked: synced, ..Self::default() }
    }

    /// Whether a packet with this stamp may have its effect now.
    #[must_use]
    pub fn covers(&self, stamp: Timestamp) -> bool {
        Some(stamp) <= self.synced
    }

    /// A packet is accepted.
    pub fn accept(&mut self, stamp: Timestamp, now: Now) {
        self.newest = self.newest.max(Some(stamp));
        self.last = Some(now.uptime);
        let seen = stamp.min(now.utc);
        let is_older = |known: &Now| {
            known.utc_of(now.uptime) <= seen || known.uptime + Self::REFERENCE <= now.uptime
        };
        if self.reference.as_ref().is_none_or(is_older) {
            self.reference = Some(Now { utc: seen, uptime: now.uptime });
        }
    }

    /// What the disk is to be asked to hold now, if anything: at once where a packet waits for it, and else in time.
    /// It counts as asked from here on.
    pub fn raise(&mut self, now: Uptime) -> Option<Timestamp> {
        let to = self.target(now)?;
        let waits =
            self.newest.is_some_and(|newest| !self.covers(newest) && self.asked < Some(newest));
        if !waits && self.due_in(now).is_none_or(|due| due > Duration::ZERO) {
            return None;
        }
        self.asked = Some(to);
        Some(to)
    }

    /// In how long [`Self::raise`] has something to ask for; `None` if nothing is to be done until a packet comes.
    #[must_use]
    pub fn due_in(&self, now: Uptime) -> Option<Duration> {
        let reference = self.reference?;
        if self.asked > self.synced || now.since(self.last?) > Self::KEPT {
            return None;
        }
        let ahead = self.synced.map_or(0, |synced| {
            synced.as_millis().saturating_sub(reference.utc_of(now).as_millis())
        });
        let ahead = Duration::from_millis(ahead).saturating_sub(Self::LEAST);
        let pause = self
            .refused
            .map_or(Duration::ZERO, |refused| (refused + Self::AFTER_A_FAILURE).since(now));
        Some(ahead.max(pause))
    }

    /// The disk holds this.
    pub fn confirm(&mut self, synced: Timestamp) {
        self.synced = self.synced.max(Some(synced));
        self.refused = None;
    }

    /// The disk doesn't take what it was asked for.
    pub const fn refuse(&mut self, now: Uptime) {
        self.asked = self.synced;
        self.refused = Some(now);
    }

    fn target(&self, now: Uptime) -> Option<Timestamp> {
        let by_clock = self.reference?.utc_of(now).as_millis();
        let ahead = u64::try_from(Self::AHEAD.as_millis()).unwrap_or(u64::MAX);
        let ahead = Timestamp::from_millis(by_clock.saturating_add(ahead));
        self.newest.max(Some(ahead)).max(self.synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_790_000_000_000;

    fn at(ms: u64) -> Now {
        Now { utc: stamp(ms), uptime: Uptime::from_millis(50_000 + ms) }
    }

    fn stamp(ms: u64) -> Timestamp {
        Timestamp::from_millis(T + ms)
    }

    #[test]
    fn the_first_packet_waits_for_the_disk_and_those_that_follow_do_not() {
        let mut ceiling = Ceiling::default();
        assert_eq!(ceiling.raise(at(0).uptime), None);
        ceiling.accept(stamp(0), at(0));
        assert!(!ceiling.covers(stamp(0)));
        let to = ceiling.raise(at(0).uptime).unwrap();
        assert_eq!(to, stamp(15_000));
        assert_eq!(ceiling.raise(at(1).uptime), None, "the disk is asked once");
        ceiling.confirm(to);
        for ms in (1_000..120_000).step_by(1_000) {
            if let Some(to) = ceiling.raise(at(ms).uptime) {
                ceiling.confirm(to);
            }
            assert!(ceiling.covers(stamp(ms)), "{ms}");
            assert!(!ceiling.covers(stamp(ms + 15_001)), "{ms}");
            ceiling.accept(stamp(ms), at(ms));
        }
    }

    #[test]
    fn a_packet_that_is_ahead_raises_it_to_its_stamp_and_the_disk_is_asked_again_at_once() {
        let mut ceiling = Ceiling::default();
        ceiling.accept(stamp(0), at(0));
        let first = ceiling.raise(at(0).uptime).unwrap();
        ceiling.accept(stamp(20_000), at(1));
        assert_eq!(ceiling.raise(at(1).uptime), Some(stamp(20_000)));
        ceiling.confirm(first);
        assert!(ceiling.covers(stamp(0)) && !ceiling.covers(stamp(20_000)));
    }

    #[test]
    fn a_clock_that_is_ahead_raises_nothing_that_no_packet_has() {
        let mut ceiling = Ceiling::default();
        ceiling.accept(stamp(0), at(0));
        let to = ceiling.raise(at(0).uptime).unwrap();
        ceiling.confirm(to);
        // The clock shows a day later: what is due goes by the uptime.
        let later = Now { utc: stamp(86_400_000), ..at(6_000) };
        assert_eq!(ceiling.raise(later.uptime), Some(stamp(21_000)));
    }

    #[test]
    fn where_nobody_knocks_nothing_is_written() {
        let mut ceiling = Ceiling::default();
        ceiling.accept(stamp(0), at(0));
        let (mut raised, mut ms) = (0, 0);
        while let Some(due) = ceiling.due_in(at(ms).uptime) {
            ms += u64::try_from(due.as_millis()).unwrap();
            if let Some(to) = ceiling.raise(at(ms).uptime) {
                raised += 1;
                ceiling.confirm(to);
            }
        }
        assert!((600_000..=606_000).contains(&ms), "{ms}");
        assert!(raised <= 122, "{raised}");
    }

    #[test]
    fn a_disk_that_refuses_is_asked_again_a_second_later() {
        let mut ceiling = Ceiling::default();
        ceiling.accept(stamp(0), at(0));
        assert!(ceiling.raise(at(0).uptime).is_some());
        ceiling.refuse(at(10).uptime);
        assert!(!ceiling.covers(stamp(0)));
        assert_eq!(ceiling.due_in(at(10).uptime), Some(Duration::from_secs(1)));
        assert!(ceiling.raise(at(1_010).uptime).is_some());
    }
}
