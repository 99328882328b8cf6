//! The elements in the kernel: doors, bans and tags.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    time::Duration,
};

use common::{Tag, UnicastAddress};
use nix::errno::Errno;

use super::{
    BanLeft, CHANGES_AT_ONCE, Firewall, FirewallError,
    listing::Listing,
    netlink::{Batch, Element, Netlink, PortId, Step},
    reader::{FEW, Reader},
    ruleset::{BAN4, BAN6, BLOCK4, BLOCK6, DOOR4, DOOR6, Ruleset, TABLE, TABLE_NAME, TAGS},
    template::Template,
};
use crate::{
    gate::{
        bans::{BanChange, BanKind},
        clock::Uptime,
        grants::{Change, Door, DoorBefore},
        policy::{Port, Protocol},
        source::Source,
    },
    local::NeverBanned,
};

/// The sets that the daemon keeps.
pub const KEPT: [&str; 7] = [DOOR4, DOOR6, BAN4, BAN6, BLOCK4, BLOCK6, TAGS];
/// Those of doors and bans.
const DOORS_AND_BANS: [&str; 6] = [DOOR4, DOOR6, BAN4, BAN6, BLOCK4, BLOCK6];

/// The script that puts elements into a table that is made anew. One without an end was never ours.
pub(super) fn script_of(elements: &[Vec<Element>]) -> String {
    elements
        .iter()
        .flatten()
        .filter_map(|element| {
            let Element { set, key, timeout } = element;
            let key = match *set {
                DOOR4 | DOOR6 => {
                    let (address, port) = read_key(key)?;
                    format!("{address} . {} . {}", port.protocol, port.number)
                }
                // A datagram's first eight bytes, as nft writes what has no type of its own.
                TAGS => format!("0x{:016x}", u64::from_be_bytes(key.as_slice().try_into().ok()?)),
                _ => read_address(key)?.to_string(),
            };
            let left = (*timeout)?.as_millis().max(1);
            Some(format!("add element {TABLE} {set} {{ {key} timeout {left}ms }}\n"))
        })
        .collect()
}

/// The elements in the kernel, and the table around them.
pub struct Kernel {
    netlink: Netlink,
    reader: Reader,
}

impl Kernel {
    /// Opens the way to the kernel's sets.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`]
    pub fn open() -> Result<Self, FirewallError> {
        Ok(Self {
            netlink: Netlink::open().map_err(FirewallError::Netlink)?,
            reader: Reader::open().map_err(FirewallError::Netlink)?,
        })
    }

    /// The number of its socket, which the kernel's notifications of what it changes carry.
    #[must_use]
    pub const fn port_id(&self) -> PortId {
        self.netlink.port_id()
    }

    /// How many transactions it has made, and the number of the kernel's ruleset, which grows by one with each
    /// transaction of anybody's. No number if the kernel doesn't say.
    #[must_use]
    pub fn generation(&mut self) -> (u32, Option<u32>) {
        (self.netlink.commits(), self.reader.generation().ok().flatten())
    }

    /// Our table as it is now; `None` if it isn't there.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`]
    pub fn table(&mut self, ruleset: &Ruleset) -> Result<Option<Listing>, FirewallError> {
        self.reader.table(TABLE_NAME, &ruleset.fixed()).map_err(FirewallError::Netlink)
    }

    /// Makes the table that was found the one of a template, in one transaction, with these elements.
    ///
    /// # Errors
    /// [`FirewallError::Refused`]; then everything is as it was.
    pub fn put_in(
        &mut self,
        template: &Template,
        found: Option<&Listing>,
        elements: &[Vec<Element>],
    ) -> Result<(), FirewallError> {
        let mut batch = self.netlink.batch();
        template.put_in(&mut batch, found);
        self.commit_all(batch, elements).map_err(FirewallError::Refused)
    }

