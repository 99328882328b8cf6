//! The one place where the kernel's elements are made to match what the daemon knows: at start, and after
//! somebody else has changed them.
//!
//! What the kernel holds is read only where it is little: a dump of a large set takes it seconds. Otherwise what is known
//! to be in doubt is written anew ([`settle`]), or everything is ([`reconcile`]).
//!
//! # Security considerations
//! - A source that is banned in the kernel and not by us is let go, and the other way round.
//! - A door that no live grant stands for is shut; one that is open for another time than is left of its
//!   grant gets that time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    firewall::{BanLeft, Firewall, FirewallError},
    gate::{
        bans::{Ban, BanChange, BanKind, Bans},
        clock::Uptime,
        grants::{Change, Door, DoorBefore, Grants},
        source::Source,
    },
};

/// How far a door's time may be off: more than passes between a decision and its effect, and than the kernel's
/// timers are late.
const TOLERANCE: Duration = Duration::from_secs(1);

/// What did not match, and does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many doors were missing, or open for another time.
    pub doors: usize,
    /// The doors that nobody holds, and were open.
    pub stray: Vec<Door>,
    /// How many bans were missing, for another time, or not ours.
    pub bans: usize,
    /// Whether more doors were missing than were to be opened at once: none of them is open yet.
    pub doors_are_due: bool,
}

impl Reconciled {
    /// How many doors and bans did not match.
    #[must_use]
    pub const fn changed(&self) -> usize {
        self.doors + self.stray.len() + self.bans
    }
}

/// Doors and bans that may not be as they ought to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InDoubt {
    /// Doors.
    pub doors: HashSet<Door>,
    /// Bans, by source and by whom.
    pub bans: HashSet<(Source, BanKind)>,
}

impl InDoubt {
    /// So many are remembered at most, one by one.
    pub const MOST: usize = 4096;

    /// Whether they are more than are remembered.
    #[must_use]
    pub fn is_too_much(&self) -> bool {
        self.doors.len() + self.bans.len() > Self::MOST
    }
}

/// Makes these doors and bans what they ought to be, without looking what they are: in microseconds for each.
///
/// # Errors
/// [`FirewallError`]; some may be right then.
pub fn settle(
    firewall: &mut impl Firewall,
    grants: &Grants,
    bans: &Bans,
    in_doubt: &InDoubt,
    now: Uptime,
) -> Result<(), FirewallError> {
    let doors = in_doubt.doors.iter().map(|door| Change {
        door: *door,
        until: grants.open_until(door).filter(|until| *until > now),
        before: DoorBefore::MaybeOpen,
    });
    let doors: Vec<Change> = doors.collect();
    if !doors.is_empty() {
        firewall.apply(&doors, now)?;
    }
    let bans = in_doubt.bans.iter().map(|(source, kind)| {
        let ban = bans.get(*source).filter(|ban| ban.kind == *kind && ban.until > now);
        BanChange { source: *source, kind: *kind, until: ban.map(|ban| ban.until) }
    });
    let bans: Vec<BanChange> = bans.collect();
    if !bans.is_empty() {
        firewall.ban(&bans, now)?;
    }
    Ok(())
}

/// Makes the kernel's elements those of the live grants and bans: changes what differs, or puts all of them in place of
/// what is there where that is too much to be read. That takes a second for each 500,000.
///
/// # Errors
/// [`FirewallError`]; some may match then.
pub fn reconcile(
    firewall: &mut impl Firewall,
    grants: &Grants,
    bans: &Bans,
    now: Uptime,
) -> Result<Reconciled, FirewallError> {
    if let Some(reconciled) = reconcile_few(firewall, grants, bans, usize::MAX, now)? {
        return Ok(reconciled);
    }
    let (doors, bans) = (live_doors(grants, now), live_bans(bans, now));
    firewall.replace(&doors, &bans)?;
    Ok(Reconciled { doors: doors.len(), bans: bans.len(), ..Reconciled::default() })
}

/// The doors that are to be open, and for how long yet.
#[must_use]
pub fn live_doors(grants: &Grants, now: Uptime) -> Vec<(Door, Duration)> {
    let live = grants.doors().filter(|(_, until)| **until > now);
    live.map(|(door, until)| (*door, until.since(now))).collect()
}

/// The sources that are to be banned, by whom, and for how long yet.
#[must_use]
pub fn live_bans(bans: &Bans, now: Uptime) -> Vec<BanLeft> {
    let live = bans.iter().filter(|(_, ban)| ban.until > now);
    live.map(|(source, ban)| (*source, ban.kind, ban.until.since(now))).collect()
}

