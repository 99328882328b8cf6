//! Keeps the kernel's set of tags right: those of the days that the allowed skew reaches now.
//!
//! # Security considerations
//! - A day's tags are in before the first packet under them can be fresh, and until the last one has
//!   become stale: there is no gap at midnight (UTC), whichever way a device's clock is off.
//! - Each element ends by itself, so that a daemon that is dead leaves no tag behind for ever.
//! - A tag in the kernel opens nothing: it only lets a packet reach the daemon.

use std::time::Duration;

use common::{Day, Tag, Timestamp};

use crate::{
    firewall::{Firewall, FirewallError},
    gate::{
        clock::{Now, Uptime},
        directory::{ClientId, Directory},
        policy::ClockSkew,
    },
};

/// How long before a day's tags are needed they begin to go in, and how long after it they stay: the
/// turnover of a large fleet is spread over this time, and no knock waits for it.
const MARGIN: Duration = Duration::from_mins(10);
/// How long the tags of clients without a clock stay, which are never out of date.
const COUNTERS_STAY: Duration = Duration::from_hours(48);
/// After which time they are let in anew: long before that is over.
const COUNTERS_RENEWED: Duration = Duration::from_hours(12);
/// Tags that go in at once: less than two milliseconds of the kernel's time.
const STEP: usize = 1_000;

/// The upkeep of the kernel's set of tags.
#[derive(Debug)]
pub struct TagKeeper {
    skew_ms: u64,
    /// The days whose tags are in, or on their way: up to which of the directory's places.
    days: Vec<(Day, usize)>,
    /// When those of clients without a clock were begun with last.
    counters_since: Option<Uptime>,
    /// The days whose tags are to be taken out: from which of the directory's places on.
    leaving: Vec<(Day, usize)>,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Upkeep {
    /// Every tag that is needed now is in.
    Done,
    /// Some are still missing.
    More,
}

impl TagKeeper {
    /// A keeper of a set in which nothing is yet.
    #[must_use]
    pub fn new(skew: ClockSkew) -> Self {
        Self {
            skew_ms: skew.as_millis(),
            days: Vec::new(),
            counters_since: None,
            leaving: Vec::new(),
        }
    }

    /// Lets some more tags in, if any are missing.
    ///
    /// # Errors
    /// [`FirewallError`]; the same tags are tried again the next time.
    pub fn keep(
        &mut self,
        directory: &Directory,
        firewall: &mut impl Firewall,
        now: Now,
    ) -> Result<Upkeep, FirewallError> {
        if let Some((day, done)) = self.leaving.last_mut() {
            let step = *done..directory.places().min(*done + STEP);
            let tags: Vec<(Tag, Duration)> =
                directory.tags_on(*day, step.clone()).map(|tag| (tag, Duration::ZERO)).collect();
            firewall.admit_tags(&tags)?;
            *done = step.end;
            if *done >= directory.places() {
                self.leaving.pop();
            }
            return Ok(Upkeep::More);
        }
        let needed = self.days_needed(now.utc);
        let renews = |since: Uptime| now.uptime.since(since) >= COUNTERS_RENEWED;
        if self.counters_since.is_none_or(renews) {
            self.counters_since = Some(now.uptime);
            self.days.retain(|(day, _)| *day != Day::COUNTER);
        }
        self.days.retain(|(day, _)| needed.contains(day));
        for day in needed {
            if !self.days.iter().any(|(begun, _)| *begun == day) {
                self.days.push((day, 0));
            }
        }
        let places = directory.places();
        let Some((day, done)) = self.days.iter_mut().find(|(_, done)| *done < places) else {
            return Ok(Upkeep::Done);
        };
        let timeout = time_left(*day, self.skew_ms, now.utc);
        let step = *done..places.min(*done + STEP);
        let tags: Vec<(Tag, Duration)> =
            directory.tags_on(*day, step.clone()).map(|tag| (tag, timeout)).collect();
        firewall.admit_tags(&tags)?;
        *done = step.end;
        Ok(Upkeep::More)
    }

    /// Has all tags let in anew, because the clock was set: those that are in would end at times that were right
    /// by the old one. Those of days that it no longer reaches make room first.
    pub fn clock_was_stepped(&mut self, now: Now) {
        let needed = self.days_needed(now.utc);
        let gone = self.days.drain(..).filter(|(day, _)| !needed.contains(day));
        self.leaving.extend(gone.map(|(day, _)| (day, 0)));
        self.leaving.retain(|(day, _)| !needed.contains(day));
    }

    /// Goes by this skew from here on. If it is another one, all tags are let in anew, because those that are in
    /// would end at times that were right by the former one.
    pub fn follow(&mut self, skew: ClockSkew, now: Now) {
        if self.skew_ms != skew.as_millis() {
            self.skew_ms = skew.as_millis();
            self.clock_was_stepped(now);
        }
    }

