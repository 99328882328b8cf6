//! What an earlier run of the daemon left behind, taken up again at start.
//!
//! # Security considerations
//! - Where the file of accepted packets is missing or damaged, nothing stamped at or before *start + skew* is
//!   accepted: a packet that was accepted before is stamped earlier than that. That end is kept for the rest
//!   of the boot, so that a clock that is behind now and set later counts as if it had been right. After a loss of power
//!   it is the ceiling that was on the disk; after an orderly end nothing is lost.
//! - Where the file of counters can't be relied on, a client without a clock that has none in it is known to have
//!   lost its: nothing of it is accepted until an admin sets it anew. So it is at a first start, since an
//!   empty folder may be one that was lost, unless it is marked as one that wasn't.
//! - A source that is banned in the kernel and not by us is let go, and the other way round.
//! - A door in the kernel that no live grant stands for is shut; a live grant's door that is missing is
//!   opened again, for the time that is left of it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use common::{Day, Mac, Tag, Timestamp};

use crate::{
    admission::{Admission, Files, span},
    firewall::{Firewall, FirewallError},
    gate::{
        Gate,
        bans::Bans,
        ceiling::Ceiling,
        clock::Now,
        counters::{Counter, Counters},
        directory::{ClientId, Directory},
        grants::{Grants, Owner},
        policy::Policy,
        replay::{Remembered, ReplayMemory},
    },
    journal::{
        StateError, StateFile, StateFolder, Writer,
        banned::{self, BannedFile},
        counted::{self, CountedFile},
        held::{self, HeldFile, StoredGrant},
        seen::{self, Condition, Found, NameHash, Record, SeenFile},
        twin::{self, Twin},
    },
    reconcile::reconcile,
};

/// What was found, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whether the file of accepted packets could be relied on.
    pub seen: Condition,
    /// How many packets are remembered.
    pub packets: usize,
    /// How many of them the file lacked, and its twin in memory did not.
    pub lacking: usize,
    /// Nothing stamped at or before this is accepted.
    pub refused_up_to: Option<Timestamp>,
    /// Whether the file of counters could be relied on.
    pub counters: counted::Condition,
    /// Whether the file of grants could be read.
    pub grants: FileCondition,
    /// How many grants are live.
    pub live: usize,
    /// Whether the file of bans could be read.
    pub bans: FileCondition,
    /// How many bans hold.
    pub banned: usize,
    /// Whether packets are written to a twin in memory as well.
    pub has_twin: bool,
    /// How many of the doors and bans in the kernel had to be changed to match them.
    pub mended: usize,
}

/// Whether a file could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCondition {
    /// It could, or there was none to read.
    Sound,
    /// It isn't as it was written: what it held is lost.
    Damaged,
    /// There is none, and there was one: the memory of accepted packets that stood beside it is whole.
    Gone,
}

/// Why an earlier run can't be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state folder can't be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel's doors can't be read or changed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

/// Takes up what an earlier run left behind in this folder.
///
/// # Errors
/// [`RestoreError`]; then the daemon must not start.
pub fn restore<F: Firewall, D: StateFile>(
    policy: &Policy,
    directory: Directory,
    mut folder: StateFolder<D>,
    writer: Writer,
    mut firewall: F,
    now: Now,
) -> Result<(Admission<F, D>, Restored), RestoreError> {
    let mut found = seen::load(&folder, writer.boot)?;
    let twin = folder.take_twin();
    let left = twin.as_ref().map(|twin| twin::load(twin, writer.boot)).unwrap_or_default();
    let is_fresh = folder.is_fresh();
    // Gone before anything is accepted, and before there is anything that it would hide.
    folder.take_mark()?;
    let floor = found.floor(now, policy.clock_skew);
    let (floor, lacking) = match left.seen {
        Some(left) => (floor.and(left.floor), add(&mut found.packets, left.packets)),
        None => (floor, 0),
    };
    let ids = directory.clients_by_name();
    let mut replay = ReplayMemory::new(policy.replay, policy.clock_skew, floor);
    replay.restore(remembered(&found.packets, &ids));

    let absence = |path: &Path| match found.condition == Condition::Intact && !path.exists() {
        true => FileCondition::Gone,
        false => FileCondition::Sound,
    };
    let (bans_found, bans_condition) = match banned::load(&folder.banned(), writer.boot, now)? {
        banned::Found::Bans(bans) => (bans, FileCondition::Sound),
        banned::Found::None => (Vec::new(), absence(&folder.banned())),
        banned::Found::Damaged => (Vec::new(), FileCondition::Damaged),
    };
    let mut bans = Bans::new(&policy.ban);
    for (source, ban) in bans_found {
        // One that is never banned any more, by the configuration as it is now, is let go.
        let _ = bans.ban(source, ban, &mut Vec::new());
    }

    let (stored, condition) = match held::load(&folder.held(), Some(writer.boot))? {
        held::Found::Grants(grants) => (grants, FileCondition::Sound),
        held::Found::None => (Vec::new(), absence(&folder.held())),
        held::Found::Damaged => (Vec::new(), FileCondition::Damaged),
    };
    let counted = counted::load(&folder)?;
    let known = match is_fresh {
        true => Vec::new(),
        false => with_lost(counted.counters, counted.condition, &directory),
    };
    let counters = Counters::new(known.into_iter().chain(left.counters));
    let mut gate = Gate::new(directory, replay, policy.grant, &policy.ban, policy.clock_skew);
    *gate.bans_mut() = bans;
    *gate.counters_mut() = counters;
    gate.set_reply(policy.reply);
    let (grants, live) = live_grants(stored, &gate, now);
    live.iter().for_each(|(owner, _)| gate.visits_mut().record(*owner));
    let mut restored = Restored {
        seen: found.condition,
        packets: gate.replay().packets().len(),
        lacking,
        counters: counted.condition,
        refused_up_to: gate.replay().refused_up_to(now),
        grants: condition,
        live: live.len(),
        bans: bans_condition,
        banned: gate.bans().iter().len(),
        has_twin: false,
        mended: reconcile(&mut firewall, &grants, gate.bans(), now.uptime)?.changed(),
    };
    let held = HeldFile::create(&folder, writer, live)?;
    let counted = CountedFile::create(&folder, writer, gate.counters().iter())?;
    let banned = BannedFile::create(&folder, writer, gate.bans().iter(), now)?;
    // Last, so that where it is found intact, the others were there as well.
    let seen = write_seen(&gate, &found, &folder, writer, policy, now)?;
    let twin = match twin {
        Some(folder) => {
            let packets = records(&gate, &found.packets);
            let counters = gate.counters().iter();
            let (capacity, span) = (policy.replay.capacity, span(&gate, now));
            // Where it can't be written, packets wait for the disk, and that is told.
            Twin::create(folder, writer, capacity, span, packets, counters).ok()
        }
        None => None,
    };
    restored.has_twin = twin.is_some();
    let ceiling = Ceiling::new(seen.ceiling());
    let files = Files::new(folder, seen, counted, held, banned);
    Ok((Admission::new(gate, grants, files, twin, ceiling, firewall), restored))
}

