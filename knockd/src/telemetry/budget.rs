//! How many lines there are: for each client and each thing that is told of it, the first at once, then one a minute
//! with the number of those that it stands for.
//!
//! # Security considerations
//! - Nobody spends another's budget: neither a client another one's, nor copies of a packet what is told of a thief
//!   who tries a stolen key.
//! - What is held back is counted, and told with the client's name when its minute is over.
//! - There are never more budgets than [`SUBJECTS`], nor more first lines in a second than [`FIRST_LINES`], of
//!   warnings and of the rest apart. What has no budget for want of room is counted all the same.

use std::{collections::HashMap, time::Duration};

use tracing::Level;

use crate::gate::{clock::Uptime, directory::ClientId};

/// How long a line stands for what follows it.
pub(super) const PERIOD: Duration = Duration::from_mins(1);
/// Budgets at once.
const SUBJECTS: usize = 65_536;
/// First lines in a second.
const FIRST_LINES: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// Lines in a minute that tell what a client was let do.
pub(super) const DEEDS: u8 = 60;

/// What has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    /// Of whom something is told; `None` for what isn't a client's.
    pub(super) client: Option<ClientId>,
    /// What: the reason of a refusal, or the name of another event.
    pub(super) what: &'static str,
}

/// How much may be told before it is held back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Quota {
    /// So many lines.
    Own(u32),
    /// So many lines, and those of all subjects at this level together [`FIRST_LINES`] a second.
    Shared(u32, Level),
    /// What a client is let do: [`DEEDS`] lines in a minute, of each client, however many there are.
    Deeds,
}

/// What was held back for a minute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held<T> {
    /// How often.
    pub(super) times: u64,
    /// What would have been told the last time.
    pub(super) last: T,
}

/// The budgets; `T` is what is told.
#[derive(Debug)]
pub(super) struct Budgets<T> {
    running: HashMap<Subject, Running<T>>,
    warnings: Rate,
    others: Rate,
    deeds: Deeds,
    /// How often something was held back that has no budget.
    beyond: u64,
    due: Option<Uptime>,
    /// When room was made the last time.
    swept: Uptime,
}

#[derive(Debug)]
struct Running<T> {
    since: Uptime,
    left: u32,
    held: Option<Box<Held<T>>>,
}

impl<T> Default for Budgets<T> {
    fn default() -> Self {
        let (warnings, others) = (Rate::default(), Rate::default());
        let swept = Uptime::from_millis(0);
        let (running, deeds) = (HashMap::new(), Deeds::default());
        Self { running, warnings, others, deeds, beyond: 0, due: None, swept }
    }
}

impl<T> Budgets<T> {
    /// Whether a line about this may be told now; else it is to be held back ([`Self::hold`]).
    pub(super) fn spend(&mut self, subject: Subject, quota: Quota, now: Uptime) -> bool {
        let (Quota::Own(lines) | Quota::Shared(lines, _)) = quota else {
            return subject.client.is_some_and(|client| self.deeds.take(client, now));
        };
        let Some(running) = self.running(subject, lines, now) else { return false };
        if running.held.is_none() && running.is_over(now) {
            (running.since, running.left) = (now, lines);
        }
        if running.left == 0 {
            return false;
        }
        let within = match quota {
            Quota::Own(_) | Quota::Deeds => true,
            Quota::Shared(_, level) if level <= Level::WARN => self.warnings.take(now),
            Quota::Shared(..) => self.others.take(now),
        };
        if within && let Some(running) = self.running.get_mut(&subject) {
            running.left -= 1;
        }
        within
    }

    /// Holds back what may not be told now.
    pub(super) fn hold(&mut self, subject: Subject, last: T, now: Uptime) {
        let end = match self.running(subject, 0, now) {
            Some(running) => {
                let times = running.held.as_ref().map_or(0, |held| held.times) + 1;
                running.held = Some(Box::new(Held { times, last }));
                running.since + PERIOD
            }
            None => {
                self.beyond += 1;
                now + PERIOD
            }
        };
        self.due = Some(self.due.map_or(end, |due| due.min(end)));
    }

    /// A subject's budget, of so many lines if it had none; `None` if there is no room for another one.
    fn running(&mut self, subject: Subject, lines: u32, now: Uptime) -> Option<&mut Running<T>> {
        if self.running.len() >= SUBJECTS && !self.running.contains_key(&subject) {
            // It looks at all of them: not for every line that finds no room.
            if self.swept + SECOND <= now {
                self.swept = now;
                self.running.retain(|_, running| running.held.is_some() || !running.is_over(now));
            }
            if self.running.len() >= SUBJECTS {
                return None;
            }
        }
        let fresh = || Running { since: now, left: lines, held: None };
        Some(self.running.entry(subject).or_insert_with(fresh))
    }

    /// When [`Self::take_due`] has something.
    pub(super) const fn due(&self) -> Option<Uptime> {
        self.due
    }

    /// What was held back and is to be told now, in no order, and how much that had no budget was. Whose minute is
    /// over without that has all of its budget again.
    pub(super) fn take_due(&mut self, now: Uptime) -> (Vec<(Subject, Held<T>)>, u64) {
        let mut due = Vec::new();
        self.due = None;
        self.running.retain(|subject, running| {
            if running.is_over(now) {
                let Some(held) = running.held.take() else { return false };
                due.push((*subject, *held));
                // That was this minute's line.
                (running.since, running.left) = (now, 0);
            } else if running.held.is_some() {
                let end = running.since + PERIOD;
                self.due = Some(self.due.map_or(end, |due| due.min(end)));
            }
            true
        });
        (due, std::mem::take(&mut self.beyond))
    }
}

