//! The clients, found by the tag of a packet in the same time whether there is one or a million.
//!
//! Holds the tags of yesterday, today and tomorrow: the allowed skew is at most 12 hours, so that no
//! packet of another day could be fresh, and an honest device whose clock is further off can be told so.
//! Today's come first when they are made, and another day's are only needed to tell a reason. The tags of clients
//! without a clock never change, and are there from the moment that such a client is added.

use std::{collections::HashMap, iter, mem, ops::Range, sync::Arc};

use common::{ClientKeys, Day, Realm, ServiceName, Tag, Timestamp};
use ipnet::IpNet;

use super::{
    decision::Reason,
    policy::{AddressPolicy, Client, ClientClock, OldKey, Service, Standing},
    tag_index::TagIndex,
};

/// A client's place in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u32);

impl ClientId {
    pub(super) const FIRST: Self = Self(0);

    /// The place of this number: of nobody, perhaps.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The place's number, which no other client has for as long as anything in the gate knows of this one.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A service's place in the policy's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u16);

impl ServiceId {
    pub(super) const FIRST: Self = Self(0);

    /// The place of this number: of no service, perhaps.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// The place's number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// How long packets under an old key that is good no longer are told from a stranger's. Until then its tags are
/// there.
const OLD_KEY_TOLD_MS: u64 = 7 * 24 * 3_600_000;

/// The keys that a client had before, and may have still.
#[derive(Clone)]
pub struct OldKeys {
    /// The keys.
    pub keys: ClientKeys,
    /// From when on they are good no longer.
    pub until: Timestamp,
}

impl OldKeys {
    /// Whether their tag of a day is made: also for some days after their end, so that the reason can be told.
    fn are_known_on(&self, day: Day) -> bool {
        let last = Timestamp::from_millis(self.until.as_millis().saturating_add(OLD_KEY_TOLD_MS));
        day == Day::COUNTER || Day::of(last).is_none_or(|last| day <= last)
    }
}

/// What the gate knows of a client: its entry, with the keys derived once and the secret wiped.
pub struct Entry {
    /// The keys that its packets are sealed with.
    pub keys: ClientKeys,
    /// Those that it had before, if they may still be in use.
    pub old_keys: Option<Box<OldKeys>>,
    /// The services that it may open. Shared among clients that have the same.
    pub services: Arc<[ServiceId]>,
    /// The networks that it may knock from; empty for all.
    pub from: Box<[IpNet]>,
    /// Which address it may open the door for.
    pub address: AddressPolicy,
    /// What keeps its packets from being accepted twice.
    pub clock: ClientClock,
    /// When its entry ends.
    pub expires: Option<Timestamp>,
    /// Whether it may open anything at all.
    pub standing: Standing,
}

impl Entry {
    /// The tags of its packets on a day: none on a day that they can't be of.
    pub fn tags(&self, day: Day) -> impl Iterator<Item = Tag> {
        let of_its_clock = self.clock.has_tag_on(day);
        of_its_clock.then(|| self.tags_of_keys(day)).into_iter().flatten()
    }

    /// The tags of its keys on a day, whatever its clock.
    fn tags_of_keys(&self, day: Day) -> impl Iterator<Item = Tag> {
        tags(&self.keys, self.old_keys.as_deref(), day)
    }

