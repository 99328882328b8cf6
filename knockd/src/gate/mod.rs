//! Every security decision, and nothing else: no clock, no input or output, no randomness.
//!
//! [`Gate::decide`] takes a datagram, its source and the time, and says what is to happen; the caller
//! writes it down and makes it happen. The checks are PROTOCOL.md's ten, in their order.
//!
//! # Security considerations
//! - A stranger's packet costs a look-up (an unknown tag) or two hashes (a bad mac) and changes nothing
//!   in the gate, whatever it holds: only a packet that passes all ten checks is remembered.
//! - The reason of a refusal is for the admin's eyes. Nothing ever goes back to the sender.
//! - What a stranger's packet can cause is a ban of its source, and that takes nothing from whoever holds a
//!   key: see [`bans`].
//! - [`grants::Grants`] keeps who holds the door open, so that one client's close, or its end, never shuts out
//!   another behind the same address.

pub mod bans;
mod checks;
pub mod clock;
pub mod counters;
pub mod decision;
pub mod denials;
pub mod directory;
pub mod grants;
pub mod policy;
pub mod replay;
pub mod rights;
mod shares;
pub mod skews;
pub mod source;
pub mod strikes;
mod tag_index;
pub mod visits;

use std::{collections::HashSet, net::IpAddr, num::NonZeroU32, time::Duration};

use common::{Day, Timestamp};

use self::{
    bans::{Ban, BanChange, BanKind, Bans, NotBanned},
    clock::Now,
    counters::Counters,
    decision::{Decision, Refusal},
    denials::Denials,
    directory::{ClientId, Directory, Progress, TagCollision},
    grants::Grants,
    policy::{BanPolicy, ClockSkew, GrantPolicy, Policy, ReplyPolicy},
    replay::ReplayMemory,
    skews::Skews,
    source::Source,
    strikes::{Strike, Strikes},
    visits::Visits,
};

/// The one who decides.
pub struct Gate {
    directory: Directory,
    replay: ReplayMemory,
    counters: Counters,
    grant: GrantPolicy,
    skew: ClockSkew,
    ban_for: Duration,
    strikes: Strikes,
    bans: Bans,
    denials: Denials,
    skews: Skews,
    reply: ReplyPolicy,
    visits: Visits,
}

impl Gate {
    /// A gate for these clients, with what an earlier run remembered, and no bans.
    #[must_use]
    pub fn new(
        directory: Directory,
        replay: ReplayMemory,
        grant: GrantPolicy,
        ban: &BanPolicy,
        skew: ClockSkew,
    ) -> Self {
        Self {
            directory,
            replay,
            counters: Counters::default(),
            grant,
            skew,
            ban_for: ban.duration,
            strikes: Strikes::new(ban.failures, ban.window),
            bans: Bans::new(ban.never.clone()),
            denials: Denials::default(),
            skews: Skews::default(),
            reply: ReplyPolicy::default(),
            visits: Visits::default(),
        }
    }

    /// Decides by this policy from here on, but for its realm, of which every key is derived. What is remembered,
    /// counted and held stays; live grants keep their time, and so do bans. Returns the sources that are never
    /// banned by it, and were: their bans are to be lifted.
    #[must_use]
    pub fn follow(&mut self, policy: &Policy) -> Vec<Source> {
        self.grant = policy.grant;
        self.skew = policy.clock_skew;
        self.replay.set_limits(policy.replay, policy.clock_skew);
        self.reply = policy.reply;
        self.ban_for = policy.ban.duration;
        self.strikes.tolerate(policy.ban.failures, policy.ban.window);
        self.directory.set_services(policy.services.clone());
        self.bans.set_never(policy.ban.never.clone())
    }

    /// Makes tags of the days around `now`, for at most `budget` clients and days: see
    /// [`Directory::prepare`]. To be called at start, and again whenever the day has changed.
    pub fn prepare(
        &mut self,
        now: Timestamp,
        budget: usize,
        collisions: &mut Vec<TagCollision>,
    ) -> Progress {
        match Day::of(now) {
            Some(today) => self.directory.prepare(today, budget, collisions),
            None => Progress::Complete,
        }
    }

    /// Whether no packet stamped now could be told from junk: after a step of the clock to another day.
    #[must_use]
    pub fn lacks_tags_at(&self, now: Timestamp) -> bool {
        Day::of(now).is_some_and(|today| !self.directory.has_tags_of(today))
    }

