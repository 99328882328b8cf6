//! How often each decision was made since the daemon started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admission::Outcome;

/// The counts, under the decisions' and reasons' own names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Doors that were opened, or opened for longer.
    pub granted: u64,
    /// Grants that their client has ended.
    pub closed: u64,
    /// Addresses at which a client's own grants gave way to its newest.
    #[serde(default)]
    pub gave_way: u64,
    /// Packets that were refused, by reason. There are no more reasons than the code knows.
    pub refused: BTreeMap<String, u64>,
    /// Bans by failures.
    pub banned: u64,
    /// Sources that failed too often and were not banned.
    pub not_banned: u64,
    /// Bans that a valid knock has lifted.
    pub ban_lifted: u64,
    /// Replies that were sent to who asked for one.
    #[serde(default)]
    pub replies_sent: u64,
    /// Replies that could not be sent at once, and were dropped.
    #[serde(default)]
    pub replies_dropped: u64,
}

impl Counts {
    /// Counts what became of a datagram.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Granted { .. } => self.granted += 1,
            Outcome::Closed { .. } => self.closed += 1,
            Outcome::Refused(refusal) => self.refuse(refusal.reason.name()),
            Outcome::Failed { failure, .. } => self.refuse(failure.name()),
            Outcome::Banned { .. } => self.banned += 1,
            Outcome::NotBanned(_) => self.not_banned += 1,
            Outcome::BanLifted { .. } => self.ban_lifted += 1,
            Outcome::GaveWay { .. } => self.gave_way += 1,
            Outcome::Drifting { .. } => {}
        }
    }

    fn refuse(&mut self, reason: &'static str) {
        match self.refused.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                self.refused.insert(reason.to_owned(), 1);
            }
        }
    }
}
