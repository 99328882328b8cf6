//! When to knock: again before the grant runs out, and ever more seldom while it fails. Pure: no clock, and
//! chance is an argument.
//!
//! Devices that start together, or lose their broker together, must not come back together for ever: every time
//! in here is drawn from a range.
//!
//! How long a grant really is, only the server knows: it caps what is asked. So [`Schedule`] believes what was
//! asked, up to an hour; and when the door was shut at a time at which it should have been open, and opened again
//! at the first knock, it believes half of that. It goes back to more when that has held for a while, and takes
//! the longer for that the more often it was wrong.

use std::time::Duration;

/// `max` of `[grant]` in knockd.toml where nothing is set: a longer grant isn't relied on.
const LONGEST_GRANT: Duration = Duration::from_secs(3_600);
/// What is believed at least.
const SHORTEST_GRANT: Duration = Duration::from_secs(1);

/// The pause after the first failure; each next one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Between two signs that the door is open, if anything gives one: a broker's host that was restarted, and has forgotten
/// the grant, is noticed within 20 s, a look that takes its time included.
const SOONEST_SIGN: Duration = Duration::from_secs(10);
const LATEST_SIGN: Duration = Duration::from_secs(15);

/// Renewals that must have held before a longer grant is believed in again, at first and at most.
const TRIALS: u32 = 16;
const MOST_TRIALS: u32 = 4_096;

/// A random number, drawn evenly from all there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(pub(super) u32);

impl Chance {
    /// A time between these two.
    fn between(self, least: Duration, most: Duration) -> Duration {
        let millis = u64::try_from(most.saturating_sub(least).as_millis()).unwrap_or(u64::MAX);
        // A product of two numbers below 2^32: the longest time in here is an hour.
        least + Duration::from_millis(millis.saturating_mul(self.0.into()) / u64::from(u32::MAX))
    }
}

/// The times of one door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    asked: Duration,
    /// How often the grant that is believed in was halved.
    halvings: u32,
    /// Renewals that held since then.
    held: u32,
    /// How many it takes to believe in more.
    needed: u32,
    failures: u32,
    /// What the server has said, where it does.
    told: Option<Duration>,
}

impl Schedule {
    /// For grants of this many seconds.
    pub(super) fn new(asked: u32) -> Self {
        let asked = Duration::from_secs(asked.into()).clamp(SHORTEST_GRANT, LONGEST_GRANT);
        Self { asked, halvings: 0, held: 0, needed: TRIALS, failures: 0, told: None }
    }

    /// How long a grant is believed to be.
    pub(super) fn grant(&self) -> Duration {
        let guessed = self.asked / 2_u32.saturating_pow(self.halvings);
        self.told.unwrap_or(guessed).max(SHORTEST_GRANT)
    }

    /// The server says how long the grant is: nothing needs to be guessed.
    pub(super) fn was_told(&mut self, grant: Duration) {
        self.told = Some(grant.min(LONGEST_GRANT));
    }

    /// When to have a sign of the door again, counted from the last one.
    pub(super) fn sign(chance: Chance) -> Duration {
        chance.between(SOONEST_SIGN, LATEST_SIGN)
    }

    /// When to knock again, counted from the last knock: between a third and nine twentieths of the grant, so
    /// that a second chance comes before its end if this packet is lost.
    pub(super) fn renewal(&self, chance: Chance) -> Duration {
        chance.between(self.grant() / 3, self.grant() * 9 / 20)
    }

    /// How long an answer of an open door may take when it is time to renew.
    pub(super) fn patience(&self) -> Duration {
        (self.grant() / 10).clamp(Duration::from_millis(200), Duration::from_secs(3))
    }

    /// The door was open when it was time to renew.
    pub(super) fn was_held(&mut self) {
        self.held = self.held.saturating_add(1);
        if self.halvings > 0 && self.held >= self.needed {
            self.halvings -= 1;
            self.held = 0;
        }
    }

    /// The door had been shut by then, and opened at the first knock: nothing but the grant's end explains it.
    pub(super) fn ended_early(&mut self) {
        if self.grant() > SHORTEST_GRANT {
            self.halvings += 1;
        }
        self.held = 0;
        self.needed = self.needed.saturating_mul(2).min(MOST_TRIALS);
    }

