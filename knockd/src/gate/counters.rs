//! The counters of clients without a clock: of each, the last that was accepted. PROTOCOL.md, step 6 and "What is
//! remembered".
//!
//! # Security considerations
//! - A counter belongs to a key, and not to a client's name: it stays with a client that gets another name, and
//!   one that gets another key begins anew. It is kept by the tag that the key has on [`common::Day::COUNTER`],
//!   which every packet under it carries.
//! - Counters are never forgotten, not even when their client is gone: a key that comes back with its entry would
//!   have all of its old packets accepted again.
//! - A counter that is lost is known to be so: nothing is accepted under its key until an admin says from where on
//!   the device counts ([`Counters::resync`]). A key that was never seen begins with whatever it sends.
//! - No clock has a part in this: a packet that somebody holds back stays good until a later one is accepted.
//!
//! Cost per key: about 40 bytes.

use std::collections::HashMap;

use common::{Tag, Timestamp};

/// What is known of a key's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The last number that was accepted: greater ones are new.
    Last(u64),
    /// It was lost: no number is known to be new.
    Lost,
}

impl Counter {
    /// The one of two that lets less pass.
    fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Last(one), Self::Last(other)) => Self::Last(one.max(other)),
            (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
        }
    }
}

/// Why a number is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAhead {
    /// It isn't greater than the last one accepted.
    #[error(
        "the packet's counter is {counter}, and {last} was accepted already: a copy of an earlier packet, or the device has lost its counter (knockd client resync)"
    )]
    Behind {
        /// The packet's.
        counter: u64,
        /// The last one accepted.
        last: u64,
    },
    /// The last one accepted isn't known any more.
    #[error(
        "the daemon has lost the client's counter, and can't tell a new packet from an old one until it is set (knockd client resync)"
    )]
    Lost,
}

/// A step of a counter, and what undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Whose counter it is.
    pub key: Tag,
    /// The number that was accepted.
    pub to: u64,
    /// What was known before; `None` for a key that was never seen.
    pub before: Option<Counter>,
}

/// There is no number left above the last one accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its counter has reached the last number there is: give the device a new key")]
pub struct Exhausted;

/// The counters of all keys that were ever used with one.
#[derive(Debug, Default)]
pub struct Counters {
    last: HashMap<Tag, Counter>,
}

impl Counters {
    /// Takes up what an earlier run knew; of one key the strictest.
    #[must_use]
    pub fn new(known: impl IntoIterator<Item = (Tag, Counter)>) -> Self {
        let mut last = HashMap::new();
        for (key, counter) in known {
            let held = last.entry(key).or_insert(counter);
            *held = held.stricter(counter);
        }
        Self { last }
    }

    /// Step 6: whether a number is greater than the last one accepted under this key.
    ///
    /// # Errors
    /// [`NotAhead`] says why it must not be accepted.
    pub fn check(&self, key: Tag, counter: u64) -> Result<(), NotAhead> {
        match self.last.get(&key) {
            Some(Counter::Lost) => Err(NotAhead::Lost),
            Some(Counter::Last(last)) if counter <= *last => {
                Err(NotAhead::Behind { counter, last: *last })
            }
            Some(Counter::Last(_)) | None => Ok(()),
        }
    }

    /// Step 10, one atomic check-and-set: the number is the last one accepted from here on.
    ///
    /// # Errors
    /// [`NotAhead`] says why it must not be accepted.
    pub fn check_and_advance(&mut self, key: Tag, counter: u64) -> Result<Advance, NotAhead> {
        self.check(key, counter)?;
        let before = self.last.insert(key, Counter::Last(counter));
        Ok(Advance { key, to: counter, before })
    }

    /// Takes a step back that could not be written down. Of several, the last one comes first.
    pub fn take_back(&mut self, Advance { key, before, .. }: Advance) {
        match before {
            Some(before) => self.last.insert(key, before),
            None => self.last.remove(&key),
        };
    }

