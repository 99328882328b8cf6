//! Counts the failures of each source by the generic cell rate algorithm: so many at once, refilled evenly.
//!
//! # Security considerations
//! - Sources are forgeable, so that anybody can fill this memory. It holds [`Strikes::SOURCES`] sources at
//!   most, in two generations: when the younger one is full, the older one is forgotten. Whoever wants his
//!   own failures forgotten must let those of half as many other sources pass in between, and is
//!   then no faster than the kernel's junk budget divided by that.
//! - Time is the uptime: no step of the clock on the wall refills anything.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware, nanos::Nanos, state::StateStore,
};

use super::{clock::Uptime, source::Source};

/// Whether a source has failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a source that has failed too often is to be banned"]
pub enum Strike {
    /// Not yet.
    Counted,
    /// It has.
    TooMany,
}

/// How often each source has failed of late.
pub struct Strikes {
    limiter: RateLimiter<Source, Generations, TimeOfStrike, NoOpMiddleware<Duration>>,
}

impl Strikes {
    /// The most sources whose failures are remembered.
    pub const SOURCES: usize = 65_536;

    /// Tolerates `failures` at once, which are refilled evenly over `window`.
    #[must_use]
    pub fn new(failures: NonZeroU32, window: Duration) -> Self {
        Self::with(failures, window, Generations::default())
    }

    /// Tolerates so many from here on; what has been counted stays counted.
    pub fn tolerate(&mut self, failures: NonZeroU32, window: Duration) {
        let former = mem::replace(self, Self::new(failures, window));
        *self = Self::with(failures, window, former.limiter.into_state_store());
    }

    fn with(failures: NonZeroU32, window: Duration, counted: Generations) -> Self {
        let refill = (window / failures.get()).max(Duration::from_nanos(1));
        // A period of zero would be none; it is at least a nanosecond.
        let quota = Quota::with_period(refill).unwrap_or(Quota::per_second(failures));
        let limiter =
            RateLimiter::new(quota.allow_burst(failures), counted, TimeOfStrike::default());
        Self { limiter }
    }

    /// Counts a failure of this source.
    pub fn strike(&mut self, source: Source, now: Uptime) -> Strike {
        self.limiter.clock().0.set(now);
        match self.limiter.check_key(&source) {
            Ok(()) => Strike::Counted,
            Err(_) => Strike::TooMany,
        }
    }
}

/// The time of the failure that is being counted.
struct TimeOfStrike(Cell<Uptime>);

impl Default for TimeOfStrike {
    fn default() -> Self {
        Self(Cell::new(Uptime::from_millis(0)))
    }
}

impl Clock for TimeOfStrike {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.get().since(Uptime::from_millis(0))
    }
}

/// What is known of each source: when its failures will all be refilled.
#[derive(Default)]
struct Generations {
    younger: RefCell<HashMap<Source, Nanos>>,
    older: RefCell<HashMap<Source, Nanos>>,
}

impl StateStore for Generations {
    type Key = Source;

    fn measure_and_replace<T, F, E>(&self, source: &Source, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (mut younger, mut older) = (self.younger.borrow_mut(), self.older.borrow_mut());
        let known = younger.get(source).or_else(|| older.get(source)).copied();
        let measured = measure(known);
        // One that has failed too often stays among the young as well.
        let refilled = measured.as_ref().map_or(known, |(_, refilled)| Some(*refilled));
        if let Some(refilled) = refilled {
            older.remove(source);
            younger.insert(*source, refilled);
        }
        if younger.len() >= Strikes::SOURCES / 2 {
            *older = mem::take(&mut younger);
        }
        measured.map(|(outcome, _)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const MINUTE: u64 = 60_000;

    fn strikes() -> Strikes {
        Strikes::new(NonZeroU32::new(5).unwrap(), Duration::from_mins(30))
    }

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn at(millis: u64) -> Uptime {
        Uptime::from_millis(millis)
    }

    fn held(strikes: Strikes) -> usize {
        let Generations { younger, older } = strikes.limiter.into_state_store();
        younger.into_inner().len() + older.into_inner().len()
    }

    #[test]
    fn five_failures_are_tolerated_at_once_and_the_sixth_is_too_many() {
        let mut strikes = strikes();
        for _ in 0..5 {
            assert_eq!(strikes.strike(source(1), at(MINUTE)), Strike::Counted);
        }
        assert_eq!(strikes.strike(source(1), at(MINUTE)), Strike::TooMany);
        assert_eq!(strikes.strike(source(2), at(MINUTE)), Strike::Counted);
    }

    #[test]
    fn failures_are_refilled_evenly_over_the_window() {
        let mut strikes = strikes();
        for _ in 0..5 {
            let _ = strikes.strike(source(1), at(0));
        }
        assert_eq!(strikes.strike(source(1), at(6 * MINUTE - 1)), Strike::TooMany);
        assert_eq!(strikes.strike(source(1), at(6 * MINUTE)), Strike::Counted);
        assert_eq!(strikes.strike(source(1), at(6 * MINUTE)), Strike::TooMany);
        for _ in 0..5 {
            assert_eq!(strikes.strike(source(1), at(60 * MINUTE)), Strike::Counted);
        }
    }

    #[test]
    fn a_device_that_fails_once_in_seven_minutes_is_tolerated_for_ever() {
        let mut strikes = strikes();
        for number in 0..1_000 {
            assert_eq!(strikes.strike(source(1), at(number * 7 * MINUTE)), Strike::Counted);
        }
    }

    #[test]
    fn a_million_forged_sources_leave_no_more_than_the_bound() {
        let mut strikes = strikes();
        for number in 0..1_000_000 {
            let _ = strikes.strike(source(number), at(u64::from(number)));
        }
        assert!(held(strikes) <= Strikes::SOURCES);
    }

    #[test]
    fn a_source_that_goes_on_failing_is_not_forgotten_for_the_forged_ones_between() {
        let mut strikes = strikes();
        let between = u32::try_from(Strikes::SOURCES / 4).unwrap();
        for round in 0..5 {
            assert_eq!(strikes.strike(source(0), at(0)), Strike::Counted);
            for number in 0..between {
                let _ = strikes.strike(source(1 + round * between + number), at(0));
            }
        }
        assert_eq!(strikes.strike(source(0), at(0)), Strike::TooMany);
    }
}
