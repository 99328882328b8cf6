//! The two clocks that decisions are made by, as arguments: nothing in the gate reads a clock.
//!
//! # Security considerations
//! Packets are judged by the clock on the wall, which anybody with the right to set it can step.
//! Grants run by the uptime, as the kernel's set timeouts do, so that no step of the wall clock makes
//! one longer or shorter.

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
