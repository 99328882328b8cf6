//! Who must hold which door, and until when: the rules of grants, shares and rights, written a second time.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use common::UnicastAddress;
use knockd::gate::{
    clock::Uptime,
    decision::{Accepted, Effect},
    directory::ClientId,
    grants::Owner,
    rights::Right,
};

use super::{
    Story,
    world::{ADDRESSES, CAST},
};

impl Story {
    /// An accepted packet opens or closes doors; where its client holds as many addresses as it may, its own oldest
    /// gives way.
    pub(super) fn hold(&mut self, accepted: &Accepted) {
        let Accepted { client, address, .. } = *accepted;
        let directory = self.gate.directory();
        if let Effect::Open(_) = accepted.effect {
            let per_client = NonZeroU32::new(ADDRESSES as u32).expect("it isn't zero");
            let services = &accepted.services;
            let given_way = self.grants.make_room(
                client,
                address,
                services,
                per_client,
                directory,
                &mut Vec::new(),
            );
            let given_way: BTreeSet<Owner> = given_way.iter().map(|before| before.owner).collect();
            let mut expected = BTreeSet::new();
            let others = |held: &[UnicastAddress]| held.iter().filter(|it| **it != address).count();
            let visited = self.visited.entry(client).or_default();
            while others(visited) >= ADDRESSES {
                let oldest = visited.iter().position(|it| *it != address).expect("there is one");
                let left = visited.remove(oldest);
                let is_of_it = |owner: &Owner| owner.client == client && owner.address == left;
                expected.extend(self.held.extract_if(|owner, _| is_of_it(owner)).map(|(it, _)| it));
            }
            visited.retain(|it| *it != address);
            visited.push(address);
            assert_eq!(given_way, expected);
        }
        for service in accepted.services.iter().copied() {
            let owner = Owner { address, client, service };
            match accepted.effect {
                Effect::Open(time) => {
                    let until = self.now.uptime + time;
                    let opened = self.grants.open(owner, until, directory, &mut Vec::new());
                    assert!(opened.is_ok());
                    let held = self.held.entry(owner).or_insert(until);
                    *held = until.max(*held);
                }
                Effect::Close => {
                    let _ = self.grants.close(owner, directory, &mut Vec::new());
                    self.held.remove(&owner);
                }
            }
        }
        self.forget_what_was_left();
        self.assert_grants();
    }

    /// What may no longer be held ends, and what may be held for less time is shortened: after a reload, and when the
    /// clock was set.
    pub(super) fn settle(&mut self) {
        let restricted: Vec<_> = self.gate.restricted(&self.grants, self.now).collect();
        for (owner, right) in restricted {
            let directory = self.gate.directory();
            match right {
                Right::Whole => panic!("nothing is to be done of {owner:?}"),
                Right::Until(until) => {
                    self.grants.shorten(owner, until, directory, &mut Vec::new());
                }
                Right::Gone => {
                    let _ = self.grants.close(owner, directory, &mut Vec::new());
                }
            }
        }
        let ends: Vec<(Owner, Option<Uptime>)> =
            self.held.keys().map(|owner| (*owner, self.may_hold(owner))).collect();
        for (owner, end) in ends {
            match end {
                None => drop(self.held.remove(&owner)),
                Some(end) => {
                    self.held.entry(owner).and_modify(|held| *held = end.min(*held));
                }
            }
        }
        self.forget_what_was_left();
        self.assert_grants();
    }

    /// Until when a client may hold doors for an address; `None` if it may not.
    fn may_hold(&self, owner: &Owner) -> Option<Uptime> {
        let by = self.known.iter().position(|known| known.id == Some(owner.client))?;
        let entry = CAST[by].entry.as_ref()?;
        let (address, now) = (owner.address.ip(), self.now);
        let is_in = entry.from.is_empty() || entry.from.iter().any(|net| net.contains(&address));
        let is_over = entry.expires.is_some_and(|end| end <= now.utc);
        if !self.known[by].enabled || !is_in || is_over || self.is_shut_out(address) {
            return None;
        }
        let left = entry.expires.map(|end| end.as_millis() - now.utc.as_millis());
        let end = left.map(|left| now.uptime + Duration::from_millis(left));
        Some(end.unwrap_or(Uptime::from_millis(u64::MAX)))
    }

    fn forget_what_was_left(&mut self) {
        let is_held = |client: ClientId, address: UnicastAddress| {
            self.held.keys().any(|owner| owner.client == client && owner.address == address)
        };
        for (client, visited) in &mut self.visited {
            visited.retain(|address| is_held(*client, *address));
        }
    }

    fn assert_grants(&self) {
        let found: BTreeMap<Owner, Uptime> =
            self.grants.owners().map(|(owner, until)| (*owner, *until)).collect();
        let expected: BTreeMap<Owner, Uptime> =
            self.held.iter().map(|(owner, until)| (*owner, *until)).collect();
        assert_eq!(found, expected);
        assert!(self.visited.values().all(|visited| visited.len() <= ADDRESSES));
    }
}
