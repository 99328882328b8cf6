//! What a client may hold, and until when: the one answer for a knock, for a grant whose entry has changed, for one
//! that an earlier run gave, and for all when the clock was set.
//!
//! # Security considerations
//! A right is checked when it is used, and not only when it is given: a grant never outlives its client's entry, nor
//! what the entry allows. Ends of entries are times by the clock on the wall, and grants run by the uptime: the one is
//! taken for the other by how the two stand at that moment, so that everything is asked again when the clock was set.

use std::net::IpAddr;

use common::Timestamp;

use super::{
    Gate,
    clock::{Now, Uptime},
    directory::{Entry, ServiceId},
    grants::{Grants, Owner},
};

/// Later than any grant lasts.
const NEVER: Uptime = Uptime::from_millis(u64::MAX);

impl Entry {
    /// Step 7, the networks: whether the client may knock from this address, and hold doors for it.
    #[must_use]
    pub fn lets_in(&self, address: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(&address))
    }

    /// Whether the client may hold this service's doors for this address at this time.
    #[must_use]
    pub fn may_hold(&self, service: ServiceId, address: IpAddr, now: Timestamp) -> bool {
        self.check_standing(now).is_ok()
            && self.services.contains(&service)
            && self.lets_in(address)
    }
}

/// How a grant stands with what its client may hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Right {
    /// It may be held for all of its time.
    Whole,
    /// It may be held until then alone.
    Until(Uptime),
    /// It may not be held.
    Gone,
}

impl Gate {
    /// Until when an owner may hold its doors, as its client's entry, the services, the bans and the clock are now;
    /// `None` if it may not.
    #[must_use]
    pub fn may_hold(&self, owner: &Owner, now: Now) -> Option<Uptime> {
        let entry = self.directory.entry(owner.client)?;
        let address = owner.address.ip();
        let may = entry.may_hold(owner.service, address, now.utc)
            && !self.directory.service(owner.service).ports.is_empty()
            && !self.bans.is_shut_out(address, now.uptime);
        may.then(|| entry.expires.map_or(NEVER, |end| uptime_of(end, now)))
    }

    /// How a grant stands that is held until then.
    pub fn right_to(&self, owner: &Owner, until: Uptime, now: Now) -> Right {
        match self.may_hold(owner, now) {
            None => Right::Gone,
            Some(end) if end < until => Right::Until(end),
            Some(_) => Right::Whole,
        }
    }

    /// The grants among these that may not be held for all of their time, and how they stand. Looks at every grant.
    pub fn restricted<'a>(
        &'a self,
        grants: &'a Grants,
        now: Now,
    ) -> impl Iterator<Item = (Owner, Right)> + 'a {
        let standing = move |(owner, until): (&Owner, &Uptime)| {
            let right = self.right_to(owner, *until, now);
            (right != Right::Whole).then_some((*owner, right))
        };
        grants.owners().filter_map(standing)
    }
}

/// When by the uptime a time by the clock on the wall is reached, if nobody sets that clock.
pub(super) fn uptime_of(time: Timestamp, now: Now) -> Uptime {
    let left = time.as_millis().saturating_sub(now.utc.as_millis());
    Uptime::from_millis(now.uptime.as_millis().saturating_add(left))
}