    /// Lets the tags of clients that are new or have new keys in at once; those of many, in steps again.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn let_in(
        &mut self,
        clients: &[ClientId],
        directory: &Directory,
        firewall: &mut impl Firewall,
        now: Now,
    ) -> Result<(), FirewallError> {
        if clients.len() > STEP {
            self.days.clear();
            return Ok(());
        }
        for (day, _) in &self.days {
            let timeout = time_left(*day, self.skew_ms, now.utc);
            let entries = clients.iter().filter_map(|client| directory.entry(*client));
            let tags = entries.flat_map(|entry| entry.tags(*day));
            let tags: Vec<(Tag, Duration)> = tags.map(|tag| (tag, timeout)).collect();
            if let Err(error) = firewall.admit_tags(&tags) {
                // Nobody knows which of them are in: all are tried again.
                self.forget();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Believes from here on that none are in, so that all go in again, step by step.
    pub fn forget(&mut self) {
        self.days.clear();
    }

    /// The days that a fresh packet can be of, from now until [`MARGIN`] later; today first. Packets of clients
    /// without a clock can be fresh at any time.
    fn days_needed(&self, now: Timestamp) -> Vec<Day> {
        let now = now.as_millis();
        let earliest = now.saturating_sub(self.skew_ms);
        let latest = now.saturating_add(self.skew_ms).saturating_add(millis(MARGIN));
        [now, earliest, latest]
            .into_iter()
            .filter_map(|ms| Day::of(Timestamp::from_millis(ms)))
            .chain([Day::COUNTER])
            .collect()
    }
}

/// How long a day's tags stay: until its last packet has become stale, and a margin.
fn time_left(day: Day, skew_ms: u64, now: Timestamp) -> Duration {
    if day == Day::COUNTER {
        return COUNTERS_STAY;
    }
    let end = (u64::from(day.number()) + 1).saturating_mul(DAY_MS);
    let last_use = end.saturating_add(skew_ms).saturating_add(millis(MARGIN));
    Duration::from_millis(last_use.saturating_sub(now.as_millis()))
}

const DAY_MS: u64 = 86_400_000;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use common::{Realm, Secret};

    use super::*;
    use crate::{
        firewall::memory::MemoryFirewall,
        gate::{
            clock::Uptime,
            policy::{AddressPolicy, Client, ClientClock, Standing},
        },
    };

    const SKEW_MS: u64 = 30_000;
    const MIDNIGHT: u64 = 20_718 * DAY_MS;
    const CLIENTS: u32 = 2_500;

    fn directory() -> Directory {
        let clients = (0..CLIENTS)
            .map(|number| {
                let mut secret = [1; 32];
                secret[..4].copy_from_slice(&number.to_be_bytes());
                Client {
                    name: format!("client-{number}").parse().unwrap(),
                    secret: Secret::new(secret).unwrap(),
                    services: [].into(),
                    from: Vec::new(),
                    address: AddressPolicy::Strict,
                    clock: ClientClock::Utc,
                    expires: None,
                    old_key: None,
                    standing: Standing::Enabled,
                }
            })
            .collect();
        Directory::new(Vec::new(), clients, &Realm::default())
    }

    fn at(utc_ms: u64) -> Now {
        Now { utc: Timestamp::from_millis(utc_ms), uptime: Uptime::from_millis(0) }
    }

    fn day_of(utc_ms: u64) -> Day {
        Day::of(Timestamp::from_millis(utc_ms)).unwrap()
    }

    fn keeper() -> TagKeeper {
        TagKeeper::new(ClockSkew::try_from(Duration::from_millis(SKEW_MS)).unwrap())
    }

    /// Keeps until all is done; the tags that are in then.
    fn keep_all(keeper: &mut TagKeeper, directory: &Directory, now: u64) -> MemoryFirewall {
        let mut firewall = MemoryFirewall::default();
        let mut steps = 0;
        while keeper.keep(directory, &mut firewall, at(now)).unwrap() == Upkeep::More {
            steps += 1;
            assert!(steps < 100);
        }
        firewall
    }

    fn has_all(firewall: &MemoryFirewall, directory: &Directory, day: Day) -> bool {
        directory.tags_on(day, 0..directory.len()).all(|tag| firewall.tags().contains_key(&tag))
    }

    #[test]
    fn at_noon_the_tags_of_today_are_in_and_no_others() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let firewall = keep_all(&mut keeper(), &directory, noon);
        assert!(has_all(&firewall, &directory, day_of(noon)));
        assert_eq!(firewall.tags().len(), directory.len());
    }

    #[test]
    fn around_midnight_the_tags_of_both_days_are_in_for_as_long_as_a_packet_of_either_can_be_fresh()
    {
        let directory = directory();
        let (before, after) = (day_of(MIDNIGHT - 1), day_of(MIDNIGHT));
        for now in [MIDNIGHT - SKEW_MS, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + SKEW_MS - 1] {
            let firewall = keep_all(&mut keeper(), &directory, now);
            assert!(has_all(&firewall, &directory, before), "{now}");
            assert!(has_all(&firewall, &directory, after), "{now}");
        }
    }

    #[test]
    fn the_next_days_tags_go_in_step_by_step_before_the_first_packet_under_them_can_be_fresh() {
        let directory = directory();
        let mut keeper = keeper();
        keep_all(&mut keeper, &directory, MIDNIGHT - DAY_MS / 2);
        let start = MIDNIGHT - SKEW_MS - millis(MARGIN);
        assert!(keep_all(&mut keeper, &directory, start - 1).tags().is_empty());
        let mut firewall = MemoryFirewall::default();
        for expected in [1_000, 2_000, 2_500] {
            assert_eq!(keeper.keep(&directory, &mut firewall, at(start)).unwrap(), Upkeep::More);
            assert_eq!(firewall.tags().len(), expected);
        }
        assert_eq!(keeper.keep(&directory, &mut firewall, at(start)).unwrap(), Upkeep::Done);
    }

    #[test]
    fn a_tag_stays_until_its_last_packet_is_stale() {
        let (directory, now) = (directory(), MIDNIGHT - 1_000);
        let firewall = keep_all(&mut keeper(), &directory, now);
        let tag = directory.tags_on(day_of(now), 0..1).next().unwrap();
        let least = Duration::from_millis(1_000 + SKEW_MS);
        assert_eq!(firewall.tags()[&tag], least + MARGIN);
    }

    #[test]
    fn after_a_failure_the_same_tags_are_tried_again() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let (mut keeper, mut firewall) = (keeper(), MemoryFirewall::default());
        firewall.fail_with(Some(std::io::ErrorKind::OutOfMemory));
        assert!(keeper.keep(&directory, &mut firewall, at(noon)).is_err());
        assert!(has_all(&keep_all(&mut keeper, &directory, noon), &directory, day_of(noon)));
    }

