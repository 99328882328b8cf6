//! How often each client was granted, closed and refused since the daemon started: of a bounded number of clients,
//! and of all others together.
//!
//! # Security considerations
//! - Only what is authentic counts for a client, so that no stranger makes an entry here.
//! - The first clients that knock have figures of their own, up to the limit. Nobody loses them to another, so that
//!   no client can push others out, and what is told has never more names than the limit.

use std::collections::HashMap;

use common::Timestamp;

use crate::{
    admission::Outcome,
    gate::directory::{ClientId, Directory},
};

/// The figures of a client, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Doors opened, or opened for longer.
    pub granted: u64,
    /// Grants that it has ended itself.
    pub closed: u64,
    /// Packets that were refused, whatever for; copies of its packets are among them.
    pub refused: u64,
    /// When it was granted something the last time, by this host's clock.
    pub last_granted: Option<Timestamp>,
}

/// The figures of all clients.
#[derive(Debug)]
pub struct AllClients {
    limit: usize,
    /// Each with the name that it had when it was counted first.
    own: HashMap<ClientId, (Box<str>, ClientCounts)>,
    others: ClientCounts,
}

impl AllClients {
    /// No figures yet; at most so many clients have their own.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, own: HashMap::new(), others: ClientCounts::default() }
    }

    /// How many clients can have figures of their own.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Counts what became of a datagram at `utc`, if it was a client's.
    pub fn count(&mut self, outcome: &Outcome, directory: &Directory, utc: Timestamp) {
        match outcome {
            Outcome::Granted { client, .. } => {
                let counts = self.of(*client, directory);
                counts.granted += 1;
                counts.last_granted = Some(utc);
            }
            Outcome::Closed { client, .. } => self.of(*client, directory).closed += 1,
            Outcome::Failed { client, .. } => self.of(*client, directory).refused += 1,
            Outcome::Refused(refusal) => {
                if let Some(client) = refusal.client {
                    self.of(client, directory).refused += 1;
                }
            }
            Outcome::GaveWay { .. }
            | Outcome::Drifting { .. }
            | Outcome::Banned { .. }
            | Outcome::NotBanned(_)
            | Outcome::BanLifted { .. } => {}
        }
    }

    /// The figures that a client counts for.
    fn of(&mut self, client: ClientId, directory: &Directory) -> &mut ClientCounts {
        if self.own.len() < self.limit && !self.own.contains_key(&client) {
            let name = directory.name(client).into();
            self.own.insert(client, (name, ClientCounts::default()));
        }
        match self.own.get_mut(&client) {
            Some((_, counts)) => counts,
            None => &mut self.others,
        }
    }

    /// Lets go of clients that are gone: what they counted is the others' from here on, and their room is free.
    pub fn forget_who_is_gone(&mut self, directory: &Directory) {
        let others = &mut self.others;
        self.own.retain(|client, (name, counts)| {
            let stays = directory.entry(*client).is_some() && directory.name(*client) == &**name;
            if !stays {
                others.add(counts);
            }
            stays
        });
    }

    /// The figures of those that have their own, with their names, in no order.
    pub fn own(&self) -> impl Iterator<Item = (ClientId, &str, ClientCounts)> {
        self.own.iter().map(|(client, (name, counts))| (*client, &**name, *counts))
    }

    /// The figures of all others together.
    #[must_use]
    pub const fn others(&self) -> ClientCounts {
        self.others
    }
}

impl ClientCounts {
    fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.closed += other.closed;
        self.refused += other.refused;
        self.last_granted = self.last_granted.max(other.last_granted);
    }
}

#[cfg(test)]
mod tests {
    use common::{Realm, SECRET_LEN, Secret};

    use super::*;
    use crate::gate::{
        decision::{Reason, Refusal},
        policy::{AddressPolicy, Client, ClientClock, Standing},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn secret(number: u8) -> [u8; SECRET_LEN] {
        let mut secret = [number; SECRET_LEN];
        secret[0] = !number;
        secret
    }

    fn directory(clients: u8) -> Directory {
        let client = |number: u8| Client {
            name: format!("client-{number}").parse().unwrap(),
            secret: Secret::new(secret(number)).unwrap(),
            old_key: None,
            services: [].into(),
            from: Vec::new(),
            address: AddressPolicy::Strict,
            clock: ClientClock::Utc,
            expires: None,
            standing: Standing::Enabled,
        };
        Directory::new(Vec::new(), (0..clients).map(client).collect(), &Realm::default())
    }

    fn refused(client: Option<ClientId>) -> Outcome {
        Outcome::Refused(Refusal { client, reason: Reason::Replayed })
    }

    #[test]
    fn the_first_clients_have_figures_of_their_own_and_the_rest_count_together() {
        let directory = directory(3);
        let ids: Vec<ClientId> = directory.clients().map(|(client, _)| client).collect();
        let mut counts = AllClients::new(2);
        counts.count(&refused(None), &directory, NOW);
        assert_eq!((counts.own().count(), counts.others()), (0, ClientCounts::default()));
        for client in ids.iter().chain(&ids) {
            counts.count(&refused(Some(*client)), &directory, NOW);
        }
        let mut own: Vec<_> =
            counts.own().map(|(_, name, counts)| (name.to_owned(), counts.refused)).collect();
        own.sort();
        assert_eq!(own, [("client-0".to_owned(), 2), ("client-1".to_owned(), 2)]);
        assert_eq!(counts.others().refused, 2);
    }

    #[test]
    fn what_a_client_counted_that_is_gone_is_the_others_and_its_room_is_free() {
        let mut directory = directory(2);
        let ids: Vec<ClientId> = directory.clients().map(|(client, _)| client).collect();
        let mut counts = AllClients::new(1);
        let granted = Outcome::Granted {
            client: ids[0],
            services: [].into(),
            until: crate::gate::clock::Uptime::from_millis(9),
        };
        counts.count(&granted, &directory, NOW);
        counts.forget_who_is_gone(&directory);
        assert_eq!(counts.own().count(), 1);
        directory.remove(ids[0]);
        counts.forget_who_is_gone(&directory);
        assert_eq!(counts.own().count(), 0);
        assert_eq!((counts.others().granted, counts.others().last_granted), (1, Some(NOW)));
        counts.count(&refused(Some(ids[1])), &directory, NOW);
        assert_eq!(counts.own().next().map(|(_, name, _)| name.to_owned()).unwrap(), "client-1");
    }
}