    /// How long to pause after a failure: the later the longer, and at most a minute.
    pub(super) fn pause(&mut self, chance: Chance) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        let pause = pause.min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        chance.between(pause / 2, pause)
    }

    /// What failed doesn't any more, or there is a new reason to try.
    pub(super) const fn forget_failures(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_renewal_leaves_time_for_another_before_the_grant_ends(asked: u32, chance: u32) {
            let schedule = Schedule::new(asked);
            let renewal = schedule.renewal(Chance(chance));
            prop_assert!(renewal * 2 + schedule.patience() <= schedule.grant() || asked < 3);
            prop_assert!(renewal >= schedule.grant() / 3);
            prop_assert!(schedule.grant() <= LONGEST_GRANT);
        }

        #[test]
        fn a_pause_is_never_shorter_than_half_a_second_nor_longer_than_a_minute(
            failures in 0_u32..10_000, chance: u32,
        ) {
            let mut schedule = Schedule { failures, ..Schedule::new(300) };
            let pause = schedule.pause(Chance(chance));
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }

        #[test]
        fn whatever_happens_the_grant_believed_in_stays_between_a_second_and_what_was_asked(
            asked: u32, holds: Vec<bool>,
        ) {
            let mut schedule = Schedule::new(asked);
            let whole = schedule.grant();
            for held in holds {
                if held { schedule.was_held() } else { schedule.ended_early() }
                prop_assert!(schedule.grant() >= SHORTEST_GRANT && schedule.grant() <= whole);
            }
        }
    }

    proptest! {
        // A thousand devices in each case.
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Of a fleet that began at one moment, no hundredth of the interval has more than a few percent once
        /// some renewals have passed. The chances are drawn by proptest's own generator, from a seed.
        #[test]
        fn a_fleet_that_knocked_as_one_does_not_beat_as_one(seed: [u8; 32]) {
            use prop::test_runner::{RngAlgorithm, TestRng};
            let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
            let schedule = Schedule::new(300);
            let mut times = vec![Duration::ZERO; 1_000];
            for _ in 0..20 {
                for time in &mut times {
                    *time += schedule.renewal(Chance(rng.next_u32()));
                }
            }
            let beat = (schedule.grant() / 100).as_millis();
            let mut beats = std::collections::HashMap::new();
            for time in times {
                *beats.entry(time.as_millis() / beat).or_insert(0_usize) += 1;
            }
            let most = beats.values().max().copied().unwrap_or_default();
            prop_assert!(most < 100, "{most} of 1000 devices knock within a hundredth of the grant");
        }

        #[test]
        fn a_fleet_that_lost_its_broker_as_one_comes_back_spread_over_half_a_minute(seed: [u8; 32]) {
            use prop::test_runner::{RngAlgorithm, TestRng};
            let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
            let pauses: Vec<_> = (0..1_000)
                .map(|_| Schedule { failures: 30, ..Schedule::new(300) }.pause(Chance(rng.next_u32())))
                .collect();
            for second in 30..60 {
                let within = |pause: &&Duration| pause.as_secs() == second;
                let most = pauses.iter().filter(within).count();
                prop_assert!(most < 100, "{most} of 1000 devices come back in second {second}");
            }
        }
    }

    #[test]
    fn pauses_double_from_a_second_to_a_minute_and_start_anew_when_forgotten() {
        let mut schedule = Schedule::new(300);
        let longest = Chance(u32::MAX);
        let pauses: Vec<_> = (0..9).map(|_| schedule.pause(longest).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.forget_failures();
        assert_eq!(schedule.pause(longest), FIRST_PAUSE);
    }

    /// Renewals until the schedule has stopped being wrong about a server that grants `cap`, and how often it was.
    fn mistakes(asked: u32, cap: Duration, renewals: u32) -> (u32, Schedule) {
        let mut schedule = Schedule::new(asked);
        let mut wrong = 0;
        for n in 0..renewals {
            if schedule.renewal(Chance(n.wrapping_mul(0x9e37_79b9))) <= cap {
                schedule.was_held();
            } else {
                schedule.ended_early();
                wrong += 1;
            }
        }
        (wrong, schedule)
    }

    #[test]
    fn a_server_that_grants_less_than_was_asked_is_found_out_and_seldom_put_to_the_test_again() {
        let (wrong, schedule) = mistakes(3_600, Duration::from_secs(40), 10_000);
        assert!(schedule.grant() * 9 / 20 <= Duration::from_secs(80), "{schedule:?}");
        assert!(wrong < 20, "{wrong}");
    }

    #[test]
    fn what_the_server_says_of_the_grant_counts_and_not_what_was_asked() {
        let mut schedule = Schedule::new(300);
        schedule.was_told(Duration::from_secs(30));
        assert_eq!(schedule.grant(), Duration::from_secs(30));
        schedule.was_told(Duration::from_secs(1_000_000));
        assert_eq!(schedule.grant(), LONGEST_GRANT);
        schedule.was_told(Duration::ZERO);
        assert_eq!(schedule.grant(), SHORTEST_GRANT);
    }

    #[test]
    fn a_sign_of_the_door_comes_soon_enough_to_notice_a_restart_within_20_s() {
        let longest = Schedule::sign(Chance(u32::MAX)) + Schedule::new(3_600).patience();
        assert!(longest < Duration::from_secs(20), "{longest:?}");
        assert!(Schedule::sign(Chance(0)) >= Duration::from_secs(5));
    }

    #[test]
    fn a_restart_of_the_brokers_host_does_not_shorten_the_intervals_for_ever() {
        let mut schedule = Schedule::new(300);
        schedule.ended_early();
        assert!(schedule.grant() < Duration::from_secs(300));
        for _ in 0..2 * TRIALS {
            schedule.was_held();
        }
        assert_eq!(schedule.grant(), Duration::from_secs(300));
    }

    #[test]
    fn a_grant_that_holds_as_long_as_asked_is_never_asked_more_often() {
        let (wrong, schedule) = mistakes(300, Duration::from_secs(300), 1_000);
        assert_eq!((wrong, schedule), (0, Schedule { held: 1_000, ..Schedule::new(300) }));
    }
}