    /// Does what is in a batch and adds these elements: as one, or where only root of the whole host may send that much
    /// (in a container), the elements behind it, some at a time.
    fn commit_all(&mut self, batch: Batch, elements: &[Vec<Element>]) -> io::Result<()> {
        match self.netlink.commit_with(batch.clone(), elements) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {}
            result => return result,
        }
        self.netlink.commit(batch)?;
        for elements in elements.iter().flat_map(|elements| elements.chunks(CHANGES_AT_ONCE)) {
            self.netlink.transact(&[Step::Add(elements.to_vec())])?;
        }
        Ok(())
    }

    /// What is in these of the sets that the daemon keeps, where they are there; and those of them that hold more than so
    /// many, or can't be read as a whole.
    ///
    /// # Errors
    /// [`FirewallError`] if one can't be read.
    pub(super) fn kept(
        &mut self,
        sets: &[&str],
        at_most: usize,
    ) -> Result<(Vec<Vec<Element>>, NotCarried), FirewallError> {
        let (mut kept, mut given_up) = (Vec::new(), NotCarried::default());
        for set in KEPT.into_iter().filter(|set| sets.contains(set)) {
            match self.reader.elements(set, at_most) {
                Ok(Some(elements)) => kept.push(elements),
                Ok(None) => given_up.0.push(set),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FirewallError::Netlink(error)),
            }
        }
        Ok((kept, given_up))
    }

    /// The doors that are open, and for how long yet; `None` if a set holds more than so many.
    ///
    /// # Errors
    /// [`FirewallError`] if that can't be read.
    pub fn doors_up_to(
        &mut self,
        at_most: usize,
    ) -> Result<Option<Vec<(Door, Duration)>>, FirewallError> {
        let mut doors = Vec::new();
        for set in [DOOR4, DOOR6] {
            let Some(elements) = self.few(set, at_most)? else { return Ok(None) };
            for element in elements {
                let Some(door) = read_door(&element.key) else { continue };
                doors.push((door, element.timeout.unwrap_or(Duration::MAX)));
            }
        }
        Ok(Some(doors))
    }

    /// The sources that are banned, by whom, and for how long yet; `None` if a set holds more than so many.
    ///
    /// # Errors
    /// [`FirewallError`] if that can't be read.
    pub fn bans_up_to(&mut self, at_most: usize) -> Result<Option<Vec<BanLeft>>, FirewallError> {
        let mut bans = Vec::new();
        for (set, _) in BAN_SETS {
            let Some(elements) = self.few(set, at_most)? else { return Ok(None) };
            for element in elements {
                let Some((source, kind)) = read_ban(set, &element.key) else { continue };
                // One without an end is nobody's of ours.
                bans.push((source, kind, element.timeout.unwrap_or(Duration::MAX)));
            }
        }
        Ok(Some(bans))
    }

    /// Opens doors that aren't open; those that are stay as they are.
    ///
    /// # Errors
    /// [`FirewallError::Refused`]; then none was opened.
    pub fn open_doors(&mut self, doors: &[(Door, Duration)]) -> Result<(), FirewallError> {
        for doors in doors.chunks(CHANGES_AT_ONCE) {
            let steps: Vec<Step> = elements_of(doors, &[]).into_iter().map(Step::Add).collect();
            self.netlink.transact(&steps).map_err(FirewallError::Refused)?;
        }
        Ok(())
    }

    fn few(
        &mut self,
        set: &'static str,
        at_most: usize,
    ) -> Result<Option<Vec<Element>>, FirewallError> {
        self.reader.elements(set, at_most).map_err(FirewallError::Netlink)
    }
}

/// The sets whose elements are lost with a table that is replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct NotCarried(Vec<&'static str>);

impl NotCarried {
    /// What is lost, and what brings it back, in words; `None` if nothing is.
    pub fn told(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| {
            format!(
                "what was in {} is not in the new table, for it is too much to be carried over: knockd puts live grants, bans and tags in again when it runs",
                self.0.join(", ")
            )
        })
    }
}

/// The door in an element's key. `None` if it is none of a set of doors.
#[must_use]
pub fn read_door(key: &[u8]) -> Option<Door> {
    let (address, port) = read_key(key)?;
    Some(Door { address: UnicastAddress::try_from(address).ok()?, port })
}

/// The ban in an element of this set. `None` if it is none of a set of bans.
#[must_use]
pub fn read_ban(set: &str, key: &[u8]) -> Option<(Source, BanKind)> {
    let (_, kind) = BAN_SETS.into_iter().find(|(name, _)| *name == set)?;
    Some((Source::from_first(read_address(key)?), kind))
}