/// Makes the kernel's elements those of the live grants and bans, if they are few enough to be read: `None` if they
/// aren't, and nothing is changed then. Where more doors than `at_once` are missing, they are left to the caller.
///
/// # Errors
/// [`FirewallError`]; some may match then.
pub fn reconcile_few(
    firewall: &mut impl Firewall,
    grants: &Grants,
    bans: &Bans,
    at_once: usize,
    now: Uptime,
) -> Result<Option<Reconciled>, FirewallError> {
    let Some(open) = firewall.doors()? else { return Ok(None) };
    let Some(banned) = firewall.bans()? else { return Ok(None) };
    let open: HashMap<Door, Duration> = open.into_iter().collect();
    let is_live = |door: &Door| grants.open_until(door).is_some_and(|until| until > now);
    let stray: Vec<Door> = open
        .iter()
        // One whose grant has just ended is about to shut by itself.
        .filter(|(door, left)| !is_live(door) && **left > TOLERANCE)
        .map(|(door, _)| *door)
        .collect();
    let is_right = |door: &Door, until: Uptime| {
        open.get(door).is_some_and(|left| left.abs_diff(until.since(now)) <= TOLERANCE)
    };
    let wrong: Vec<(Door, Uptime)> = grants
        .doors()
        .map(|(door, until)| (*door, *until))
        .filter(|(door, until)| *until > now && !is_right(door, *until))
        .collect();
    let change = |door, until| Change { door, until, before: DoorBefore::MaybeOpen };
    let shut = stray.iter().map(|door| change(*door, None));
    let doors_are_due = wrong.len() > at_once;
    let now_opened = if doors_are_due { &[][..] } else { &wrong[..] };
    let opened = now_opened.iter().map(|(door, until)| change(*door, Some(*until)));
    let changes: Vec<Change> = shut.chain(opened).collect();
    if !changes.is_empty() {
        firewall.apply(&changes, now)?;
    }
    let bans = reconcile_bans(firewall, bans, banned, now)?;
    Ok(Some(Reconciled { doors: wrong.len(), stray, bans, doors_are_due }))
}

