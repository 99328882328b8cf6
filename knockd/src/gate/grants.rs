//! Who holds which door open, and until when.
//!
//! An owner (client, address, service) holds the doors of its service's ports; a door stays open for
//! as long as any owner holds it. This is the truth that the kernel's sets are made to match.
//!
//! # Security considerations
//! - A door's time is max(old, new): only its owners' closing shortens it, so that no packet, and no
//!   neighbour behind the same address, shuts anybody out.
//! - A door is by address and port. Services that share a port must lead to the same place, which the
//!   configuration checks.
//! - A client holds doors for a bounded number of addresses (`grant.per-client`). At one more its own oldest gives way
//!   ([`Grants::make_room`]), so that a device that moves about is always let in, and nobody fills what all share.
//! - At most [`Grants::MAX`] owners, and as many doors: then who holds nothing yet isn't let in. What is held stays held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    num::NonZeroU32,
    ops::Bound,
    time::Duration,
};

use common::UnicastAddress;

use super::{
    clock::Uptime,
    directory::{ClientId, Directory, ServiceId},
    policy::Port,
    shares::Shares,
    source::Source,
};

/// Who holds doors open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The address that the doors are for. First, so that one address's owners stand side by side.
    pub address: UnicastAddress,
    /// The client that knocked.
    pub client: ClientId,
    /// The service whose ports are open.
    pub service: ServiceId,
}

impl Owner {
    /// Less than every owner of this address, or no other.
    const fn first_of(address: UnicastAddress) -> Self {
        Self { address, client: ClientId::FIRST, service: ServiceId::FIRST }
    }

    /// The owner that is this client at this address with the first of all services.
    const fn first_of_client(client: ClientId, address: UnicastAddress) -> Self {
        Self { address, client, service: ServiceId::FIRST }
    }
}

/// A door: one element of the kernel's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Door {
    /// The address that it is open for.
    pub address: UnicastAddress,
    /// The port that it leads to.
    pub port: Port,
}

/// What is to become of a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The door.
    pub door: Door,
    /// Until when it is open; `None` to shut it now.
    pub until: Option<Uptime>,
    /// Whether it can be open already.
    pub before: DoorBefore,
}

/// Whether a door can be open before it is changed: opening one that is shut costs the kernel a tenth of
/// what changing the time of an open one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorBefore {
    /// Nobody has held it for as long as the kernel could take to shut it.
    Shut,
    /// Somebody holds it, or did so until just now.
    MaybeOpen,
}

/// How long a door counts as perhaps still open after its time: more than the kernel's timers are late.
const SHUTTING: Duration = Duration::from_secs(1);

/// How an owner stood before a change, to undo it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "without it the change can't be undone"]
pub struct Before {
    /// The owner that was changed.
    pub owner: Owner,
    /// Until when it held its doors; `None` if it held none.
    pub until: Option<Uptime>,
}

/// There are [`Grants::MAX`] owners or doors already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} grants or doors are held, and no more fit", Grants::MAX)]
pub struct TooMany;

/// All grants that are live.
pub struct Grants {
    owners: BTreeMap<Owner, Uptime>,
    ends: BTreeSet<(Uptime, Owner)>,
    doors: HashMap<Door, Uptime>,
    shares: Shares,
    /// The most owners, and the most doors.
    room: usize,
}

impl Default for Grants {
    fn default() -> Self {
        Self::with_room(Self::MAX)
    }
}

impl Grants {
    /// The most owners that can hold doors at once, and the most doors; also the size of each of the kernel's sets of
    /// doors, of which none can hold more than all doors together.
    pub const MAX: usize = 1 << 20;

    /// No grants yet, and room for so many owners, and as many doors.
    #[must_use]
    pub fn with_room(room: usize) -> Self {
        Self {
            owners: BTreeMap::new(),
            ends: BTreeSet::new(),
            doors: HashMap::new(),
            shares: Shares::default(),
            room,
        }
    }

