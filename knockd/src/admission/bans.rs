//! From failures, and an admin's word, to bans: in the file, and in the kernel.

use std::{io, mem, net::IpAddr, time::Duration};

use tracing::warn;

use super::{Admission, Failure, NoBan, Outcome};
use crate::{
    firewall::{Firewall, FirewallError},
    gate::{
        Gate,
        bans::{Ban, BanChange, BanKind, BanReason, NotBanned},
        clock::{Now, Uptime},
        decision::Refusal,
        grants::{Change, Owner},
        source::Source,
    },
    journal::StateFile,
};

/// How old what is known of the host's own addresses may be when somebody is banned.
const OWN_FRESH: Duration = Duration::from_secs(5);

/// What an admin's ban has done.
#[derive(Debug)]
pub struct AdminBan {
    /// Until when the source is banned.
    pub until: Uptime,
    /// How many grants it has ended.
    pub ended: usize,
    /// Their doors, if the kernel did not shut them: nothing passes them until the ban is over.
    pub warning: Option<FirewallError>,
}

/// Why an admin's ban could not be made, or lifted.
#[derive(Debug, thiserror::Error)]
pub enum BanError {
    /// The source can't be banned.
    #[error("{0}")]
    NotBanned(#[from] NotBanned),
    /// The ban can't be written down.
    #[error("the state folder can't be written: {0}")]
    Journal(io::Error),
    /// It isn't known which addresses must never be banned.
    #[error("this host's own addresses can't be read: {0}")]
    OwnAddresses(io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// Counts these failures against their sources, and bans those that have failed too often.
    pub(super) fn punish(
        &mut self,
        strikes: &[(IpAddr, Refusal)],
        now: Now,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        self.forget_ended_bans(now);
        let mut changes = Vec::new();
        let mut spared_as_own = false;
        for (source, refusal) in strikes {
            if let Err(why) = self.gate.strike(*source, *refusal, &self.grants, now, &mut changes) {
                spared_as_own |= matches!(why, NotBanned::Own(_));
                tell(&Outcome::NotBanned(NoBan::Spared(why)), *source, &self.gate);
            }
        }
        let is_old = self.own_read.is_none_or(|read| read + OWN_FRESH <= now.uptime);
        if is_old && (spared_as_own || !changes.is_empty()) {
            if let Err(error) = self.look_up_own_addresses(now) {
                warn!(
                    event = "own-addresses-unknown",
                    "this host's own addresses can't be read: {error}; those that were known before are never banned"
                );
            }
            changes.retain(|change| self.gate.bans().get(change.source).is_some());
        }
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.change_bans(&changes, now) {
            for BanChange { source, .. } in changes {
                self.gate.bans_mut().undo(source, None);
                let failure = Failure::firewall(&error);
                tell(&Outcome::NotBanned(NoBan::Failed(failure)), source.first(), &self.gate);
            }
            return;
        }
        let mut in_place = self.disk.order(|files| files.keep_in_place());
        let mut banned = Vec::new();
        for BanChange { source, .. } in changes {
            let Some(ban) = self.gate.bans().get(source).cloned() else { continue };
            let until = ban.until;
            let put = self.write_ban(source, Some(ban), now);
            let written = mem::replace(&mut in_place, Ok(())).and(put);
            let warning = written.err().map(|error| Failure::journal(&error));
            banned.push((source, Outcome::Banned { source, until, warning }));
        }
        self.tell_when_written(banned, tell);
    }

    /// Lifts the bans by failures of sources from which a client that holds a key has knocked.
    pub(super) fn pardon(
        &mut self,
        sources: &[IpAddr],
        now: Now,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        let mut lifted = Vec::new();
        for source in sources {
            let source = self.gate.bans().source_of(*source);
            lifted.extend(self.gate.bans_mut().lift_failures(source));
        }
        if lifted.is_empty() {
            return;
        }
        let kernel = self.change_bans(&lifted, now);
        let mut told = Vec::new();
        for BanChange { source, .. } in lifted {
            let written = self.write_ban(source, None, now);
            let warning = match (&kernel, written) {
                (Err(error), _) => Some(Failure::firewall(error)),
                (Ok(()), Err(error)) => Some(Failure::journal(&error)),
                (Ok(()), Ok(())) => None,
            };
            told.push((source, Outcome::BanLifted { source, warning }));
        }
        self.tell_when_written(told, tell);
    }

    /// A daemon that is killed once a ban was told has it in its file.
    fn tell_when_written(
        &mut self,
        outcomes: Vec<(Source, Outcome)>,
        tell: &mut impl FnMut(&Outcome, IpAddr, &Gate),
    ) {
        // What the disk refuses of a ban is told as of the disk; no grant is ordered with it.
        let _ = self.disk.have_it_done();
        for (source, outcome) in outcomes {
            tell(&outcome, source.first(), &self.gate);
        }
    }

    /// Bans a source on an admin's word: ends its grants, and refuses new ones. Its connections are the
    /// caller's to end.
    ///
    /// # Errors
    /// [`BanError`]; then nothing has changed.
    pub fn ban(
        &mut self,
        source: Source,
        length: Duration,
        reason: BanReason,
        now: Now,
    ) -> Result<AdminBan, BanError> {
        self.forget_ended_bans(now);
        self.look_up_own_addresses(now).map_err(BanError::OwnAddresses)?;
        let before = self.gate.bans().get(source).cloned();
        let ban = Ban { kind: BanKind::Admin, until: now.uptime + length, length, reason };
        let until = ban.until;
        let mut changes = Vec::new();
        self.gate.bans_mut().ban(source, ban.clone(), &mut changes)?;
        let made = self.disk.order_and_wait(move |files| {
            files.keep_in_place()?;
            files.banned.put(source, Some(&ban), now)?;
            files.banned.sync()
        });
        let made = made.map_err(BanError::Journal);
        let made = made.and_then(|()| Ok(self.change_bans(&changes, now)?));
        if let Err(error) = made {
            // Where even this can't be written, a restart finds a ban that an admin wanted.
            let _ = self.write_ban(source, before.clone(), now);
            self.gate.bans_mut().undo(source, before);
            return Err(error);
        }
        let held = self.grants.of_source(source);
        let ended: Vec<Owner> = held.map(|(owner, _)| *owner).collect();
        let warning = self.end(&ended, now).err();
        Ok(AdminBan { until, ended: ended.len(), warning })
    }

    /// Lifts the bans of these sources, whoever made them; returns how many there were.
    ///
    /// # Errors
    /// [`BanError::Firewall`]: then they are banned still; of more than a thousand, some perhaps no longer, in the
    /// kernel, until it is made to match. [`BanError::Journal`]: then they would be again
    /// after a restart.
    pub fn unban(&mut self, sources: &[Source], now: Now) -> Result<usize, BanError> {
        self.forget_ended_bans(now);
        let change = |source: &Source| {
            let kind = self.gate.bans().get(*source)?.kind;
            Some(BanChange { source: *source, kind, until: None })
        };
        let changes: Vec<BanChange> = sources.iter().filter_map(change).collect();
        self.change_bans(&changes, now)?;
        // A ban that was lifted before, and could not be struck out, is part of it.
        let lifted: Vec<Source> = changes.iter().map(|change| change.source).collect();
        for source in &lifted {
            let _ = self.gate.bans_mut().lift(*source);
        }
        let written = self.disk.order_and_wait(move |files| {
            let kept = files.keep_in_place().and_then(|()| files.catch_up());
            let put =
                |written: io::Result<()>, source| written.and(files.banned.put(source, None, now));
            let written = lifted.into_iter().fold(kept, put);
            written.and_then(|()| files.banned.sync())
        });
        written.map_err(BanError::Journal)?;
        Ok(changes.len())
    }

    /// Lets go of the bans whose time is over.
    pub fn forget_ended_bans(&mut self, now: Now) {
        for source in self.gate.bans_mut().expire(now.uptime) {
            // Where it can't be written, what stands there is over by itself within this boot.
            let _ = self.write_ban(source, None, now);
        }
    }

    /// Writes all bans down anew: the clock on the wall was stepped, and their ends by it are others now.
    ///
    /// # Errors
    /// What the disk says; after a reboot, bans would then end by the clock as it was.
    pub fn restamp_bans(&mut self, now: Now) -> io::Result<()> {
        let bans = self.gate.bans().iter();
        let bans: Vec<_> = bans.map(|(source, ban)| (*source, ban.clone())).collect();
        self.disk.order(move |files| {
            for (source, ban) in &bans {
                files.banned.put(*source, Some(ban), now)?;
            }
            files.banned.sync()
        })
    }

    /// Looks up the addresses that are never banned, and lifts the bans that they have become part of.
    ///
    /// # Errors
    /// If they can't be read; those that were known before then still count.
    pub fn look_up_own_addresses(&mut self, now: Now) -> io::Result<()> {
        // Also where it fails: that is no cheaper, and anybody can have it done.
        self.own_read = Some(now.uptime);
        let own = self.firewall.own_addresses()?;
        if own.unread() != self.own_unread {
            self.own_unread = own.unread().to_vec();
            for why in own.unread() {
                warn!(
                    event = "own-addresses-unknown",
                    "the resolvers of this host can't all be read, and may be banned if somebody forges failures in their name: {why}; make the file readable to all: chmod a+r"
                );
            }
        }
        let own = own.iter().map(|(address, _)| address).collect();
        for source in self.gate.bans_mut().set_own(own) {
            let lifted: Vec<BanChange> = self.gate.bans_mut().lift(source).into_iter().collect();
            // Where the kernel refuses, it is in doubt from here on.
            let _ = self.change_bans(&lifted, now);
            let _ = self.write_ban(source, None, now);
        }
        Ok(())
    }

    /// Writes a ban down, or that it is over.
    pub(super) fn write_ban(
        &mut self,
        source: Source,
        ban: Option<Ban>,
        now: Now,
    ) -> io::Result<()> {
        self.disk.order(move |files| files.banned.put(source, ban.as_ref(), now))
    }

    /// Ends what these owners hold, early.
    fn end(&mut self, owners: &[Owner], now: Now) -> Result<(), FirewallError> {
        let mut changes: Vec<Change> = Vec::new();
        for owner in owners {
            let _ = self.grants.close(*owner, self.gate.directory(), &mut changes);
            // Where this can't be written, a restart finds that the owner is banned.
            let _ = self.release(*owner);
        }
        self.change_doors_if_any(&changes, now)
    }
}
