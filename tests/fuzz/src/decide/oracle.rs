//! What the gate must say of a sealed packet: PROTOCOL.md's ten checks, written a second time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use common::{Action, ClientAddress, Day, Request, Timestamp, UnicastAddress};
use knockd::gate::{
    counters::{Advance, Counter},
    decision::{Accepted, Effect, Memory},
    directory::ClientId,
    policy::AddressPolicy,
};

use super::{
    Sealed, Story,
    world::{CAST, GRANT, OLD_KEY_TOLD_MS, OLD_KEY_UNTIL_MS, PER_CLIENT, SKEW_MS},
};

/// Whose packet the refusal is told of, and its reason's name.
type Refused = (Option<ClientId>, &'static str);

impl Story {
    /// Says what must become of a sealed packet from this source; but for the memory's being full.
    pub(super) fn verdict(&self, sealed: &Sealed, source: IpAddr) -> Result<Accepted, Refused> {
        let known = self.known[sealed.by];
        let (Some(client), Some(entry)) = (known.id, &CAST[sealed.by].entry) else {
            return Err((None, "unknown-tag"));
        };
        let counts = CAST[sealed.by].counts();
        let today = self.tags.0;
        let has_tag = match counts {
            true => sealed.day == Day::COUNTER,
            false => [Some(today), today.previous(), today.next()].contains(&Some(sealed.day)),
        };
        if !has_tag {
            return Err((None, "unknown-tag"));
        }
        let told_until = Timestamp::from_millis(OLD_KEY_UNTIL_MS + OLD_KEY_TOLD_MS);
        if sealed.is_old && Some(sealed.day) > Day::of(told_until) {
            return Err((None, "unknown-tag"));
        }
        let refused = |name| Err((Some(client), name));
        let Ok(request) = Request::from_bytes(&sealed.request, sealed.day) else {
            return refused("malformed");
        };
        let (stamp, now) = (request.timestamp, self.now.utc);
        let floor = self.gate.replay().floor();
        let is_forgotten = floor.forgotten.is_some_and(|newest| stamp <= newest);
        let is_lost = floor.lost_before.is_some_and(|lost| {
            let lost = self.now.utc_of(lost).as_millis();
            stamp.as_millis() <= lost.saturating_add(SKEW_MS)
        });
        let is_off = stamp.as_millis().abs_diff(now.as_millis()) > SKEW_MS;
        if !counts && (is_off || is_forgotten || is_lost) {
            return refused("stale");
        }
        let last = self.numbers.get(&sealed.by).copied();
        if counts && last.is_some_and(|last| stamp.as_millis() <= last) {
            return refused("counter-behind");
        }
        if !known.enabled {
            return refused("client-disabled");
        }
        if entry.expires.is_some_and(|end| end <= now) {
            return refused("client-expired");
        }
        if sealed.is_old && now.as_millis() >= OLD_KEY_UNTIL_MS {
            return refused("old-key-expired");
        }
        if !entry.from.is_empty() && !entry.from.iter().any(|network| network.contains(&source)) {
            return refused("network-not-allowed");
        }
        if self.is_shut_out(source) {
            return refused("banned");
        }
        let address = match request.address {
            ClientAddress::Literal(address) => Some(address),
            ClientAddress::Observed if entry.address == AddressPolicy::Observed => {
                UnicastAddress::try_from(source).ok()
            }
            ClientAddress::Observed => None,
        };
        let Some(address) = address.filter(|address| address.ip() == source) else {
            return refused("address-mismatch");
        };
        if request.service.is_some_and(|name| !entry.services.contains(&name)) {
            return refused("service-not-allowed");
        }
        let asked: Vec<_> = request.service.map_or(entry.services.to_vec(), |name| vec![name]);
        let services: Arc<[_]> = asked
            .into_iter()
            .filter_map(|name| self.gate.directory().service_named(name))
            .collect();
        if !counts && self.accepted.contains(&sealed.mac()) {
            return refused("replayed");
        }
        let seconds = match request.open_for.as_secs() {
            0 => GRANT.open_for.as_secs(),
            asked => u64::from(asked).min(GRANT.max.as_secs()),
        };
        let old_end = sealed.is_old.then_some(Timestamp::from_millis(OLD_KEY_UNTIL_MS));
        let end = entry.expires.into_iter().chain(old_end).min();
        let left = end.map_or(u64::MAX, |end| end.as_millis() - now.as_millis());
        let effect = match request.action {
            Action::Open => {
                Effect::Open(Duration::from_secs(seconds).min(Duration::from_millis(left)))
            }
            Action::Close => Effect::Close,
        };
        let mac = sealed.mac();
        Ok(Accepted {
            client,
            address,
            services,
            effect,
            mac,
            timestamp: stamp,
            memory: match counts {
                false => Memory::Mac,
                true => Memory::Counter(Advance {
                    key: CAST[sealed.by].keys().tag(Day::COUNTER),
                    to: stamp.as_millis(),
                    before: last.map(Counter::Last),
                }),
            },
            // When it is told depends on what was told before.
            drift: None,
            reply: None,
        })
    }

    /// Only a clock that is off by more than half of what is allowed is warned of.
    pub(super) fn assert_drifts(&self, accepted: &Accepted) {
        let off = accepted.timestamp.as_millis().abs_diff(self.now.utc.as_millis());
        assert!(accepted.drift.is_none_or(|drift| {
            drift.difference_ms.unsigned_abs() == off && off > SKEW_MS / 2
        }));
    }

    /// A good packet is refused for want of room only where there is none.
    pub(super) fn assert_full(&self, client: ClientId) {
        let is_full = self.gate.replay().packets().len() == self.capacity;
        assert!(is_full || self.share(client) == PER_CLIENT, "there is room");
    }

    /// The memory keeps its bounds.
    pub(super) fn assert_bounds(&self) {
        assert!(self.gate.replay().packets().len() <= self.capacity);
        for known in &self.known {
            assert!(known.id.is_none_or(|client| self.share(client) <= PER_CLIENT));
        }
    }

    /// Only what step 6 refuses by now is forgotten, so that no fresh packet is shut out by it.
    pub(super) fn assert_forgets_only_what_is_stale(&self, before: Option<Timestamp>) {
        let after = self.gate.replay().floor().forgotten;
        assert!(after >= before);
        let still_fresh = self.now.utc.as_millis().saturating_sub(SKEW_MS);
        assert!(after == before || after.is_some_and(|newest| newest.as_millis() < still_fresh));
    }

    fn share(&self, client: ClientId) -> usize {
        let packets = self.gate.replay().packets();
        packets.filter(|packet| packet.client == Some(client)).count()
    }
}
