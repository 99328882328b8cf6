//! How far each client's clock was off when its last packet was accepted, and when to warn of it.
//!
//! # Security considerations
//! Only accepted packets count: nobody's copies of a device's packets make its clock look wrong. One that somebody
//! held back looks like a clock that is slow.
//!
//! There are never more of them than clients that have knocked: about 50 bytes for each.

use std::{collections::BTreeMap, time::Duration};

use common::Timestamp;

use super::{
    clock::{Now, Uptime},
    directory::ClientId,
    policy::ClockSkew,
};

/// How far a client's clock was off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// Its packet's stamp less the daemon's clock, in milliseconds: negative for a clock that is slow, or a packet
    /// that was long on its way.
    pub difference_ms: i64,
    /// When that was, by the daemon's clock.
    pub seen: Timestamp,
    /// When it was warned of last.
    warned: Option<Uptime>,
}

/// That a client's clock is about to leave the allowed skew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The packet's stamp less the daemon's clock, in milliseconds.
    pub difference_ms: i64,
    /// What is allowed, in milliseconds.
    pub allowed_ms: u64,
}

/// The skews of all clients that have knocked.
#[derive(Debug, Default)]
pub struct Skews(BTreeMap<ClientId, Skew>);

impl Skews {
    /// Between two warnings of one client's clock.
    pub const WARNED_AGAIN: Duration = Duration::from_hours(24);

    /// Takes note of an accepted packet; what is to be told of it, if its clock is off by more than half of what is
    /// allowed and that wasn't told within [`Self::WARNED_AGAIN`].
    pub fn note(
        &mut self,
        client: ClientId,
        stamp: Timestamp,
        now: Now,
        allowed: ClockSkew,
    ) -> Option<Drift> {
        let distance = stamp.as_millis().abs_diff(now.utc.as_millis());
        let magnitude = i64::try_from(distance).unwrap_or(i64::MAX);
        let difference_ms = if stamp < now.utc { -magnitude } else { magnitude };
        let warned = self.0.get(&client).and_then(|skew| skew.warned);
        let is_due = warned.is_none_or(|at| now.uptime.since(at) >= Self::WARNED_AGAIN);
        let drifts = distance > allowed.as_millis() / 2 && is_due;
        let warned = if drifts { Some(now.uptime) } else { warned };
        self.0.insert(client, Skew { difference_ms, seen: now.utc, warned });
        drifts.then_some(Drift { difference_ms, allowed_ms: allowed.as_millis() })
    }

    /// Forgets a client that is gone.
    pub fn forget(&mut self, client: ClientId) {
        self.0.remove(&client);
    }

    /// How far the clock of this client was off.
    #[must_use]
    pub fn of(&self, client: ClientId) -> Option<Skew> {
        self.0.get(&client).copied()
    }

    /// At most `count` of them, from place `from` on, and where to go on if there are more.
    pub fn page(
        &self,
        from: usize,
        count: usize,
    ) -> (impl Iterator<Item = (ClientId, Skew)>, Option<usize>) {
        let end = from.saturating_add(count);
        let page = self.0.iter().skip(from).take(count).map(|(client, skew)| (*client, *skew));
        (page, (end < self.0.len()).then_some(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW_MS: u64 = 30_000;

    fn note(skews: &mut Skews, off_ms: i64, uptime_ms: u64) -> Option<i64> {
        let now = Now {
            utc: Timestamp::from_millis(1_000_000 + uptime_ms),
            uptime: Uptime::from_millis(uptime_ms),
        };
        let stamp = Timestamp::from_millis(now.utc.as_millis().saturating_add_signed(off_ms));
        let allowed = ClockSkew::try_from(Duration::from_millis(SKEW_MS)).unwrap();
        skews.note(ClientId::FIRST, stamp, now, allowed).map(|drift| drift.difference_ms)
    }

    #[test]
    fn a_clock_is_warned_of_beyond_half_of_what_is_allowed_in_either_direction() {
        for (off, warned) in [(15_000, None), (15_001, Some(15_001)), (-15_001, Some(-15_001))] {
            assert_eq!(note(&mut Skews::default(), off, 0), warned);
        }
    }

    #[test]
    fn a_clock_is_warned_of_once_a_day_and_the_last_skew_is_kept() {
        let mut skews = Skews::default();
        let day = u64::try_from(Skews::WARNED_AGAIN.as_millis()).unwrap();
        let told = [0, 1, day - 1, day].map(|at| note(&mut skews, 20_000, at).is_some());
        assert_eq!(told, [true, false, false, true]);
        assert_eq!(note(&mut skews, -7, day), None);
        let (mut page, next) = skews.page(0, 1);
        assert_eq!(page.next().map(|(_, skew)| skew.difference_ms), Some(-7));
        assert_eq!(next, None);
    }
}
