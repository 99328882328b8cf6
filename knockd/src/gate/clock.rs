//! The two clocks that decisions are made by, as arguments: nothing in the gate reads a clock.
//!
//! # Security considerations
//! Packets are judged by the clock on the wall, which anybody with the right to set it can step.
//! Grants run by the uptime, as the kernel's set timeouts do, so that no step of the wall clock makes
//! one longer or shorter. What else depends on the clock on the wall is told of a step by [`StepDetector`].

use std::{ops::Add, time::Duration};

use common::Timestamp;

/// Time since boot without time asleep (CLOCK_MONOTONIC), in milliseconds: what the kernel's set
/// timeouts run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uptime(u64);

impl Uptime {
    /// An uptime of this many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The milliseconds since boot.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long it is from `earlier` to here; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// One instant, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The clock on the wall, which timestamps are compared with.
    pub utc: Timestamp,
    /// The clock that grants run by.
    pub uptime: Uptime,
}

impl Now {
    /// When by the clock on the wall an uptime will be (or was) reached, if nobody steps that clock.
    #[must_use]
    pub fn utc_of(&self, uptime: Uptime) -> Timestamp {
        let (here, there) = (self.uptime.as_millis(), uptime.as_millis());
        Timestamp::from_millis(self.utc.as_millis().saturating_add(there).saturating_sub(here))
    }
}

/// That the clock on the wall was set, and not merely went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ClockStep {
    /// By how many milliseconds: ahead, or (below zero) back.
    pub by_ms: i64,
}

/// Tells steps of the clock on the wall by the uptime, which nobody can set.
///
/// The two clocks are slewed alike (adjtimex(2)), so that what lies between them changes only when the clock is
/// set, or when the host was asleep: the uptime stands still then, and it looks like a step ahead, with the
/// same consequences.
#[derive(Debug)]
pub struct StepDetector {
    /// When the last step was seen, or the first look was taken: small changes add up from there.
    reference: Now,
}

impl StepDetector {
    /// What is less than this isn't told: a leap second, and the time between the readings of the two clocks.
    pub const TOLERANCE: Duration = Duration::from_secs(1);

    /// Tells of steps from now on.
    #[must_use]
    pub const fn new(now: Now) -> Self {
        Self { reference: now }
    }

    /// By how much the clock was set since the last step that was told, if by more than
    /// [`StepDetector::TOLERANCE`]. Tells each step once.
    pub fn look(&mut self, now: Now) -> Option<ClockStep> {
        let (expected, found) =
            (self.reference.utc_of(now.uptime).as_millis(), now.utc.as_millis());
        let distance = found.abs_diff(expected);
        if u128::from(distance) <= Self::TOLERANCE.as_millis() {
            return None;
        }
        self.reference = now;
        let by_ms = i64::try_from(distance).unwrap_or(i64::MAX);
        Some(ClockStep { by_ms: if found < expected { -by_ms } else { by_ms } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(utc_ms: u64, uptime_ms: u64) -> Now {
        Now { utc: Timestamp::from_millis(utc_ms), uptime: Uptime::from_millis(uptime_ms) }
    }

    #[test]
    fn a_clock_that_merely_goes_on_has_not_stepped() {
        let mut detector = StepDetector::new(at(1_000_000, 5_000));
        for passed in [0, 1, 1_000, 86_400_000, 400 * 86_400_000] {
            assert_eq!(detector.look(at(1_000_000 + passed, 5_000 + passed)), None, "{passed}");
        }
    }

    #[test]
    fn each_step_is_told_once_with_its_direction_and_length() {
        let mut detector = StepDetector::new(at(10_000_000, 5_000));
        assert_eq!(detector.look(at(13_601_000, 6_000)), Some(ClockStep { by_ms: 3_600_000 }));
        assert_eq!(detector.look(at(13_602_000, 7_000)), None);
        assert_eq!(detector.look(at(3_000, 8_000)), Some(ClockStep { by_ms: -13_600_000 }));
        assert_eq!(detector.look(at(4_000, 9_000)), None);
    }

    #[test]
    fn what_is_within_the_tolerance_is_not_told_and_adds_up() {
        let mut detector = StepDetector::new(at(10_000_000, 5_000));
        assert_eq!(detector.look(at(10_001_000, 5_000)), None);
        assert_eq!(detector.look(at(9_999_000, 5_000)), None);
        assert_eq!(detector.look(at(10_000_900, 5_000)), None);
        assert_eq!(detector.look(at(10_001_001, 5_000)), Some(ClockStep { by_ms: 1_001 }));
    }

    #[test]
    fn no_reading_whatever_makes_it_panic() {
        let extremes = [0, 1, u64::MAX - 1, u64::MAX];
        for (first, second) in extremes.iter().flat_map(|a| extremes.map(|b| (*a, b))) {
            let mut detector = StepDetector::new(at(first, second));
            for third in extremes {
                let _ = detector.look(at(third, second));
                let _ = detector.look(at(second, third));
            }
        }
    }
}
