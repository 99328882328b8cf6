//! Grants that an admin ends before their time.

use std::collections::HashSet;

use common::UnicastAddress;

use super::{Admission, Owner};
use crate::{
    firewall::Firewall,
    gate::{
        clock::Now,
        directory::{ClientId, ServiceId},
        grants::{Change, Door},
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

    /// The doors that a client came in by of late, or holds now: its connections are among those through them.
    #[must_use]
    pub fn doors_of(&self, client: ClientId) -> HashSet<Door> {
        self.gate.visits().doors(client, self.gate.directory())
    }
}
