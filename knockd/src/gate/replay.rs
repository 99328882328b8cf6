//! The memory of accepted packets: none is accepted twice. PROTOCOL.md, step 10 and "What is remembered".
//!
//! # Security considerations
//! - Only authentic, fresh packets from the right address reach this memory, so that nobody without a
//!   key can fill it. One client fills its own share (`replay.per-client`) and nobody else's.
//! - A false "new" would let a captured packet open the door: packets are compared by their whole mac,
//!   and one is forgotten only when its stamp can no longer pass step 6. The newest stamp ever forgotten
//!   is kept, and nothing at or below it is accepted, so that a clock set back makes no packet new again.
//! - Where packets are missing that an earlier run accepted, nothing stamped at or before *start + skew* is
//!   accepted. A clock that was behind at that start says nothing of those packets, so that the start is kept as
//!   an uptime, too, and counts by what the clock shows now, whenever and however often it is set.
//! - When the memory is full, packets are refused. Nothing that must be remembered is ever evicted.
//!
//! Cost per remembered packet: about 130 bytes. Forgetting goes by the order of acceptance, so that a
//! packet may be remembered for up to twice the allowed skew.

use std::collections::{HashMap, HashSet, VecDeque};

use common::{Mac, Timestamp};

use super::{
    clock::{Now, Uptime},
    directory::ClientId,
    policy::{ClockSkew, ReplayLimits},
};

/// An accepted packet, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What it was stamped with.
    pub timestamp: Timestamp,
    /// What tells it from all others.
    pub mac: Mac,
    /// Who sent it; `None` if its client is no longer in the directory.
    pub client: Option<ClientId>,
}

/// Why a packet can't be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNew {
    /// It was accepted before.
    Replayed,
    /// It could not be remembered.
    Full,
}

/// Accepted packets in the order of their acceptance, numbered from 0 without a gap.
pub struct ReplayMemory {
    limits: ReplayLimits,
    skew: ClockSkew,
    /// The skew that was allowed when the memory was made: packets that may be missing from it were stamped up to
    /// so far ahead.
    skew_then: ClockSkew,
    order: VecDeque<Remembered>,
    macs: HashSet<Mac>,
    shares: HashMap<ClientId, u32>,
    /// Number of the first packet in `order`.
    oldest: u64,
    floor: Floor,
}

/// What keeps packets out that could have been accepted before and are not remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Nothing stamped at or before this is accepted: the newest stamp ever forgotten. It never sinks.
    pub forgotten: Option<Timestamp>,
    /// Packets accepted before this uptime may be missing from the memory: nothing stamped at or before what the
    /// clock would have shown then, and the skew, is accepted.
    pub lost_before: Option<Uptime>,
}

impl Floor {
    fn by(self, now: Now, skew: ClockSkew) -> Option<Timestamp> {
        let lost = self.lost_before.map(|lost| {
            let lost = now.utc_of(lost).as_millis();
            Timestamp::from_millis(lost.saturating_add(skew.as_millis()))
        });
        self.forgotten.max(lost)
    }
}

impl ReplayMemory {
    /// A memory with nothing in it, which takes no packet that this floor keeps out.
    #[must_use]
    pub fn new(limits: ReplayLimits, skew: ClockSkew, floor: Floor) -> Self {
        Self {
            limits,
            skew,
            skew_then: skew,
            order: VecDeque::new(),
            macs: HashSet::new(),
            shares: HashMap::new(),
            oldest: 0,
            floor,
        }
    }

    /// Takes back what an earlier run of the daemon had accepted, oldest first.
    ///
    /// Beyond the capacity (which the admin may have lowered) the oldest are forgotten, and with them
    /// every stamp up to theirs.
    pub fn restore(&mut self, packets: impl IntoIterator<Item = Remembered>) {
        for packet in packets {
            if self.macs.insert(packet.mac) {
                self.count(packet.client);
                self.order.push_back(packet);
            }
            if self.order.len() > self.capacity() {
                self.forget_oldest();
            }
        }
    }