/// Doors and bans as elements of a table that is made anew.
#[must_use]
pub fn elements_of(doors: &[(Door, Duration)], bans: &[BanLeft]) -> Vec<Vec<Element>> {
    let of_doors = [DOOR4, DOOR6].into_iter().map(|set| {
        let doors = doors.iter().filter(|(door, _)| set_of(door) == set);
        doors.map(|(door, left)| element(door, *left)).collect()
    });
    let of_bans = BAN_SETS.into_iter().map(|(set, of_kind)| {
        let bans = bans.iter().filter(|(source, kind, _)| ban_set(*source, *kind) == set);
        bans.map(|(source, _, left)| ban_element(*source, of_kind, *left)).collect()
    });
    of_doors.chain(of_bans).collect()
}

impl Firewall for Kernel {
    fn apply(&mut self, changes: &[Change], now: Uptime) -> Result<(), FirewallError> {
        // The kernel refuses to delete an element twice; the last word on a door is the one that counts,
        // and the first on whether it was open before.
        let mut last: BTreeMap<Door, Change> = BTreeMap::new();
        for change in changes {
            let before = last.get(&change.door).map_or(change.before, |first| first.before);
            last.insert(change.door, Change { before, ..*change });
        }
        let last: Vec<Change> = last.into_values().collect();
        for changes in last.chunks(CHANGES_AT_ONCE) {
            self.change(changes, now).map_err(FirewallError::Refused)?;
        }
        Ok(())
    }

    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError> {
        // As with doors: the last word counts, and no element may be deleted twice.
        let last: BTreeMap<(&'static str, Source), BanChange> = changes
            .iter()
            .map(|change| ((ban_set(change.source, change.kind), change.source), *change))
            .collect();
        let last: Vec<BanChange> = last.into_values().collect();
        for changes in last.chunks(CHANGES_AT_ONCE) {
            self.netlink.transact(&ban_steps(changes, now)).map_err(FirewallError::Refused)?;
        }
        Ok(())
    }

    fn bans(&mut self) -> Result<Option<Vec<BanLeft>>, FirewallError> {
        self.bans_up_to(FEW)
    }

    fn own_addresses(&mut self) -> io::Result<NeverBanned> {
        NeverBanned::look()
    }

    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError> {
        let elements: Vec<Element> = tags
            .iter()
            .map(|(tag, timeout)| Element {
                set: TAGS,
                key: tag.as_bytes().to_vec(),
                timeout: Some(*timeout),
            })
            .collect();
        for elements in elements.chunks(CHANGES_AT_ONCE) {
            let stays = |element: &&Element| element.timeout != Some(Duration::ZERO);
            let staying = elements.iter().filter(stays).cloned().collect();
            self.netlink
                .transact(&renew(elements.to_vec(), staying))
                .map_err(FirewallError::Refused)?;
        }
        Ok(())
    }

    fn doors(&mut self) -> Result<Option<Vec<(Door, Duration)>>, FirewallError> {
        self.doors_up_to(FEW)
    }

    fn replace(
        &mut self,
        doors: &[(Door, Duration)],
        bans: &[BanLeft],
    ) -> Result<(), FirewallError> {
        let batch = self.netlink.emptied(&DOORS_AND_BANS);
        let elements = elements_of(doors, bans);
        self.commit_all(batch, &elements).map_err(FirewallError::Refused)
    }
}

impl Kernel {
    fn change(&mut self, changes: &[Change], now: Uptime) -> io::Result<()> {
        match self.netlink.transact(&steps(changes, now)) {
            // A door was open that nobody is known to hold: then all are changed the longer way.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let maybe_open =
                    |change: &Change| Change { before: DoorBefore::MaybeOpen, ..*change };
                let changes: Vec<Change> = changes.iter().map(maybe_open).collect();
                self.netlink.transact(&steps(&changes, now))
            }
            result => result,
        }
    }
}