    /// From where on a device that has lost its counter, or whose counter was lost here, is to count, under whichever
    /// of these keys it has: nothing at or below it is accepted from here on.
    ///
    /// That is the time in milliseconds, or the last number accepted if that is greater. A device that counts its
    /// packets can't keep up with it, so that every packet that it ever made is below, those too that it sent and
    /// that did not arrive; and it needs no memory of what was lost.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed then.
    pub fn resync(&mut self, keys: &[Tag], now: Timestamp) -> Result<Vec<Advance>, Exhausted> {
        let mut to = now.as_millis();
        for key in keys {
            if let Some(Counter::Last(last)) = self.of(*key) {
                to = to.max(last.checked_add(1).ok_or(Exhausted)?);
            }
        }
        let mut set = |key: &Tag| {
            let before = self.last.insert(*key, Counter::Last(to));
            Advance { key: *key, to, before }
        };
        Ok(keys.iter().map(&mut set).collect())
    }

    /// What is known of a key's counter; `None` for one that was never seen.
    #[must_use]
    pub fn of(&self, key: Tag) -> Option<Counter> {
        self.last.get(&key).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Tag, Counter)> {
        self.last.iter().map(|(key, counter)| (*key, *counter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Tag = Tag::from_bytes([7; 8]);

    #[test]
    fn only_a_number_greater_than_the_last_one_accepted_is_new() {
        let mut counters = Counters::default();
        assert!(counters.check_and_advance(KEY, 0).is_ok());
        for (counter, is_new) in [(0, false), (1, true), (1, false), (9, true), (5, false)] {
            assert_eq!(counters.check_and_advance(KEY, counter).is_ok(), is_new, "{counter}");
        }
        assert!(counters.check_and_advance(Tag::from_bytes([8; 8]), 1).is_ok());
    }

    #[test]
    fn of_two_counters_of_one_key_the_strictest_holds() {
        let last = |numbers: [u64; 2]| Counters::new(numbers.map(|n| (KEY, Counter::Last(n))));
        assert_eq!(last([9, 4]).of(KEY), Some(Counter::Last(9)));
        assert_eq!(last([4, 9]).of(KEY), Some(Counter::Last(9)));
        let lost = Counters::new([(KEY, Counter::Lost), (KEY, Counter::Last(9))]);
        assert_eq!(lost.of(KEY), Some(Counter::Lost));
    }

    #[test]
    fn steps_that_are_taken_back_leave_it_as_it_was() {
        let mut counters = Counters::default();
        let steps: Vec<Advance> =
            [3, 4, 8].map(|to| counters.check_and_advance(KEY, to).unwrap()).into();
        steps.into_iter().rev().for_each(|step| counters.take_back(step));
        assert_eq!(counters.of(KEY), None);
    }

    #[test]
    fn nothing_is_accepted_under_a_lost_counter_until_it_is_set_and_then_only_what_is_above() {
        let mut counters = Counters::new([(KEY, Counter::Lost)]);
        for counter in [0, 1, u64::MAX] {
            assert_eq!(counters.check_and_advance(KEY, counter), Err(NotAhead::Lost));
        }
        let from = counters.resync(&[KEY], Timestamp::from_millis(1_000)).unwrap()[0].to;
        assert_eq!(from, 1_000);
        assert!(counters.check(KEY, from).is_err());
        assert!(counters.check(KEY, from + 1).is_ok());
    }

    #[test]
    fn a_counter_is_never_set_back_whatever_the_clock_shows() {
        let mut counters = Counters::new([(KEY, Counter::Last(5_000))]);
        let old = Tag::from_bytes([9; 8]);
        for (millis, to) in [(0, 5_001), (9_000, 9_000)] {
            let advances = counters.resync(&[KEY, old], Timestamp::from_millis(millis)).unwrap();
            assert_eq!(advances.iter().map(|advance| advance.to).collect::<Vec<_>>(), [to, to]);
        }
        let mut counters = Counters::new([(KEY, Counter::Last(u64::MAX))]);
        assert_eq!(counters.resync(&[KEY], Timestamp::from_millis(0)), Err(Exhausted));
        assert_eq!(counters.of(KEY), Some(Counter::Last(u64::MAX)));
    }
}
