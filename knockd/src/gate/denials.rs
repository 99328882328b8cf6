//! Counts, for each client, what it asked for and may not have: authentic packets, from the right address,
//! for a service that isn't the client's. That is a wrong configuration, or a device in wrong hands.
//!
//! # Security considerations
//! - Counted against the client, never against its source. A copy of such a packet counts nothing: only one
//!   stamped later than the last that was counted does.
//! - There are never more counts than clients.

use std::collections::HashMap;

use common::Timestamp;

use super::directory::ClientId;

/// What a client asked for and may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// How often.
    pub count: u64,
    /// The stamp of the last such packet: a time, or the number of a client without a clock.
    pub stamp: Timestamp,
    /// When that was, by the packet's stamp where that is a time.
    pub last: Timestamp,
}

/// The counts of all clients.
#[derive(Default)]
pub struct Denials(HashMap<ClientId, Denial>);

impl Denials {
    /// Counts a packet of this client, unless it can be a copy. `last` is when it asked.
    pub fn count(&mut self, client: ClientId, stamp: Timestamp, last: Timestamp) {
        let denial = self.0.entry(client).or_insert(Denial { count: 0, stamp, last });
        if denial.count == 0 || stamp > denial.stamp {
            *denial = Denial { count: denial.count + 1, stamp, last };
        }
    }

    /// Forgets a client that is gone.
    pub fn forget(&mut self, client: ClientId) {
        self.0.remove(&client);
    }

    /// What a client has asked for; `None` if nothing that it may not have.
    #[must_use]
    pub fn of(&self, client: ClientId) -> Option<Denial> {
        self.0.get(&client).copied()
    }

    /// All counts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, Denial)> {
        self.0.iter().map(|(client, denial)| (*client, *denial))
    }
}