    /// Until when every packet is stale, if none can be fresh and new by this clock: it was set back to before
    /// packets that were accepted and are not remembered.
    #[must_use]
    pub fn shut_until(&self, now: Now) -> Option<Timestamp> {
        let newest = now.utc.as_millis().saturating_add(self.skew.as_millis());
        self.replay.refused_up_to(now).filter(|stamp| stamp.as_millis() >= newest)
    }

    /// Decides a datagram: PROTOCOL.md, "What the daemon checks, in this order". An accepted packet is
    /// remembered from here on; if it can't be written down, [`ReplayMemory::take_back`] or
    /// [`Counters::take_back`] undoes that.
    pub fn decide(&mut self, datagram: &[u8], source: IpAddr, now: Now) -> Decision {
        match self.judge(datagram, source.to_canonical(), now) {
            Ok(accepted) => Decision::Accept(accepted),
            Err(refusal) => Decision::Refuse(refusal),
        }
    }

    /// Counts a refusal, if it is a strike, against its source, and bans that if it has failed too often.
    /// A source of which a grant is live isn't banned. The changes that follow for the kernel go to
    /// `changes`: none if the source isn't banned by this.
    ///
    /// # Errors
    /// [`NotBanned`] if it ought to be banned and can't be.
    pub fn strike(
        &mut self,
        source: IpAddr,
        refusal: Refusal,
        grants: &Grants,
        now: Now,
        changes: &mut Vec<BanChange>,
    ) -> Result<(), NotBanned> {
        let source = Source::of(source);
        if !refusal.is_strike()
            || self.strikes.strike(source, now.uptime) == Strike::Counted
            || grants.any_live_of(source, now.uptime)
        {
            return Ok(());
        }
        let ban = Ban {
            kind: BanKind::Failures,
            until: now.uptime + self.ban_for,
            length: self.ban_for,
            // Names of reasons are shorter than a reason can be.
            reason: refusal.reason.name().parse().unwrap_or_default(),
        };
        self.bans.ban(source, ban, changes)
    }

    /// Whether packets that ask for a reply get one, from here on.
    pub const fn set_reply(&mut self, reply: ReplyPolicy) {
        self.reply = reply;
    }

    /// For how many addresses one client can hold doors at once.
    #[must_use]
    pub const fn per_client(&self) -> NonZeroU32 {
        self.grant.per_client
    }

    /// How long a source is banned that fails too often.
    #[must_use]
    pub const fn ban_for(&self) -> Duration {
        self.ban_for
    }

    /// Who is banned.
    #[must_use]
    pub const fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Who is banned, to change it.
    pub const fn bans_mut(&mut self) -> &mut Bans {
        &mut self.bans
    }

    /// What clients asked for and may not have.
    #[must_use]
    pub const fn denials(&self) -> &Denials {
        &self.denials
    }

    /// From where clients were let in of late.
    #[must_use]
    pub const fn visits(&self) -> &Visits {
        &self.visits
    }

    /// From where clients were let in of late, to add to it.
    pub const fn visits_mut(&mut self) -> &mut Visits {
        &mut self.visits
    }

    /// Forgets what is known of clients that were removed, and whose grants have ended: from then on their places can
    /// be others'. What was accepted of them stays remembered, as nobody's.
    pub fn forget(&mut self, clients: &HashSet<ClientId>) {
        self.replay.disown(clients);
        for client in clients {
            self.denials.forget(*client);
            self.skews.forget(*client);
            self.visits.forget(*client);
            self.directory.free(*client);
        }
    }

    /// How far clients' clocks were off.
    #[must_use]
    pub const fn skews(&self) -> &Skews {
        &self.skews
    }

    /// The clients and services.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The clients and services, to change them.
    pub const fn directory_mut(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// The memory of accepted packets.
    #[must_use]
    pub const fn replay(&self) -> &ReplayMemory {
        &self.replay
    }

    /// The memory of accepted packets, to take back what could not be written down.
    pub const fn replay_mut(&mut self) -> &mut ReplayMemory {
        &mut self.replay
    }

    /// The counters of clients without a clock.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters of clients without a clock, to take back what could not be written down.
    pub const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}