impl<T> Running<T> {
    fn is_over(&self, now: Uptime) -> bool {
        self.since + PERIOD <= now
    }
}

/// What each client was let do in this minute: a byte for each, since all of a fleet may come at once.
#[derive(Debug)]
struct Deeds {
    since: Uptime,
    counts: Vec<u8>,
}

impl Default for Deeds {
    fn default() -> Self {
        Self { since: Uptime::from_millis(0), counts: Vec::new() }
    }
}

impl Deeds {
    fn take(&mut self, client: ClientId, now: Uptime) -> bool {
        if self.since + PERIOD <= now {
            *self = Self { since: now, counts: Vec::new() };
        }
        let place = usize::try_from(client.number()).unwrap_or(usize::MAX);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        let Some(count) = self.counts.get_mut(place) else { return false };
        let fits = *count < DEEDS;
        *count += u8::from(fits);
        fits
    }
}

/// So many in each second.
#[derive(Debug)]
struct Rate {
    since: Uptime,
    taken: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { since: Uptime::from_millis(0), taken: 0 }
    }
}

impl Rate {
    fn take(&mut self, now: Uptime) -> bool {
        if self.since + SECOND <= now {
            *self = Self { since: now, taken: 0 };
        }
        let fits = self.taken < FIRST_LINES;
        self.taken += u32::from(fits);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Uptime {
        Uptime::from_millis(1_000_000 + seconds * 1000)
    }

    const fn subject(what: &'static str) -> Subject {
        Subject { client: None, what }
    }

    /// Whether it is told; if not, it is held.
    fn tell(budgets: &mut Budgets<u64>, what: &'static str, quota: Quota, second: u64) -> bool {
        let told = budgets.spend(subject(what), quota, at(second));
        if !told {
            budgets.hold(subject(what), second, at(second));
        }
        told
    }

    fn due(budgets: &mut Budgets<u64>, second: u64) -> Vec<(&'static str, u64, u64)> {
        let (due, _) = budgets.take_due(at(second));
        let mut due: Vec<_> =
            due.into_iter().map(|(subject, held)| (subject.what, held.times, held.last)).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_once_a_minute_until_there_is_none_for_a_minute() {
        let mut budgets = Budgets::default();
        assert!(tell(&mut budgets, "a", Quota::Own(1), 0));
        assert_eq!(budgets.due(), None);
        for second in 1..60 {
            assert!(!tell(&mut budgets, "a", Quota::Own(1), second));
        }
        assert_eq!(budgets.due(), Some(at(60)));
        assert_eq!(due(&mut budgets, 59), []);
        assert_eq!(due(&mut budgets, 60), [("a", 59, 59)]);
        for second in [61, 62] {
            assert!(!tell(&mut budgets, "a", Quota::Own(1), second));
        }
        assert_eq!((due(&mut budgets, 119), due(&mut budgets, 120)), (vec![], vec![("a", 2, 62)]));
        assert_eq!((due(&mut budgets, 180), budgets.due()), (vec![], None));
        assert!(tell(&mut budgets, "a", Quota::Own(1), 181));
    }

    #[test]
    fn a_subject_spends_nothing_of_anothers() {
        let mut budgets = Budgets::default();
        for _ in 0..10_000 {
            tell(&mut budgets, "copies", Quota::Shared(1, Level::INFO), 0);
        }
        assert!(tell(&mut budgets, "a thief", Quota::Shared(1, Level::WARN), 0));
        assert!(!tell(&mut budgets, "a thief", Quota::Shared(1, Level::WARN), 1));
        assert_eq!(due(&mut budgets, 60), [("a thief", 1, 1), ("copies", 9_999, 0)]);
    }

    #[test]
    fn first_lines_of_many_clients_are_bounded_for_each_second_and_warnings_apart() {
        let mut budgets = Budgets::<u64>::default();
        let names: Vec<&'static str> =
            (0..300).map(|number| &*Box::leak(number.to_string().into_boxed_str())).collect();
        let mut told = |level, second| {
            let quota = Quota::Shared(1, level);
            names.iter().filter(|name| tell(&mut budgets, name, quota, second)).count()
        };
        assert_eq!((told(Level::INFO, 0), told(Level::INFO, 0)), (100, 0));
        assert_eq!((told(Level::WARN, 0), told(Level::INFO, 1)), (100, 100));
        let held: u64 = due(&mut budgets, 61).iter().map(|(_, times, _)| times).sum();
        assert_eq!(held, 300 * 4 - 300);
    }

    #[test]
    fn there_are_never_more_budgets_than_the_bound_and_what_has_none_is_counted() {
        let mut budgets = Budgets::<u64>::default();
        let many = (0..SUBJECTS + 7).map(|number| &*Box::leak(number.to_string().into_boxed_str()));
        let told = many.filter(|what| tell(&mut budgets, what, Quota::Own(1), 0)).count();
        assert_eq!((told, budgets.running.len()), (SUBJECTS, SUBJECTS));
        assert_eq!(budgets.take_due(at(60)).1, 7);
        assert!(tell(&mut budgets, "and then there is room", Quota::Own(1), 61));
        assert!(budgets.running.len() < SUBJECTS);
    }
}
