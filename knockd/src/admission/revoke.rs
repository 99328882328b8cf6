//! Grants that end before their time: on an admin's word, or because what they follow from has changed.

use std::collections::HashSet;

use common::UnicastAddress;

use super::{Admission, Owner};
use crate::{
    firewall::{Firewall, FirewallError},
    gate::{
        clock::Now,
        directory::{ClientId, ServiceId},
        grants::{Change, Door},
        rights::Right,
    },
    journal::StateFile,
};

/// Whose grants are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of a client, wherever it is.
    Client(ClientId),
    /// Those for an address, whoever holds them.
    Address(UnicastAddress),
}

/// What has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// How many grants.
    pub grants: usize,
    /// What was not done of it: a door that the kernel did not shut, which is tried again, or a grant that could
    /// not be struck out, which a restart would give back until that is done.
    pub warning: Option<String>,
}

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// Ends grants at once; of one service alone, if one is given. Connections are the caller's to end, and who
    /// may knock may do so again.
    pub fn revoke(&mut self, whose: Whose, service: Option<ServiceId>, now: Now) -> Revoked {
        let is_meant = |owner: &Owner| {
            service.is_none_or(|service| owner.service == service)
                && match whose {
                    Whose::Client(client) => owner.client == client,
                    Whose::Address(address) => owner.address == address,
                }
        };
        // Those that are over are still there for a moment: they are none that this ends.
        let live = self.grants.owners().filter(|(_, until)| now.uptime < **until);
        let ended: Vec<Owner> = live.map(|(owner, _)| *owner).filter(is_meant).collect();
        let mut changes: Vec<Change> = Vec::new();
        let mut warning = None;
        for owner in &ended {
            let _ = self.grants.close(*owner, self.gate.directory(), &mut changes);
            if let Err(error) = self.release(*owner) {
                warning = Some(format!("the state folder can't be written: {error}"));
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.change_doors(&changes, now)
        {
            warning = Some(error.to_string());
        }
        Revoked { grants: ended.len(), warning }
    }

    /// Ends the grants of these clients that they may hold no longer, and shortens those that they may hold for less
    /// time; returns how many have ended.
    ///
    /// # Errors
    /// [`FirewallError`] if the kernel did not shut their doors.
    pub fn revoke_what_is_not_allowed(
        &mut self,
        clients: &HashSet<ClientId>,
        now: Now,
    ) -> Result<usize, FirewallError> {
        let mut changes = Vec::new();
        let ended = self.restrict(|owner| clients.contains(&owner.client), now, &mut changes);
        self.change_doors_if_any(&changes, now).map(|()| ended)
    }

    /// The same for all clients, because the clock was set.
    ///
    /// # Errors
    /// [`FirewallError`] if the kernel did not shut their doors.
    pub fn follow_the_clock(&mut self, now: Now) -> Result<usize, FirewallError> {
        let mut changes = Vec::new();
        let ended = self.restrict(|_| true, now, &mut changes);
        self.change_doors_if_any(&changes, now).map(|()| ended)
    }

    /// Makes grants what may be held now; returns how many have ended. What the kernel is to change goes to `changes`.
    pub(super) fn restrict(
        &mut self,
        is_meant: impl Fn(&Owner) -> bool,
        now: Now,
        changes: &mut Vec<Change>,
    ) -> usize {
        let restricted = self.gate.restricted(&self.grants, now);
        let restricted: Vec<_> = restricted.filter(|(owner, _)| is_meant(owner)).collect();
        let mut ended = 0;
        for (owner, right) in restricted {
            let directory = self.gate.directory();
            match right {
                Right::Whole => continue,
                Right::Until(until) => self.grants.shorten(owner, until, directory, changes),
                Right::Gone => {
                    ended += 1;
                    let _ = self.grants.close(owner, directory, changes);
                }
            }
            // Where this can't be written, it is owed; a restart finds what may be held by itself.
            let _ = self.write_hold(owner);
        }
        ended
    }

    /// The doors that a client came in by of late, or holds now: its connections are among those through them.
    #[must_use]
    pub fn doors_of(&self, client: ClientId) -> HashSet<Door> {
        self.gate.visits().doors(client, self.gate.directory())
    }
}
