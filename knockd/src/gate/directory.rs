//! The clients, found by the tag of a packet in the same time whether there is one or a million.
//!
//! Holds the tags of yesterday, today and tomorrow: the allowed skew is at most 12 hours, so that no
//! packet of another day could be fresh, and an honest device whose clock is further off can be told so.

use std::collections::HashMap;

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
}

/// A service's place in the policy's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u16);

impl ServiceId {
    pub(super) const FIRST: Self = Self(0);
}

/// What the gate knows of a client: its entry, with the keys derived once and the secret wiped.
pub struct Entry {
    /// Its name.
    pub name: ClientName,
    /// The keys that its packets are sealed with.
    pub keys: ClientKeys,
    /// The services that it may open.
    pub services: Box<[ServiceId]>,
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
    pub first: ClientName,
    /// Whose packets are refused.
    pub second: ClientName,
}

#[derive(Clone, Copy)]
struct TagOwner {
    client: ClientId,
    day: Day,
}

/// All clients and services, by id, by name and by tag.
pub struct Directory {
    clients: Vec<Entry>,
    services: Vec<Service>,
    tags: HashMap<Tag, TagOwner>,
    /// The days whose tags are held.
    days: Vec<Day>,
}

impl Directory {
    /// A directory of these clients, without tags: [`Directory::turn_to`] makes them.
    ///
    /// Services of a client that don't exist are left out: the configuration has none.
    #[must_use]
    pub fn new(services: Vec<Service>, clients: Vec<Client>, realm: &Realm) -> Self {
        let by_name: HashMap<ServiceName, ServiceId> =
            services.iter().map(|service| service.name).zip((0..).map(ServiceId)).collect();
        let clients = clients
            .into_iter()
            .map(|client| Entry {
                keys: ClientKeys::derive(&client.secret, realm),
                services: client
                    .services
                    .iter()
                    .filter_map(|name| by_name.get(name))
                    .copied()
                    .collect(),
                name: client.name,
                from: client.from.into(),
                address: client.address,
                expires: client.expires,
                standing: client.standing,
            })
            .collect();
        Self { clients, services, tags: HashMap::new(), days: Vec::new() }
    }

    /// Makes `today` the middle one of the three days whose tags are held. Returns the pairs of clients
    /// that share a tag on a day that is new.
    pub fn turn_to(&mut self, today: Day) -> Vec<TagCollision> {
        let days: Vec<Day> =
            [today.previous(), Some(today), today.next()].into_iter().flatten().collect();
        self.tags.retain(|_, owner| days.contains(&owner.day));
        let mut collisions = Vec::new();
        for day in days.iter().filter(|day| !self.days.contains(day)) {
            for (entry, client) in self.clients.iter().zip((0..).map(ClientId)) {
                let owner = TagOwner { client, day: *day };
                let first = *self.tags.entry(entry.keys.tag(*day)).or_insert(owner);
                if (first.client, first.day) != (client, *day) {
                    collisions.push(TagCollision {
                        day: *day,
                        first: self.name(first.client).clone(),
                        second: entry.name.clone(),
                    });
                }
            }
        }
        self.days = days;
        collisions
    }

    /// Whether the tags held are those around this day.
    #[must_use]
    pub fn is_turned_to(&self, today: Day) -> bool {
        self.days.contains(&today)
            && today.next().is_none_or(|tomorrow| self.days.contains(&tomorrow))
    }

    /// Step 2: whose tag this is, and of which day.
    #[must_use]
    pub fn find(&self, tag: Tag) -> Option<(ClientId, &Entry, Day)> {
        let owner = self.tags.get(&tag)?;
        Some((owner.client, self.entry(owner.client)?, owner.day))
    }

    /// The service of this name.
    #[must_use]
    pub fn service_named(&self, name: ServiceName) -> Option<ServiceId> {
        self.services
            .iter()
            .zip((0..).map(ServiceId))
            .find_map(|(service, id)| (service.name == name).then_some(id))
    }

    /// The client of this name. Looks at every client: for start-up, never for a packet.
    #[must_use]
    pub fn clients_by_name(&self) -> HashMap<&str, ClientId> {
        self.clients.iter().map(|entry| entry.name.as_str()).zip((0..).map(ClientId)).collect()
    }

    /// The entry of a client; `None` for an id of another directory.
    #[must_use]
    pub fn entry(&self, client: ClientId) -> Option<&Entry> {
        self.clients.get(usize::try_from(client.0).ok()?)
    }

    /// A client's name.
    ///
    /// # Panics
    /// If the id is of another directory, which is a mistake in this program.
    #[must_use]
    pub fn name(&self, client: ClientId) -> &ClientName {
        match self.entry(client) {
            Some(entry) => &entry.name,
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