    /// Makes room for a client that knocks from this address for these services. Where it holds `per_client` other
    /// addresses, or no more fit at all, those of its own give way that it hasn't knocked from for the longest time.
    /// The changes that follow for the kernel go to `changes`. Returns what has given way, to undo it by.
    pub fn make_room(
        &mut self,
        client: ClientId,
        address: UnicastAddress,
        services: &[ServiceId],
        per_client: NonZeroU32,
        directory: &Directory,
        changes: &mut Vec<Change>,
    ) -> Vec<Before> {
        let per_client = usize::try_from(per_client.get()).unwrap_or(usize::MAX);
        let mut given_way = Vec::new();
        while self.shares.beside(client, address) >= per_client
            || !self.has_room_for(client, address, services, directory)
        {
            let Some(oldest) = self.shares.oldest_beside(client, address) else { break };
            let held: Vec<Owner> = self
                .owners
                .range(Owner::first_of_client(client, oldest)..)
                .map(|(owner, _)| *owner)
                .take_while(|owner| owner.address == oldest && owner.client == client)
                .collect();
            given_way.extend(held.into_iter().map(|owner| self.close(owner, directory, changes)));
        }
        given_way
    }

    fn has_room_for(
        &self,
        client: ClientId,
        address: UnicastAddress,
        services: &[ServiceId],
        directory: &Directory,
    ) -> bool {
        let owners = services.iter().map(|service| Owner { address, client, service: *service });
        let (mut grants, mut doors) = (0, 0);
        for owner in owners.filter(|owner| !self.owners.contains_key(owner)) {
            grants += 1;
            doors += directory.service(owner.service).ports.len();
        }
        self.owners.len() + grants <= self.room && self.doors.len() + doors <= self.room
    }

    /// The client that holds the most, and how many grants. Looks at every client that holds any.
    #[must_use]
    pub fn fullest(&self) -> Option<(ClientId, usize)> {
        self.shares.fullest()
    }

    /// Lets an owner hold its service's doors until then, or for as long as it does, whichever is longer.
    /// The changes that follow for the kernel go to `changes`.
    ///
    /// # Errors
    /// [`TooMany`] if there is no room for another owner.
    pub fn open(
        &mut self,
        owner: Owner,
        until: Uptime,
        directory: &Directory,
        changes: &mut Vec<Change>,
    ) -> Result<Before, TooMany> {
        let before = self.owners.get(&owner).copied();
        if before.is_none()
            && !self.has_room_for(owner.client, owner.address, &[owner.service], directory)
        {
            return Err(TooMany);
        }
        if before.is_none_or(|held| held < until) {
            self.set(owner, Some(until));
        }
        self.shares.renew(owner);
        for port in &directory.service(owner.service).ports {
            let door = Door { address: owner.address, port: *port };
            let before = match self.doors.get(&door) {
                None => DoorBefore::Shut,
                Some(_) => DoorBefore::MaybeOpen,
            };
            let open_until = self.doors.entry(door).or_insert(until);
            *open_until = until.max(*open_until);
            changes.push(Change { door, until: Some(*open_until), before });
        }
        Ok(Before { owner, until: before })
    }

    /// Ends an owner's hold. Doors that others hold stay open for as long as those do.
    pub fn close(
        &mut self,
        owner: Owner,
        directory: &Directory,
        changes: &mut Vec<Change>,
    ) -> Before {
        let before = self.owners.get(&owner).copied();
        if before.is_some() {
            self.set(owner, None);
            self.settle(owner, directory, changes);
        }
        Before { owner, until: before }
    }

    /// Lets an owner hold its doors until then and no longer. Those that others hold stay open for as long as those do.
    pub fn shorten(
        &mut self,
        owner: Owner,
        until: Uptime,
        directory: &Directory,
        changes: &mut Vec<Change>,
    ) {
        if self.owners.get(&owner).is_some_and(|held| *held > until) {
            self.set(owner, Some(until));
            self.settle(owner, directory, changes);
        }
    }

    /// Undoes a change that did not come to pass. What the kernel then holds is unchanged.
    pub fn undo(&mut self, before: Before, directory: &Directory) {
        self.set(before.owner, before.until);
        self.settle(before.owner, directory, &mut Vec::new());
    }

    /// Lets go of the owners whose time is over, and a second more; the kernel has shut their doors by
    /// itself.
    pub fn expire(&mut self, now: Uptime, directory: &Directory) -> Vec<Owner> {
        let is_over = |end: Uptime| end + SHUTTING <= now;
        let mut expired = Vec::new();
        while let Some((_, owner)) = self.ends.first().copied().filter(|(end, _)| is_over(*end)) {
            self.set(owner, None);
            for port in &directory.service(owner.service).ports {
                let door = Door { address: owner.address, port: *port };
                if self.doors.get(&door).is_some_and(|end| is_over(*end)) {
                    self.doors.remove(&door);
                }
            }
            expired.push(owner);
        }
        expired
    }