    /// Which of its keys a packet under this tag, which is one of its tags of that day, is sealed with; and from
    /// when on they are good no longer, if they are old ones.
    #[must_use]
    pub fn keys_of(&self, tag: Tag, day: Day) -> (&ClientKeys, Option<Timestamp>) {
        match &self.old_keys {
            Some(old) if self.keys.tag(day) != tag => (&old.keys, Some(old.until)),
            _ => (&self.keys, None),
        }
    }

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

/// How far the tags of a day and its neighbours are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// All of them are there.
    Complete,
    /// Some are still missing: [`Directory::prepare`] wants to be called again.
    More,
}

/// A client's place. When the client is gone it stays empty until nothing in the gate knows of that client any more,
/// and is another's then: see [`Directory::free`].
struct Place {
    /// Where its name is in the text of all names: a million names of their own would take several times
    /// the memory.
    name: Range<u32>,
    /// `None` once it was removed.
    entry: Option<Entry>,
}

/// All clients and services, by id, by name and by tag.
pub struct Directory {
    places: Vec<Place>,
    /// The names of all clients, one after another.
    names: String,
    /// How many bytes of them are of clients that are gone.
    unnamed: usize,
    /// Places that can be another client's.
    free: Vec<ClientId>,
    /// How many places have a client in them.
    len: usize,
    /// One that is gone keeps its place without ports: an id that is still around names no other.
    services: Vec<Service>,
    lists: ServiceLists,
    tags: TagIndex,
}

/// Lists of services by their names, each held once.
type ServiceLists = HashMap<Arc<[ServiceName]>, Arc<[ServiceId]>>;

/// A client, and its keys: deriving them is most of the work of adding it, and can be done elsewhere.
pub struct Enrolment {
    /// The client.
    pub client: Client,
    /// Its keys, derived from its secret and the directory's realm.
    pub keys: ClientKeys,
    /// Those of its old key.
    pub old_keys: Option<Box<OldKeys>>,
}

impl Enrolment {
    /// The client with its keys in this realm.
    #[must_use]
    pub fn new(client: Client, realm: &Realm) -> Self {
        let keys = ClientKeys::derive(&client.secret, realm);
        let old_keys = client.old_key.as_deref().map(|OldKey { secret, until }| {
            Box::new(OldKeys { keys: ClientKeys::derive(secret, realm), until: *until })
        });
        Self { client, keys, old_keys }
    }

    /// Its tags on a day.
    pub fn tags(&self, day: Day) -> impl Iterator<Item = Tag> {
        tags(&self.keys, self.old_keys.as_deref(), day)
    }
}

fn tags(keys: &ClientKeys, old: Option<&OldKeys>, day: Day) -> impl Iterator<Item = Tag> + use<> {
    let old = old.filter(|old| old.are_known_on(day)).map(|old| old.keys.tag(day));
    iter::once(keys.tag(day)).chain(old)
}

impl Directory {
    /// A directory of these clients, without tags: [`Directory::prepare`] makes them.
    #[must_use]
    pub fn new(services: Vec<Service>, clients: Vec<Client>, realm: &Realm) -> Self {
        let mut directory = Self {
            places: Vec::with_capacity(clients.len()),
            names: String::new(),
            unnamed: 0,
            free: Vec::new(),
            len: 0,
            services,
            lists: ServiceLists::new(),
            tags: TagIndex::default(),
        };
        for client in clients {
            directory.add(Enrolment::new(client, realm));
        }
        directory.names.shrink_to_fit();
        common::wipe_stack();
        directory
    }

    /// Makes these the services. Those whose names stay keep their ids; of those that are gone, nothing is open
    /// any more, and no client's entry may name them from then on.
    pub fn set_services(&mut self, services: Vec<Service>) {
        for place in &mut self.services {
            place.ports.clear();
        }
        for service in services {
            match self.services.iter_mut().find(|place| place.name == service.name) {
                Some(place) => *place = service,
                None => self.services.push(service),
            }
        }
        // Lists that were made while a name of theirs was missing lack its id.
        self.lists.clear();
    }

    /// Adds a client, with its tags of the days that are there. The cost doesn't depend on how many others
    /// there are.
    pub fn add(&mut self, enrolment: Enrolment) -> ClientId {
        let start = offset(&self.names);
        self.names.push_str(enrolment.client.name.as_str());
        let name = start..offset(&self.names);
        let entry = self.entry_of(enrolment);
        self.len += 1;
        let freed = self.free.pop();
        if let Some(id) = freed
            && let Some(place) = self.places.get_mut(id.index())
        {
            self.tags.put(id, id.index(), &entry);
            *place = Place { name, entry: Some(entry) };
            return id;
        }
        let place = self.places.len();
        // More than four thousand million places don't fit into any memory.
        let id = ClientId(u32::try_from(place).unwrap_or(u32::MAX));
        self.tags.put_behind(id, place, &entry);
        self.places.push(Place { name, entry: Some(entry) });
        id
    }

