//! Which addresses each client holds doors for: its share of the grants.
//!
//! # Security considerations
//! A client that holds as many addresses as it may makes room by its own oldest: nobody else's grant ever gives way.
//!
//! About 60 bytes for each client that holds anything.

use std::collections::HashMap;

use common::UnicastAddress;

use super::{directory::ClientId, grants::Owner};

/// An address, and how many services a client holds there.
#[derive(Clone, Copy, Debug)]
struct Held {
    address: UnicastAddress,
    services: u16,
}

/// The addresses of every client that holds any, in the order of its last knock from each.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<ClientId, Vec<Held>>);

impl Shares {
    /// Counts an owner that is new. An address that is new counts as the oldest: [`Self::renew`] makes it the newest.
    pub(super) fn put(&mut self, owner: Owner) {
        let held = self.0.entry(owner.client).or_default();
        match held.iter_mut().find(|held| held.address == owner.address) {
            Some(held) => held.services += 1,
            None => {
                // Most clients knock from one address.
                held.reserve_exact(1);
                held.insert(0, Held { address: owner.address, services: 1 });
            }
        }
    }

    /// The client has just knocked from this address.
    pub(super) fn renew(&mut self, owner: Owner) {
        let Some(held) = self.0.get_mut(&owner.client) else { return };
        if let Some(at) = held.iter().position(|held| held.address == owner.address)
            && let Some(behind) = held.get_mut(at..)
        {
            behind.rotate_left(1);
        }
    }

    /// Counts an owner no longer.
    pub(super) fn take(&mut self, owner: Owner) {
        let Some(held) = self.0.get_mut(&owner.client) else { return };
        let Some(at) = held.iter().position(|held| held.address == owner.address) else { return };
        if let Some(at) = held.get_mut(at) {
            at.services -= 1;
        }
        held.retain(|held| held.services > 0);
        if held.is_empty() {
            self.0.remove(&owner.client);
        }
    }

    /// How many addresses a client holds beside this one.
    pub(super) fn beside(&self, client: ClientId, address: UnicastAddress) -> usize {
        self.others(client, address).count()
    }

    /// The address beside this one that the client hasn't knocked from for the longest time.
    pub(super) fn oldest_beside(
        &self,
        client: ClientId,
        address: UnicastAddress,
    ) -> Option<UnicastAddress> {
        self.others(client, address).next()
    }

    fn others(
        &self,
        client: ClientId,
        address: UnicastAddress,
    ) -> impl Iterator<Item = UnicastAddress> {
        let held = self.0.get(&client).into_iter().flatten();
        held.map(|held| held.address).filter(move |other| *other != address)
    }

    /// The client that holds the most, and how many grants. Looks at every client that holds any.
    pub(super) fn fullest(&self) -> Option<(ClientId, usize)> {
        let grants = |held: &Vec<Held>| held.iter().map(|held| usize::from(held.services)).sum();
        let all = self.0.iter().map(|(client, held)| (*client, grants(held)));
        // Of several, always the same one.
        all.max_by_key(|(client, grants)| (*grants, std::cmp::Reverse(*client)))
    }
}
