//! The one place that reads the clocks, and hears of it when somebody sets one.

pub mod watch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::gate::clock::{Now, Uptime};

/// This instant, by both clocks.
///
/// A wall clock before 1970 reads as 1970: every packet is stale then, as it ought to be.
#[must_use]
pub fn now() -> Now {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // CLOCK_MONOTONIC is there on every Linux (clock_gettime(2)): the call has no way to fail.
    let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Now { utc: Timestamp::from_millis(millis(utc)), uptime: Uptime::from_millis(millis(uptime)) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