fn steps(changes: &[Change], now: Uptime) -> Vec<Step> {
    // A door whose time is over already is shut: the kernel takes no time for "for ever".
    let time_left =
        |change: &Change| change.until.filter(|until| *until > now).map(|until| until.since(now));
    let mut steps = Vec::new();
    for set in [DOOR4, DOOR6] {
        let of_set = |before| {
            changes
                .iter()
                .filter(move |change| set_of(&change.door) == set && change.before == before)
        };
        let opened = |before| -> Vec<Element> {
            of_set(before)
                .filter_map(|change| Some(element(&change.door, time_left(change)?)))
                .collect()
        };
        let new = opened(DoorBefore::Shut);
        if !new.is_empty() {
            steps.push(Step::Create(new));
        }
        let known: Vec<Element> = of_set(DoorBefore::MaybeOpen)
            .map(|change| element(&change.door, Duration::from_secs(1)))
            .collect();
        steps.extend(renew(known, opened(DoorBefore::MaybeOpen)));
    }
    steps
}

/// Add, delete, add: only so is a timeout renewed on kernels before 6.12, where adding what is there does
/// nothing and says so to nobody; and deleting what isn't there fails everything.
fn renew(known: Vec<Element>, then: Vec<Element>) -> Vec<Step> {
    let add = |elements: Vec<Element>| (!elements.is_empty()).then_some(Step::Add(elements));
    let delete = (!known.is_empty()).then(|| Step::Delete(known.clone()));
    [add(known), delete, add(then)].into_iter().flatten().collect()
}

/// The sets of bans, and whose they are.
const BAN_SETS: [(&str, BanKind); 4] = [
    (BAN4, BanKind::Failures),
    (BAN6, BanKind::Failures),
    (BLOCK4, BanKind::Admin),
    (BLOCK6, BanKind::Admin),
];

fn ban_set(source: Source, kind: BanKind) -> &'static str {
    match (kind, source.first()) {
        (BanKind::Failures, IpAddr::V4(_)) => BAN4,
        (BanKind::Failures, IpAddr::V6(_)) => BAN6,
        (BanKind::Admin, IpAddr::V4(_)) => BLOCK4,
        (BanKind::Admin, IpAddr::V6(_)) => BLOCK6,
    }
}

fn ban_steps(changes: &[BanChange], now: Uptime) -> Vec<Step> {
    let mut steps = Vec::new();
    for (set, _) in BAN_SETS {
        let of_set = || changes.iter().filter(|change| ban_set(change.source, change.kind) == set);
        let element =
            |change: &BanChange, timeout| ban_element(change.source, change.kind, timeout);
        let known = of_set().map(|change| element(change, Duration::from_secs(1))).collect();
        let then = of_set().filter_map(|change| {
            let until = change.until.filter(|until| *until > now)?;
            Some(element(change, until.since(now)))
        });
        steps.extend(renew(known, then.collect()));
    }
    steps
}

fn ban_element(source: Source, kind: BanKind, left: Duration) -> Element {
    let key = address_key(source.first());
    Element { set: ban_set(source, kind), key, timeout: Some(left) }
}

fn set_of(door: &Door) -> &'static str {
    match door.address.ip() {
        IpAddr::V4(_) => DOOR4,
        IpAddr::V6(_) => DOOR6,
    }
}

fn element(door: &Door, timeout: Duration) -> Element {
    let mut key = address_key(door.address.ip());
    let [high, low] = door.port.number.get().to_be_bytes();
    key.extend_from_slice(&[door.port.protocol.number(), 0, 0, 0, high, low, 0, 0]);
    Element { set: set_of(door), key, timeout: Some(timeout) }
}

fn address_key(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn read_address(key: &[u8]) -> Option<IpAddr> {
    match key.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(key).ok()?).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(key).ok()?).into()),
    }
}

/// The address and port in an element's key: its fields, each padded to four bytes. `None` if it is none
/// of a set of doors.
#[must_use]
pub fn read_key(key: &[u8]) -> Option<(IpAddr, Port)> {
    let (address, port) = key.split_at_checked(key.len().checked_sub(8)?)?;
    Some((read_address(address)?, read_port(port)?))
}

pub(super) fn read_port(key: &[u8]) -> Option<Port> {
    let [protocol, _, _, _, high, low, _, _] = *<&[u8; 8]>::try_from(key).ok()?;
    let number = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
    Some(Port { protocol: Protocol::from_number(protocol)?, number })
}
