//! Tags of some days, and whose they are.

use std::collections::HashMap;

use common::{Day, Tag};

use super::directory::{ClientId, Entry};

/// The tags of one day, in the making or complete.
struct DayTags {
    day: Day,
    owners: HashMap<Tag, ClientId>,
    /// Up to which of the directory's places they are in.
    done: usize,
}

impl DayTags {
    fn put(&mut self, client: ClientId, entry: &Entry) {
        for tag in entry.tags(self.day) {
            self.owners.entry(tag).or_insert(client);
        }
    }
}

/// The tags of a few days. Each day's are made in the order of the directory's places.
#[derive(Default)]
pub(super) struct TagIndex {
    days: Vec<DayTags>,
    /// The tags of clients without a clock, which are of no day.
    counters: HashMap<Tag, ClientId>,
    /// Who has such a tag, and who else has the same: not told yet.
    counter_collisions: Vec<(ClientId, ClientId)>,
}

impl TagIndex {
    /// Lets all days but these go, and begins with those that are new; the first is looked at first.
    pub(super) fn keep_days(&mut self, days: &[Day], capacity: usize) {
        self.days.retain(|tags| days.contains(&tags.day));
        for day in days {
            if !self.has(*day) {
                let owners = HashMap::with_capacity(capacity);
                self.days.push(DayTags { day: *day, owners, done: 0 });
            }
        }
        self.days.sort_by_key(|tags| days.iter().position(|day| *day == tags.day));
    }

    /// Whether tags of this day are there, or at least begun.
    pub(super) fn has(&self, day: Day) -> bool {
        self.days.iter().any(|tags| tags.day == day)
    }

    /// The day that is looked at first.
    pub(super) fn first_day(&self) -> Option<Day> {
        self.days.first().map(|tags| tags.day)
    }

    /// The first day whose tags are not all in for this many places, and from which place on.
    pub(super) fn unfinished(&self, places: usize) -> Option<(Day, usize)> {
        let tags = self.days.iter().find(|tags| tags.done < places)?;
        Some((tags.day, tags.done))
    }

    /// Puts in the next place's tag of a day, if a client is in it; the client who had that tag before.
    pub(super) fn put_next(
        &mut self,
        day: Day,
        client: ClientId,
        entry: Option<&Entry>,
    ) -> Option<ClientId> {
        let tags = self.days.iter_mut().find(|tags| tags.day == day)?;
        tags.done += 1;
        let mut other = None;
        for tag in entry?.tags(day) {
            let first = *tags.owners.entry(tag).or_insert(client);
            other = other.or((first != client).then_some(first));
        }
        other
    }

    /// Puts in the tags of a client in a new place, of every day for which everybody's before it are in; of
    /// the others they are made in their turn.
    pub(super) fn put_behind(&mut self, client: ClientId, place: usize, entry: &Entry) {
        for tags in self.days.iter_mut().filter(|tags| tags.done == place) {
            tags.done += 1;
            tags.put(client, entry);
        }
        self.put_counter(client, entry);
    }

    /// Puts in a client's tags of every day that its place is done for.
    pub(super) fn put(&mut self, client: ClientId, place: usize, entry: &Entry) {
        for tags in self.days.iter_mut().filter(|tags| tags.done > place) {
            tags.put(client, entry);
        }
        self.put_counter(client, entry);
    }

    fn put_counter(&mut self, client: ClientId, entry: &Entry) {
        for tag in entry.tags(Day::COUNTER) {
            let first = *self.counters.entry(tag).or_insert(client);
            if first != client {
                self.counter_collisions.push((first, client));
            }
        }
    }

    /// Pairs of clients without a clock that have the same tag, each told once.
    pub(super) fn take_counter_collisions(&mut self) -> Vec<(ClientId, ClientId)> {
        std::mem::take(&mut self.counter_collisions)
    }

    /// Takes a client's tags out.
    pub(super) fn take_out(&mut self, client: ClientId, entry: &Entry) {
        let of_days = self.days.iter_mut().map(|tags| (tags.day, &mut tags.owners));
        for (day, owners) in of_days.chain([(Day::COUNTER, &mut self.counters)]) {
            for tag in entry.tags(day) {
                if owners.get(&tag) == Some(&client) {
                    owners.remove(&tag);
                }
            }
        }
    }

    /// Whose tag this is, and of which day.
    pub(super) fn find(&self, tag: Tag) -> Option<(ClientId, Day)> {
        let of_day = |tags: &DayTags| Some((*tags.owners.get(&tag)?, tags.day));
        let of_counter = || Some((*self.counters.get(&tag)?, Day::COUNTER));
        self.days.iter().find_map(of_day).or_else(of_counter)
    }
}
