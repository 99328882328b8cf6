//! PROTOCOL.md's ten checks, in their order.

use std::{net::IpAddr, sync::Arc, time::Duration};

use common::{
    Action, ClientAddress, Datagram, OpenError, ReplyKeys, ReplyWanted, Request, Timestamp,
    UnicastAddress,
};

use super::{
    Gate,
    clock::Now,
    decision::{Accepted, Effect, Memory, Reason, Refusal, ReplySeal, StaleBound, Staleness},
    directory::{ClientId, Entry, ServiceId},
    policy::{AddressPolicy, ClientClock, ReplyPolicy},
    replay::{NotNew, Remembered},
    rights::uptime_of,
};

impl Gate {
    pub(super) fn judge(
        &mut self,
        datagram: &[u8],
        source: IpAddr,
        now: Now,
    ) -> Result<Accepted, Refusal> {
        let stranger = |reason| Refusal { client: None, reason };

        // 1. the length
        let datagram =
            Datagram::parse(datagram).map_err(|part| stranger(Reason::Malformed(part)))?;
        // 2. the tag
        let (client, entry, day) =
            self.directory.find(datagram.tag()).ok_or(stranger(Reason::UnknownTag))?;
        // 3. the mac  4. the seal  5. the request
        let known = |reason| Refusal { client: Some(client), reason };
        let (keys, good_until) = entry.keys_of(datagram.tag(), day);
        let request = datagram.open(keys, day).map_err(|error| match error {
            OpenError::BadMac => stranger(Reason::BadMac),
            OpenError::BadSeal => known(Reason::BadSeal),
            OpenError::Malformed(part) => known(Reason::Malformed(part)),
        })?;
        // 6. the timestamp
        let (tag, stamp) = (datagram.tag(), request.timestamp);
        let clock = entry.clock;
        match clock {
            ClientClock::Utc => self.check_timestamp(stamp, now),
            ClientClock::Counter => {
                self.counters.check(tag, stamp.as_millis()).map_err(Reason::Counter)
            }
        }
        .map_err(known)?;
        // 7. the client's entry and its networks
        check_entry(entry, good_until, source, now.utc).map_err(known)?;
        if self.bans.is_shut_out(source, now.uptime) {
            return Err(known(Reason::Banned));
        }
        // 8. the address
        let address = check_address(&request, entry.address, source).map_err(known)?;
        // 9. the service
        let services = match self.check_service(&request, entry) {
            Ok(services) => services,
            Err(reason) => {
                // A number of a device without a clock is no time.
                let asked = if clock == ClientClock::Utc { stamp } else { now.utc };
                self.denials.count(client, stamp, asked);
                return Err(known(reason));
            }
        };
        // 10. the packet is new
        let effect = match request.action {
            // No longer than the key and the entry are good: both are by now, which step 7 has checked.
            Action::Open => {
                let end = [entry.expires, good_until].into_iter().flatten().min();
                let left = end.map_or(Duration::MAX, |end| uptime_of(end, now).since(now.uptime));
                Effect::Open(self.grant.duration(request.open_for).min(left))
            }
            Action::Close => Effect::Close,
        };
        let mac = datagram.mac();
        let reply = match (request.reply, self.reply) {
            (ReplyWanted::Yes, ReplyPolicy::On) => Some(ReplySeal(Box::new(ReplyKeys::of(keys)))),
            (ReplyWanted::No, _) | (_, ReplyPolicy::Off) => None,
        };
        let mut drift = None;
        let memory = match clock {
            ClientClock::Utc => {
                self.check_new(mac, stamp, client, now.utc)?;
                drift = self.skews.note(client, stamp, now, self.skew);
                Memory::Mac
            }
            ClientClock::Counter => {
                let advance = self.counters.check_and_advance(tag, stamp.as_millis());
                Memory::Counter(advance.map_err(|error| known(Reason::Counter(error)))?)
            }
        };
        Ok(Accepted {
            client,
            address,
            services,
            effect,
            mac,
            timestamp: stamp,
            memory,
            drift,
            reply,
        })
    }

    fn check_timestamp(&self, stamp: Timestamp, now: Now) -> Result<(), Reason> {
        let (stamp_ms, now_ms) = (stamp.as_millis(), now.utc.as_millis());
        let stale = |bound| {
            let distance = i64::try_from(stamp_ms.abs_diff(now_ms)).unwrap_or(i64::MAX);
            let difference_ms = if stamp_ms < now_ms { -distance } else { distance };
            Reason::Stale(Staleness { difference_ms, bound })
        };
        if stamp_ms.abs_diff(now_ms) > self.skew.as_millis() {
            Err(stale(StaleBound::Skew))
        } else if Some(stamp) <= self.replay.refused_up_to(now) {
            Err(stale(StaleBound::Forgotten))
        } else {
            Ok(())
        }
    }

    fn check_service(&self, request: &Request, entry: &Entry) -> Result<Arc<[ServiceId]>, Reason> {
        let Some(name) = request.service else {
            return match entry.services.is_empty() {
                true => Err(Reason::ServiceNotAllowed(None)),
                false => Ok(entry.services.clone()),
            };
        };
        self.directory
            .service_named(name)
            .filter(|service| entry.services.contains(service))
            .map(|service| Arc::from([service]))
            .ok_or(Reason::ServiceNotAllowed(Some(name)))
    }

    fn check_new(
        &mut self,
        mac: common::Mac,
        timestamp: Timestamp,
        client: ClientId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let packet = Remembered { timestamp, mac, client: Some(client) };
        self.replay.check_and_insert(packet, now).map_err(|error| Refusal {
            client: Some(client),
            reason: match error {
                NotNew::Replayed => Reason::Replayed,
                NotNew::Full => Reason::ReplayMemoryFull,
            },
        })
    }
}

fn check_entry(
    entry: &Entry,
    good_until: Option<Timestamp>,
    source: IpAddr,
    now: Timestamp,
) -> Result<(), Reason> {
    entry.check_standing(now)?;
    if good_until.is_some_and(|end| now >= end) {
        return Err(Reason::OldKeyExpired);
    }
    if !entry.lets_in(source) {
        return Err(Reason::NetworkNotAllowed);
    }
    Ok(())
}

fn check_address(
    request: &Request,
    policy: AddressPolicy,
    source: IpAddr,
) -> Result<UnicastAddress, Reason> {
    let (asked, address) = match (request.address, policy) {
        (ClientAddress::Literal(asked), _) => (Some(asked), Some(asked)),
        // A source such as fe80::1 means another host on every link: no door can be opened for it.
        (ClientAddress::Observed, AddressPolicy::Observed) => {
            (None, UnicastAddress::try_from(source).ok())
        }
        (ClientAddress::Observed, AddressPolicy::Strict) => (None, None),
    };
    address
        .filter(|address| address.ip() == source)
        .ok_or(Reason::AddressMismatch { asked, source })
}
