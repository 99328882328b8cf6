//! The clients, found by the tag of a packet in the same time whether there is one or a million.
//!
//! Holds the tags of yesterday, today and tomorrow: the allowed skew is at most 12 hours, so that no
//! packet of another day could be fresh, and an honest device whose clock is further off can be told so.
//! Today's come first when they are made, and another day's are only needed to tell a reason.

use std::{collections::HashMap, ops::Range, sync::Arc};

use common::{ClientKeys, Day, Realm, ServiceName, Tag, Timestamp};
use ipnet::IpNet;

use super::{
    decision::Reason,
    policy::{AddressPolicy, Client, ClientName, Service, Standing},
};

/// A client's place in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u32);

impl ClientId {
    pub(super) const FIRST: Self = Self(0);

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A service's place in the policy's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u16);

impl ServiceId {
    pub(super) const FIRST: Self = Self(0);
}

/// What the gate knows of a client: its entry, with the keys derived once and the secret wiped.
pub struct Entry {
    /// Where its name is in the directory's text of all names: a million names of their own would take
    /// several times the memory.
    name: Range<u32>,
    /// The keys that its packets are sealed with.
    pub keys: ClientKeys,
    /// The services that it may open. Shared among clients that have the same.
    pub services: Arc<[ServiceId]>,
    /// The networks that it may knock from; empty for all.
    pub from: Box<[IpNet]>,
    /// Which address it may open the door for.
    pub address: AddressPolicy,
    /// When its entry ends.
    pub expires: Option<Timestamp>,
    /// Whether it may open anything at all.
    pub standing: Standing,
}

impl Entry {
    /// Step 7, but for the networks: whether the entry is in force at this time.
    ///
    /// # Errors
    /// [`Reason::ClientDisabled`] or [`Reason::ClientExpired`].
    pub fn check_standing(&self, now: Timestamp) -> Result<(), Reason> {
        match self.standing {
            Standing::Disabled => Err(Reason::ClientDisabled),
            Standing::Enabled if self.expires.is_some_and(|end| now >= end) => {
                Err(Reason::ClientExpired)
            }
            Standing::Enabled => Ok(()),
        }
    }
}

/// Two clients that have the same tag on a day; the second one's packets are refused that day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagCollision {
    /// The day of the tag.
    pub day: Day,
    /// Whose packets are judged by this tag.
    pub first: String,
    /// Whose packets are refused.
    pub second: String,
}

/// The tags of one day, in the making or complete.
struct DayTags {
    day: Day,
    owners: HashMap<Tag, ClientId>,
    /// How many clients' tags are in.
    done: usize,
}

/// How far the tags of a day and its neighbours are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// All of them are there.
    Complete,
    /// Some are still missing: [`Directory::prepare`] wants to be called again.
    More,
}

/// All clients and services, by id, by name and by tag.
pub struct Directory {
    clients: Vec<Entry>,
    /// The names of all clients, one after another.
    names: String,
    services: Vec<Service>,
    /// Today's tags, tomorrow's and yesterday's, in the order in which they are made.
    tags: Vec<DayTags>,
}

impl Directory {
    /// A directory of these clients, without tags: [`Directory::prepare`] makes them.
    ///
    /// Services of a client that don't exist are left out: the configuration has none.
    #[must_use]
    pub fn new(services: Vec<Service>, clients: Vec<Client>, realm: &Realm) -> Self {
        let by_name: HashMap<ServiceName, ServiceId> =
            services.iter().map(|service| service.name).zip((0..).map(ServiceId)).collect();
        let mut lists: HashMap<Arc<[ServiceName]>, Arc<[ServiceId]>> = HashMap::new();
        let mut ids = |names: Arc<[ServiceName]>| {
            let ids = lists.entry(names).or_insert_with_key(|names| {
                names.iter().filter_map(|name| by_name.get(name)).copied().collect()
            });
            Arc::clone(ids)
        };
        let mut names = String::new();
        let mut keep_name = |name: &ClientName| {
            let start = offset(&names);
            names.push_str(name.as_str());
            start..offset(&names)
        };
        let clients = clients
            .into_iter()
            .map(|client| Entry {
                keys: ClientKeys::derive(&client.secret, realm),
                services: ids(client.services),
                name: keep_name(&client.name),
                from: client.from.into(),
                address: client.address,
                expires: client.expires,
                standing: client.standing,
            })
            .collect();
        names.shrink_to_fit();
        Self { clients, names, services, tags: Vec::new() }
    }