/// Adds the packets that are missing; how many they are.
fn add(packets: &mut Vec<Record>, more: Vec<Record>) -> usize {
    let known: HashSet<Mac> = packets.iter().map(|record| record.mac).collect();
    let before = packets.len();
    packets.extend(more.into_iter().filter(|record| !known.contains(&record.mac)));
    packets.len() - before
}

/// What is known of the counters; where the file isn't whole, those that a client has and that aren't in it are
/// lost. That is written down as well: a restart doesn't take them for new.
fn with_lost(
    mut counters: Vec<(Tag, Counter)>,
    condition: counted::Condition,
    directory: &Directory,
) -> Vec<(Tag, Counter)> {
    if condition != counted::Condition::Whole {
        let known: HashSet<Tag> = counters.iter().map(|(key, _)| *key).collect();
        let in_use = directory.tags_on(Day::COUNTER, 0..directory.places());
        counters.extend(in_use.filter(|key| !known.contains(key)).map(|key| (key, Counter::Lost)));
    }
    counters
}

fn remembered(
    packets: &[Record],
    ids: &HashMap<&str, ClientId>,
) -> impl Iterator<Item = Remembered> {
    let by_hash: HashMap<NameHash, ClientId> =
        ids.iter().map(|(name, client)| (NameHash::of(name), *client)).collect();
    packets.iter().map(move |packet| Remembered {
        timestamp: packet.timestamp,
        mac: packet.mac,
        client: by_hash.get(&packet.client).copied(),
    })
}

/// A new file with what is remembered.
fn write_seen<D: StateFile>(
    gate: &Gate,
    found: &Found,
    folder: &StateFolder<D>,
    writer: Writer,
    policy: &Policy,
    now: Now,
) -> Result<SeenFile<D>, StateError> {
    // Packets of an earlier run are still at or below the ceiling that it had.
    let ceiling = found.ceiling.max(found.packets.iter().map(|packet| packet.timestamp).max());
    let capacity = policy.replay.capacity;
    let records = records(gate, &found.packets);
    SeenFile::create(folder, writer, capacity, span(gate, now), ceiling, records)
}

/// What is remembered, as it was found: under its client's name even if that client is gone.
fn records(gate: &Gate, found: &[Record]) -> Vec<Record> {
    let by_mac: HashMap<_, _> = found.iter().map(|record| (record.mac, *record)).collect();
    let remembered = gate.replay().packets();
    remembered.filter_map(|packet| by_mac.get(&packet.mac).copied()).collect()
}

/// The grants that may still be held, and for as long as they may.
pub(crate) fn live_grants(
    mut stored: Vec<StoredGrant>,
    gate: &Gate,
    now: Now,
) -> (Grants, Vec<(Owner, StoredGrant)>) {
    let (mut grants, mut live) = (Grants::default(), Vec::new());
    if stored.is_empty() {
        return (grants, live);
    }
    let directory = gate.directory();
    let ids = directory.clients_by_name();
    // Whose ends first counts as the oldest: when its client knocked last isn't known.
    stored.sort_by_key(|stored| stored.until);
    for mut stored in stored {
        let owner = (|| {
            let client = *ids.get(stored.client.as_str())?;
            let service = directory.service_named(stored.service)?;
            Some(Owner { address: stored.address, client, service })
        })();
        let Some(owner) = owner else { continue };
        let Some(end) = gate.may_hold(&owner, now) else { continue };
        stored.until = stored.until.min(end);
        if stored.until > now.uptime
            && grants.open(owner, stored.until, directory, &mut Vec::new()).is_ok()
        {
            live.push((owner, stored));
        }
    }
    (grants, live)
}