    /// Lets the place of a client that was removed be another's, once nothing knows of that client any more.
    pub(super) fn free(&mut self, client: ClientId) {
        let place = self.places.get_mut(client.index());
        let Some(place) = place.filter(|place| place.entry.is_none() && !place.name.is_empty())
        else {
            return;
        };
        let name = mem::replace(&mut place.name, 0..0);
        self.unnamed += name.len();
        self.free.push(client);
        if self.unnamed > self.names.len() / 2 {
            self.forget_names();
        }
    }

    /// Writes the names down anew, without those of clients that are gone.
    fn forget_names(&mut self) {
        let mut names = String::with_capacity(self.names.len() - self.unnamed);
        for place in &mut self.places {
            let start = offset(&names);
            names.push_str(text_of(&self.names, place));
            place.name = start..offset(&names);
        }
        (self.names, self.unnamed) = (names, 0);
    }

    /// Puts other entries in clients' places: their ids stay, and so do their grants. Keys may go from one to
    /// another.
    pub fn replace(&mut self, enrolments: Vec<(ClientId, Enrolment)>) {
        for (client, _) in &enrolments {
            if let Some(former) = self.places.get(client.index()).and_then(|at| at.entry.as_ref()) {
                self.tags.take_out(*client, former);
            }
        }
        for (client, enrolment) in enrolments {
            let entry = self.entry_of(enrolment);
            let place = client.index();
            if let Some(Place { entry: Some(former), .. }) = self.places.get_mut(place) {
                self.tags.put(client, place, &entry);
                *former = entry;
            }
        }
    }

    /// Whether an enrolment would make any difference to a client's entry.
    #[must_use]
    pub fn differs(&self, client: ClientId, enrolment: &Enrolment) -> bool {
        let new = &enrolment.client;
        let until = |old: &Option<Box<OldKeys>>| old.as_ref().map(|old| old.until);
        let Some(entry) = self.entry(client) else { return true };
        let services: Option<Vec<ServiceId>> =
            new.services.iter().map(|name| self.service_named(*name)).collect();
        services.as_deref() != Some(&*entry.services)
            || new.from != *entry.from
            || new.address != entry.address
            || new.clock != entry.clock
            || new.expires != entry.expires
            || new.standing != entry.standing
            || until(&enrolment.old_keys) != until(&entry.old_keys)
            || !enrolment.tags(Day::COUNTER).eq(entry.tags_of_keys(Day::COUNTER))
    }

    /// Removes a client; its keys are wiped, in the box in which they have stood from the first. Its place is nobody's
    /// until the gate has forgotten the client ([`super::Gate::forget`]).
    pub fn remove(&mut self, client: ClientId) {
        let former = self.places.get_mut(client.index()).and_then(|place| place.entry.take());
        if let Some(former) = former {
            self.tags.take_out(client, &former);
            self.len -= 1;
        }
    }

    /// Services of a client that don't exist are left out: the configuration has none.
    fn entry_of(&mut self, Enrolment { client, keys, old_keys }: Enrolment) -> Entry {
        let services = &self.services;
        let list = self.lists.entry(client.services).or_insert_with_key(|names| {
            names.iter().filter_map(|name| position_of(services, *name)).collect()
        });
        Entry {
            keys,
            old_keys,
            services: Arc::clone(list),
            from: client.from.into(),
            address: client.address,
            clock: client.clock,
            expires: client.expires,
            standing: client.standing,
        }
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
        let days: Vec<Day> =
            [Some(today), today.next(), today.previous()].into_iter().flatten().collect();
        self.tags.keep_days(&days, self.len);
        for (first, second) in self.tags.take_counter_collisions() {
            collisions.push(self.collision(Day::COUNTER, first, second));
        }
        for _ in 0..budget {
            let Some((day, place)) = self.tags.unfinished(self.places.len()) else {
                return Progress::Complete;
            };
            // `place` is one of ours, whose number fits: see `add`.
            let client = ClientId(u32::try_from(place).unwrap_or(u32::MAX));
            let entry = self.places.get(place).and_then(|place| place.entry.as_ref());
            if let Some(first) = self.tags.put_next(day, client, entry) {
                collisions.push(self.collision(day, first, client));
            }
        }
        match self.tags.unfinished(self.places.len()) {
            None => Progress::Complete,
            Some(_) => Progress::More,
        }
    }