    /// Makes tags of today, tomorrow and yesterday, in this order, for at most `budget` clients and days;
    /// those of other days are let go. Pairs of clients that share a tag go to `collisions`.
    ///
    /// Each tag is a hash: a million clients take about a second, so that a large directory is prepared in
    /// steps between packets.
    pub fn prepare(
        &mut self,
        today: Day,
        budget: usize,
        collisions: &mut Vec<TagCollision>,
    ) -> Progress {
        let days = [Some(today), today.next(), today.previous()];
        self.tags.retain(|tags| days.contains(&Some(tags.day)));
        let mut left = budget;
        for day in days.into_iter().flatten() {
            left -= self.prepare_day(day, left, collisions);
            if left == 0 {
                break;
            }
        }
        // Most packets are of today: theirs are looked for first.
        self.tags.sort_by_key(|tags| days.iter().position(|day| *day == Some(tags.day)));
        let is_complete =
            |day| self.tags_of(day).is_some_and(|tags| tags.done == self.clients.len());
        match days.into_iter().flatten().all(is_complete) {
            true => Progress::Complete,
            false => Progress::More,
        }
    }

    /// Makes at most `budget` tags of a day, and returns how many it made.
    fn prepare_day(
        &mut self,
        day: Day,
        budget: usize,
        collisions: &mut Vec<TagCollision>,
    ) -> usize {
        let at = self.tags.iter().position(|tags| tags.day == day).unwrap_or_else(|| {
            let owners = HashMap::with_capacity(self.clients.len());
            self.tags.push(DayTags { day, owners, done: 0 });
            self.tags.len() - 1
        });
        let Some(tags) = self.tags.get_mut(at) else { return 0 };
        let before = tags.done;
        for (entry, client) in
            self.clients.iter().zip((0..).map(ClientId)).skip(before).take(budget)
        {
            let first = *tags.owners.entry(entry.keys.tag(day)).or_insert(client);
            if let Some(other) = self.clients.get(first.index()).filter(|_| first != client) {
                let name = |entry| text_of(&self.names, entry).to_owned();
                collisions.push(TagCollision { day, first: name(other), second: name(entry) });
            }
            tags.done += 1;
        }
        tags.done - before
    }

    /// Whether tags of this day are there, or at least begun.
    #[must_use]
    pub fn has_tags_of(&self, day: Day) -> bool {
        self.tags_of(day).is_some()
    }

    fn tags_of(&self, day: Day) -> Option<&DayTags> {
        self.tags.iter().find(|tags| tags.day == day)
    }

    /// The tags of some clients on a day, by their places: for the kernel's filter.
    pub fn tags_on(&self, day: Day, clients: Range<usize>) -> impl Iterator<Item = Tag> {
        let of_range = self.clients.get(clients).unwrap_or_default();
        of_range.iter().map(move |entry| entry.keys.tag(day))
    }

    /// Step 2: whose tag this is, and of which day.
    #[must_use]
    pub fn find(&self, tag: Tag) -> Option<(ClientId, &Entry, Day)> {
        let (client, day) =
            self.tags.iter().find_map(|tags| Some((*tags.owners.get(&tag)?, tags.day)))?;
        Some((client, self.entry(client)?, day))
    }

    /// The service of this name.
    #[must_use]
    pub fn service_named(&self, name: ServiceName) -> Option<ServiceId> {
        self.services
            .iter()
            .zip((0..).map(ServiceId))
            .find_map(|(service, id)| (service.name == name).then_some(id))
    }

    /// The clients' names and ids. Looks at every client: for start-up, never for a packet.
    #[must_use]
    pub fn clients_by_name(&self) -> HashMap<&str, ClientId> {
        let names = self.clients.iter().map(|entry| text_of(&self.names, entry));
        names.zip((0..).map(ClientId)).collect()
    }

    /// The entry of a client; `None` for an id of another directory.
    #[must_use]
    pub fn entry(&self, client: ClientId) -> Option<&Entry> {
        self.clients.get(client.index())
    }

    /// A client's name.
    ///
    /// # Panics
    /// If the id is of another directory, which is a mistake in this program.
    #[must_use]
    pub fn name(&self, client: ClientId) -> &str {
        match self.entry(client) {
            Some(entry) => text_of(&self.names, entry),
            None => unreachable!("a client's id is of the directory that gave it"),
        }
    }

    /// A service.
    ///
    /// # Panics
    /// If the id is of another directory, which is a mistake in this program.
    #[must_use]
    pub fn service(&self, service: ServiceId) -> &Service {
        match self.services.get(usize::from(service.0)) {
            Some(service) => service,
            None => unreachable!("a service's id is of the directory that gave it"),
        }
    }

    /// How many clients there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is no client at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

/// Where the next name begins. Four gigabytes of names are more than the configuration can hold.
fn offset(names: &str) -> u32 {
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

fn text_of<'a>(names: &'a str, entry: &Entry) -> &'a str {
    let [start, end] =
        [entry.name.start, entry.name.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
    names.get(start..end).unwrap_or_default()
}