/// Returns how many bans had to be changed.
fn reconcile_bans(
    firewall: &mut impl Firewall,
    bans: &Bans,
    found: Vec<BanLeft>,
    now: Uptime,
) -> Result<usize, FirewallError> {
    let found: HashMap<(Source, BanKind), Duration> =
        found.into_iter().map(|(source, kind, left)| ((source, kind), left)).collect();
    let holds = |(source, kind): &(Source, BanKind)| {
        bans.get(*source).is_some_and(|ban| ban.kind == *kind && ban.until > now)
    };
    let stray = found.iter().filter(|(ban, left)| !holds(ban) && **left > TOLERANCE);
    let stray = stray.map(|((source, kind), _)| (*source, *kind, None));
    let is_right = |source: Source, ban: &Ban| {
        let left = found.get(&(source, ban.kind));
        left.is_some_and(|left| left.abs_diff(ban.until.since(now)) <= TOLERANCE)
    };
    let wrong = bans
        .iter()
        .filter(|(source, ban)| ban.until > now && !is_right(**source, ban))
        .map(|(source, ban)| (*source, ban.kind, Some(ban.until)));
    let changes: Vec<BanChange> =
        stray.chain(wrong).map(|(source, kind, until)| BanChange { source, kind, until }).collect();
    if !changes.is_empty() {
        firewall.ban(&changes, now)?;
    }
    Ok(changes.len())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use common::{Realm, Secret, UnicastAddress};

    use super::*;
    use crate::{
        firewall::memory::MemoryFirewall,
        gate::{
            directory::Directory,
            grants::Owner,
            policy::{AddressPolicy, Client, ClientClock, Service, Standing},
        },
    };

    const START: Uptime = Uptime::from_millis(50_000);

    fn after(seconds: u64) -> Uptime {
        START + Duration::from_secs(seconds)
    }

    fn unicast(address: &str) -> UnicastAddress {
        let address: IpAddr = address.parse().unwrap();
        address.try_into().unwrap()
    }

    fn door(address: &str) -> Door {
        Door { address: unicast(address), port: "tcp/8883".parse().unwrap() }
    }

    /// The grants of a client at this address, until 60 s after the start.
    fn granted(address: &str) -> Grants {
        let service = Service {
            name: "mqtts".parse().unwrap(),
            ports: vec!["tcp/8883".parse().unwrap()],
            to: Vec::new(),
        };
        let mut secret = [1; 32];
        secret[0] = 2;
        let client = Client {
            name: "press-17".parse().unwrap(),
            secret: Secret::new(secret).unwrap(),
            services: ["mqtts".parse().unwrap()].into(),
            from: Vec::new(),
            address: AddressPolicy::Strict,
            clock: ClientClock::Utc,
            expires: None,
            old_key: None,
            standing: Standing::Enabled,
        };
        let directory = Directory::new(vec![service], vec![client], &Realm::default());
        let client = directory.clients_by_name()["press-17"];
        let service = directory.service_named("mqtts".parse().unwrap()).unwrap();
        let owner = Owner { address: unicast(address), client, service };
        let mut grants = Grants::default();
        let _ = grants.open(owner, after(60), &directory, &mut Vec::new()).unwrap();
        grants
    }

    /// A kernel in which these doors are open, 10 s after the start.
    fn kernel(doors: &[(&str, Uptime)]) -> MemoryFirewall {
        let mut firewall = MemoryFirewall::default();
        let changes: Vec<Change> = doors
            .iter()
            .map(|(address, until)| Change {
                door: door(address),
                until: Some(*until),
                before: DoorBefore::Shut,
            })
            .collect();
        firewall.apply(&changes, after(10)).unwrap();
        firewall
    }

    #[test]
    fn doors_that_match_the_grants_are_left_alone() {
        let mut firewall = kernel(&[("10.77.0.2", after(60))]);
        firewall.fail_with(Some(std::io::ErrorKind::PermissionDenied));
        let reconciled =
            reconcile(&mut firewall, &granted("10.77.0.2"), &Bans::default(), after(10)).unwrap();
        assert_eq!(reconciled.changed(), 0);
    }

    #[test]
    fn a_missing_door_and_one_that_is_open_for_another_time_get_the_time_that_is_left() {
        for found in [&[][..], &[("10.77.0.2", after(900))], &[("10.77.0.2", after(20))]] {
            let mut firewall = kernel(found);
            let reconciled =
                reconcile(&mut firewall, &granted("10.77.0.2"), &Bans::default(), after(10))
                    .unwrap();
            assert_eq!((reconciled.doors, reconciled.stray.len()), (1, 0));
            assert!(firewall.is_open(&door("10.77.0.2"), after(59)));
            assert!(!firewall.is_open(&door("10.77.0.2"), after(60)));
        }
    }

    #[test]
    fn a_door_that_nobody_holds_is_shut() {
        let mut firewall = kernel(&[("10.77.0.2", after(60)), ("10.77.0.3", after(60))]);
        let reconciled =
            reconcile(&mut firewall, &granted("10.77.0.2"), &Bans::default(), after(10)).unwrap();
        assert_eq!(
            reconciled,
            Reconciled { stray: vec![door("10.77.0.3")], ..Reconciled::default() }
        );
        assert!(!firewall.is_open(&door("10.77.0.3"), after(10)));
        assert!(firewall.is_open(&door("10.77.0.2"), after(10)));
    }

    #[test]
    fn a_door_whose_grant_has_just_ended_is_no_stray_one() {
        let mut firewall = kernel(&[("10.77.0.2", after(61))]);
        firewall.advance(after(60));
        let reconciled =
            reconcile(&mut firewall, &granted("10.77.0.2"), &Bans::default(), after(60)).unwrap();
        assert_eq!(reconciled.changed(), 0);
    }

    #[test]
    fn where_there_is_too_much_to_be_read_all_of_it_is_replaced() {
        let mut firewall = kernel(&[("10.77.0.3", after(60)), ("10.77.0.4", after(60))]);
        firewall.read_at_most(1);
        let granted = granted("10.77.0.2");
        assert_eq!(
            reconcile_few(&mut firewall, &granted, &Bans::default(), 9, after(10)).unwrap(),
            None
        );
        assert_eq!(firewall.replaced(), 0);
        reconcile(&mut firewall, &granted, &Bans::default(), after(10)).unwrap();
        assert_eq!(firewall.replaced(), 1);
        assert!(firewall.is_open(&door("10.77.0.2"), after(59)));
        for stray in ["10.77.0.3", "10.77.0.4"] {
            assert!(!firewall.is_open(&door(stray), after(10)));
        }
    }

    #[test]
    fn what_is_in_doubt_is_made_right_without_looking_and_nothing_else_is_touched() {
        let mut firewall = kernel(&[("10.77.0.3", after(60)), ("10.77.0.4", after(60))]);
        firewall.read_at_most(0);
        let doors = ["10.77.0.2", "10.77.0.3"].map(door).into();
        let in_doubt = InDoubt { doors, bans: HashSet::new() };
        let granted = granted("10.77.0.2");
        settle(&mut firewall, &granted, &Bans::default(), &in_doubt, after(10)).unwrap();
        assert!(firewall.is_open(&door("10.77.0.2"), after(59)));
        assert!(!firewall.is_open(&door("10.77.0.3"), after(10)));
        assert!(firewall.is_open(&door("10.77.0.4"), after(10)));
    }

    #[test]
    fn doors_that_are_too_many_to_be_opened_at_once_are_told_and_strays_are_shut_at_once() {
        let mut firewall = kernel(&[("10.77.0.3", after(60))]);
        let granted = granted("10.77.0.2");
        let reconciled = reconcile_few(&mut firewall, &granted, &Bans::default(), 0, after(10));
        let reconciled = reconciled.unwrap().unwrap();
        assert!(reconciled.doors_are_due);
        assert_eq!((reconciled.doors, reconciled.stray.len()), (1, 1));
        assert!(!firewall.is_open(&door("10.77.0.2"), after(10)));
        assert!(!firewall.is_open(&door("10.77.0.3"), after(10)));
    }
}