    /// Makes the doors follow from who holds them, after the services' ports have changed: a service's owners
    /// hold a port that it has gained for as long as its others, and one that it has lost no longer. The changes
    /// that follow for the kernel go to `changes`. Looks at every owner.
    pub fn follow(&mut self, directory: &Directory, changes: &mut Vec<Change>) {
        let before = mem::take(&mut self.doors);
        for (owner, until) in &self.owners {
            for port in &directory.service(owner.service).ports {
                let door = Door { address: owner.address, port: *port };
                let open_until = self.doors.entry(door).or_insert(*until);
                *open_until = (*until).max(*open_until);
            }
        }
        for (door, until) in &self.doors {
            let was_open = before.get(door);
            if was_open != Some(until) {
                let before = match was_open {
                    None => DoorBefore::Shut,
                    Some(_) => DoorBefore::MaybeOpen,
                };
                changes.push(Change { door: *door, until: Some(*until), before });
            }
        }
        let lost = before.into_keys().filter(|door| !self.doors.contains_key(door));
        changes.extend(lost.map(|door| Change {
            door,
            until: None,
            before: DoorBefore::MaybeOpen,
        }));
    }

    /// Whether anybody holds a door for an address of this source.
    #[must_use]
    pub fn any_live_of(&self, source: Source, now: Uptime) -> bool {
        self.of_source(source).any(|(_, until)| now < *until)
    }

    /// The owners whose address is of this source, and until when they hold their doors.
    pub fn of_source(&self, source: Source) -> impl Iterator<Item = (&Owner, &Uptime)> {
        // Where any of a source's addresses is unicast, its first is; but ::/64 begins with :: and ::1.
        let mut addresses = source.network().hosts().take(3);
        let first = addresses.find_map(|address| UnicastAddress::try_from(address).ok());
        first
            .map(Owner::first_of)
            .into_iter()
            .flat_map(|first| self.owners.range(first..))
            .take_while(move |(owner, _)| source.contains(owner.address.ip()))
    }

    /// Who holds doors, and until when.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = (&Owner, &Uptime)> {
        self.owners.iter()
    }

    /// The owners that come after this one, in an order that no renewal changes.
    pub fn owners_after(&self, last: Option<Owner>) -> impl Iterator<Item = (&Owner, &Uptime)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.owners.range((from, Bound::Unbounded))
    }

    /// How many grants are live. What it costs grows with how many are over that [`Self::expire`] hasn't let go.
    #[must_use]
    pub fn live(&self, now: Uptime) -> usize {
        self.owners.len() - self.ends.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Which doors are open, and until when.
    pub fn doors(&self) -> impl ExactSizeIterator<Item = (&Door, &Uptime)> {
        self.doors.iter()
    }

    /// Until when a door is open; `None` if it is shut.
    #[must_use]
    pub fn open_until(&self, door: &Door) -> Option<Uptime> {
        self.doors.get(door).copied()
    }

    /// Until when an owner holds its doors.
    #[must_use]
    pub fn held_until(&self, owner: &Owner) -> Option<Uptime> {
        self.owners.get(owner).copied()
    }

    fn set(&mut self, owner: Owner, until: Option<Uptime>) {
        let before = match until {
            Some(until) => self.owners.insert(owner, until),
            None => self.owners.remove(&owner),
        };
        match (before, until) {
            (None, Some(_)) => self.shares.put(owner),
            (Some(_), None) => self.shares.take(owner),
            _ => {}
        }
        if let Some(before) = before {
            self.ends.remove(&(before, owner));
        }
        if let Some(until) = until {
            self.ends.insert((until, owner));
        }
    }

    /// Makes the doors of an owner's service follow from those who still hold them.
    fn settle(&mut self, owner: Owner, directory: &Directory, changes: &mut Vec<Change>) {
        for port in &directory.service(owner.service).ports {
            let door = Door { address: owner.address, port: *port };
            let until = self.longest_hold(door, directory);
            match until {
                Some(until) => self.doors.insert(door, until),
                None => self.doors.remove(&door),
            };
            changes.push(Change { door, until, before: DoorBefore::MaybeOpen });
        }
    }

    fn longest_hold(&self, door: Door, directory: &Directory) -> Option<Uptime> {
        self.owners
            .range(Owner::first_of(door.address)..)
            .take_while(|(owner, _)| owner.address == door.address)
            .filter(|(owner, _)| directory.service(owner.service).ports.contains(&door.port))
            .map(|(_, until)| *until)
            .max()
    }
}