    #[test]
    fn after_the_set_was_emptied_all_tags_go_in_again() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let mut keeper = keeper();
        keep_all(&mut keeper, &directory, noon);
        assert!(keep_all(&mut keeper, &directory, noon).tags().is_empty());
        keeper.forget();
        assert!(has_all(&keep_all(&mut keeper, &directory, noon), &directory, day_of(noon)));
    }

    #[test]
    fn after_a_step_of_the_clock_the_tags_of_the_new_day_are_in_and_no_others() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let (mut keeper, mut firewall) = (keeper(), MemoryFirewall::default());
        for stepped in [noon, noon + DAY_MS, noon + 100 * DAY_MS, noon, noon - DAY_MS] {
            keeper.clock_was_stepped(at(stepped));
            while keeper.keep(&directory, &mut firewall, at(stepped)).unwrap() == Upkeep::More {}
            assert!(has_all(&firewall, &directory, day_of(stepped)));
            assert_eq!(firewall.tags().len(), directory.len());
        }
    }

    #[test]
    fn after_a_step_within_a_day_its_tags_stay_until_that_day_ends_by_the_new_clock() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let (mut keeper, tag) = (keeper(), directory.tags_on(day_of(noon), 0..1).next().unwrap());
        keep_all(&mut keeper, &directory, noon);
        for stepped in [noon - DAY_MS / 4, noon + DAY_MS / 4] {
            keeper.clock_was_stepped(at(stepped));
            let firewall = keep_all(&mut keeper, &directory, stepped);
            let least = Duration::from_millis(MIDNIGHT + DAY_MS - stepped + SKEW_MS);
            assert_eq!(firewall.tags()[&tag], least + MARGIN);
        }
    }

    #[test]
    fn a_step_back_before_the_old_tags_are_out_leaves_those_of_the_day_it_reaches() {
        let (directory, noon) = (directory(), MIDNIGHT + DAY_MS / 2);
        let (mut keeper, mut firewall) = (keeper(), MemoryFirewall::default());
        while keeper.keep(&directory, &mut firewall, at(noon)).unwrap() == Upkeep::More {}
        keeper.clock_was_stepped(at(noon + DAY_MS));
        assert_eq!(
            keeper.keep(&directory, &mut firewall, at(noon + DAY_MS)).unwrap(),
            Upkeep::More
        );
        keeper.clock_was_stepped(at(noon));
        while keeper.keep(&directory, &mut firewall, at(noon)).unwrap() == Upkeep::More {}
        assert!(has_all(&firewall, &directory, day_of(noon)));
        assert_eq!(firewall.tags().len(), directory.len());
    }
}