    /// Step 10, one atomic check-and-insert: remembers the packet if it is new.
    ///
    /// # Errors
    /// [`NotNew`] says why it must not be accepted.
    pub fn check_and_insert(&mut self, packet: Remembered, now: Timestamp) -> Result<(), NotNew> {
        if self.macs.contains(&packet.mac) {
            return Err(NotNew::Replayed);
        }
        self.forget_stale(now);
        let share = packet.client.and_then(|client| self.shares.get(&client)).copied().unwrap_or(0);
        if self.order.len() >= self.capacity() || share >= self.limits.per_client {
            return Err(NotNew::Full);
        }
        self.macs.insert(packet.mac);
        self.count(packet.client);
        self.order.push_back(packet);
        Ok(())
    }

    /// Takes back the last `count` packets, which could not be written down and so were not accepted.
    pub fn take_back(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(packet) = self.order.pop_back() {
                self.drop_traces(packet);
            }
        }
    }

    /// Counts what was accepted of these clients as nobody's: they are gone, and others can have their places. It
    /// stays remembered. Looks at every packet, if any is theirs.
    pub fn disown(&mut self, clients: &HashSet<ClientId>) {
        let before = self.shares.len();
        self.shares.retain(|client, _| !clients.contains(client));
        if self.shares.len() < before {
            for packet in &mut self.order {
                packet.client = packet.client.filter(|client| !clients.contains(client));
            }
        }
    }

    /// The newest stamp that may belong to a packet that was accepted and is not remembered, by the clock as it
    /// is now: nothing stamped at or before it is accepted.
    #[must_use]
    pub fn refused_up_to(&self, now: Now) -> Option<Timestamp> {
        self.floor.by(now, self.skew_then)
    }

    /// Changes the bounds and the allowed skew. Nothing that is remembered is dropped: what is more than fits in
    /// is forgotten when its stamp is stale, and until then nothing new is accepted.
    ///
    /// A larger skew makes no forgotten packet new, because nothing at or below the newest forgotten stamp is
    /// accepted.
    pub const fn set_limits(&mut self, limits: ReplayLimits, skew: ClockSkew) {
        (self.limits, self.skew) = (limits, skew);
    }

    /// The bounds.
    #[must_use]
    pub const fn limits(&self) -> ReplayLimits {
        self.limits
    }

    /// What keeps packets out that are not remembered, for who knows the skew alone that is allowed now.
    #[must_use]
    pub fn floor(&self) -> Floor {
        let [then, now] = [self.skew_then, self.skew].map(ClockSkew::as_millis);
        let for_now = |lost: Uptime| {
            Uptime::from_millis(lost.as_millis().saturating_add(then).saturating_sub(now))
        };
        Floor { lost_before: self.floor.lost_before.map(for_now), ..self.floor }
    }

    /// The number of the oldest packet remembered, counted from the first one ever taken.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The packets remembered, oldest first.
    pub fn packets(&self) -> impl DoubleEndedIterator<Item = &Remembered> + ExactSizeIterator {
        self.order.iter()
    }

    /// How many packets are remembered that the next one to arrive would not make forgotten, and how many can be.
    #[must_use]
    pub fn occupancy(&self, now: Timestamp) -> (usize, usize) {
        let still_fresh = now.as_millis().saturating_sub(self.skew.as_millis());
        let is_stale = |packet: &&Remembered| packet.timestamp.as_millis() < still_fresh;
        (self.order.len() - self.order.iter().take_while(is_stale).count(), self.capacity())
    }

    /// Forgets, in the order of acceptance, what step 6 would refuse by now.
    fn forget_stale(&mut self, now: Timestamp) {
        let still_fresh = now.as_millis().saturating_sub(self.skew.as_millis());
        while self.order.front().is_some_and(|first| first.timestamp.as_millis() < still_fresh) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(packet) = self.order.pop_front() {
            self.oldest += 1;
            self.floor.forgotten = self.floor.forgotten.max(Some(packet.timestamp));
            self.drop_traces(packet);
        }
    }

    fn drop_traces(&mut self, packet: Remembered) {
        self.macs.remove(&packet.mac);
        let Some(client) = packet.client else { return };
        if let Some(share) = self.shares.get_mut(&client) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&client);
            }
        }
    }

    fn count(&mut self, client: Option<ClientId>) {
        if let Some(client) = client {
            *self.shares.entry(client).or_insert(0) += 1;
        }
    }

    fn capacity(&self) -> usize {
        usize::try_from(self.limits.capacity).unwrap_or(usize::MAX)
    }
}