    fn collision(&self, day: Day, first: ClientId, second: ClientId) -> TagCollision {
        let [first, second] = [first, second].map(|id| self.name(id).to_owned());
        TagCollision { day, first, second }
    }

    /// The day whose tags are looked at first: today, as it was when they were made.
    #[must_use]
    pub fn first_day(&self) -> Option<Day> {
        self.tags.first_day()
    }

    /// Whether tags of this day are there, or at least begun.
    #[must_use]
    pub fn has_tags_of(&self, day: Day) -> bool {
        self.tags.has(day)
    }

    /// The tags of the clients in some places on a day: for the kernel's filter.
    pub fn tags_on(&self, day: Day, places: Range<usize>) -> impl Iterator<Item = Tag> {
        let of_range = self.places.get(places).unwrap_or_default();
        let entries = of_range.iter().filter_map(|place| place.entry.as_ref());
        entries.flat_map(move |entry| entry.tags(day))
    }

    /// Step 2: whose tag this is, and of which day.
    #[must_use]
    pub fn find(&self, tag: Tag) -> Option<(ClientId, &Entry, Day)> {
        let (client, day) = self.tags.find(tag)?;
        Some((client, self.entry(client)?, day))
    }

    /// The service of this name.
    #[must_use]
    pub fn service_named(&self, name: ServiceName) -> Option<ServiceId> {
        position_of(&self.services, name)
    }

    /// The clients' names and ids. Looks at every client: for start-up, never for a packet.
    #[must_use]
    pub fn clients_by_name(&self) -> HashMap<&str, ClientId> {
        self.clients().map(|(client, name)| (name, client)).collect()
    }

    /// The clients' ids and names.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, &str)> {
        let of_place = |(place, id): (&Place, ClientId)| {
            place.entry.is_some().then(|| (id, text_of(&self.names, place)))
        };
        self.places.iter().zip((0..).map(ClientId)).filter_map(of_place)
    }

    /// The entry of a client; `None` if it was removed.
    #[must_use]
    pub fn entry(&self, client: ClientId) -> Option<&Entry> {
        self.places.get(client.index())?.entry.as_ref()
    }

    /// A client's name, also after it was removed, until the gate has forgotten it.
    ///
    /// # Panics
    /// If the id is of another directory, which is a mistake in this program.
    #[must_use]
    pub fn name(&self, client: ClientId) -> &str {
        match self.places.get(client.index()) {
            Some(place) => text_of(&self.names, place),
            None => unreachable!("a client's id is of the directory that gave it"),
        }
    }

    /// A service; without any port if it is gone.
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
        self.len
    }

    /// How many places there are, those of removed clients among them.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no client at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Where the next name begins. Four gigabytes of names are more than the configuration can hold.
fn offset(names: &str) -> u32 {
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

fn position_of(services: &[Service], name: ServiceName) -> Option<ServiceId> {
    let is_there = |service: &Service| service.name == name && !service.ports.is_empty();
    let named = |(service, id): (&Service, ServiceId)| is_there(service).then_some(id);
    services.iter().zip((0..).map(ServiceId)).find_map(named)
}

fn text_of<'a>(names: &'a str, place: &Place) -> &'a str {
    let [start, end] =
        [place.name.start, place.name.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
    names.get(start..end).unwrap_or_default()
}
