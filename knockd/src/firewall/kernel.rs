//! The elements in the kernel: doors, bans and tags.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    time::Duration,
};

use common::{Tag, UnicastAddress};

use super::{
    CHANGES_AT_ONCE, Firewall, FirewallError,
    netlink::{Element, Netlink, PortId, Step},
    ruleset::{BAN4, BAN6, BLOCK4, BLOCK6, DOOR4, DOOR6, TABLE, TAGS},
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

/// The script that puts doors into a table that is made anew.
pub(super) fn door_elements(doors: &[(Door, Duration)]) -> String {
    doors
        .iter()
        // One without an end was never ours.
        .filter(|(_, left)| *left < Duration::MAX)
        .map(|(door, left)| {
            format!(
                "add element {TABLE} {} {{ {} . {} . {} timeout {}ms }}\n",
                set_of(door),
                door.address,
                door.port.protocol,
                door.port.number,
                left.as_millis().max(1)
            )
        })
        .collect()
}

/// The script that puts bans into a table that is made anew.
pub(super) fn ban_elements(bans: &[(Source, BanKind, Duration)]) -> String {
    bans.iter()
        .map(|(source, kind, left)| {
            format!(
                "add element {TABLE} {} {{ {} timeout {}ms }}\n",
                ban_set(*source, *kind),
                source.first(),
                left.as_millis().max(1)
            )
        })
        .collect()
}

/// The doors and bans in the kernel.
pub struct Kernel {
    netlink: Netlink,
}

impl Kernel {
    /// Opens the way to the kernel's sets.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`]
    pub fn open() -> Result<Self, FirewallError> {
        Ok(Self { netlink: Netlink::open().map_err(FirewallError::Netlink)? })
    }

    /// The number of its socket, which the kernel's notifications of what it changes carry.
    #[must_use]
    pub const fn port_id(&self) -> PortId {
        self.netlink.port_id()
    }

    /// The elements of a set.
    pub(super) fn dump(&mut self, set: &'static str) -> Result<Vec<Element>, FirewallError> {
        self.netlink.dump(set).map_err(FirewallError::Netlink)
    }
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

    fn bans(&mut self) -> Result<Vec<(Source, BanKind, Duration)>, FirewallError> {
        let mut bans = Vec::new();
        for (set, kind) in BAN_SETS {
            for element in self.dump(set)? {
                let Some(address) = read_address(&element.key) else { continue };
                // One without an end is nobody's of ours.
                bans.push((
                    Source::from_first(address),
                    kind,
                    element.timeout.unwrap_or(Duration::MAX),
                ));
            }
        }
        Ok(bans)
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

    fn doors(&mut self) -> Result<Vec<(Door, Duration)>, FirewallError> {
        let mut doors = Vec::new();
        for set in [DOOR4, DOOR6] {
            for element in self.dump(set)? {
                let Some((address, port)) = read_key(&element.key) else { continue };
                let Ok(address) = UnicastAddress::try_from(address) else { continue };
                doors.push((Door { address, port }, element.timeout.unwrap_or(Duration::MAX)));
            }
        }
        Ok(doors)
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
        let element = |change: &BanChange, timeout| Element {
            set,
            key: address_key(change.source.first()),
            timeout: Some(timeout),
        };
        let known = of_set().map(|change| element(change, Duration::from_secs(1))).collect();
        let then = of_set().filter_map(|change| {
            let until = change.until.filter(|until| *until > now)?;
            Some(element(change, until.since(now)))
        });
        steps.extend(renew(known, then.collect()));
    }
    steps
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
