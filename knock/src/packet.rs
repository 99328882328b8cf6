//! Makes one packet: the time, a fresh nonce, and the seal over what is asked.
//!
//! # Security considerations
//! A nonce must never repeat under one key: each packet draws its own 96 bits from the system, and none
//! is made when the system has no randomness to give. It depends on the request as well ([`Nonce::hedged`]),
//! for devices whose randomness isn't any.

use std::time::SystemTime;

use common::{
    ClientAddress, ClientKeys, Day, NONCE_LEN, Nonce, Request, SealedDatagram, Timestamp,
};

use crate::{
    exit::Error,
    numbers::{Numbers, Taken},
    plan::Ask,
};

/// 2020-01-01T00:00:00Z. A clock before this project existed was never set.
const PLAUSIBLE_SINCE: Timestamp = Timestamp::from_millis(1_577_836_800_000);

/// A device that lost its clock's battery is refused in silence; its own clock is the only place to notice.
pub(crate) const IMPLAUSIBLE_CLOCK: &str = "the clock of this device shows a time before 2020, and the server will refuse the packet as stale: set the clock";

/// What a packet carries in place of a time, and the day that its tag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) timestamp: Timestamp,
    pub(crate) day: Day,
}

impl Stamp {
    /// The time, by this device's clock.
    pub(crate) fn now() -> Result<Self, Error> {
        let timestamp = now()?;
        Ok(Self { timestamp, day: Day::of(timestamp).ok_or_else(unusable_clock)? })
    }
}

/// What keeps this device's packets from being accepted twice.
#[derive(Debug)]
pub(crate) enum DeviceClock {
    /// Its clock.
    Utc,
    /// Numbers, which rise with every packet.
    Counter(Numbers),
}

/// What makes stamps.
#[derive(Debug)]
pub(crate) enum Stamps {
    /// The clock, as it is at that moment.
    Clock,
    /// Numbers that are kept for these packets, and for nobody else while they are being sent.
    Numbers(Taken),
}

impl DeviceClock {
    /// Stamps for this many packets, which are to be sent.
    pub(crate) fn stamps(&mut self, packets: usize) -> Result<Stamps, Error> {
        match self {
            Self::Utc => Ok(Stamps::Clock),
            Self::Counter(numbers) => numbers.take(packets as u64).map(Stamps::Numbers),
        }
    }

    /// Stamps for this many packets, which are not to be sent: no number is used up.
    pub(crate) fn rehearsed(&self, packets: usize) -> Result<Stamps, Error> {
        match self {
            Self::Utc => Ok(Stamps::Clock),
            Self::Counter(numbers) => numbers.peek(packets as u64).map(Stamps::Numbers),
        }
    }

    /// What is wrong with it, though it goes on: a counter that can't be written.
    pub(crate) fn trouble(&self) -> Option<&str> {
        match self {
            Self::Utc => None,
            Self::Counter(numbers) => numbers.trouble(),
        }
    }

    /// What is wrong with where it keeps its number.
    pub(crate) fn forgets(&self) -> Option<String> {
        match self {
            Self::Utc => None,
            Self::Counter(numbers) => numbers.file().forgets(),
        }
    }

    /// Takes over what another one has in memory.
    pub(crate) fn go_on_from(&mut self, other: &Self) {
        if let (Self::Counter(own), Self::Counter(others)) = (self, other) {
            own.go_on_from(others);
        }
    }
}

impl Stamps {
    pub(crate) fn next(&mut self) -> Result<Stamp, Error> {
        match self {
            Self::Clock => Stamp::now(),
            Self::Numbers(numbers) => numbers.next().ok_or_else(|| {
                Error::System("more packets than numbers were kept for: a fault of knock".into())
            }),
        }
    }
}

/// A datagram, and what is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) request: Request,
    pub(crate) day: Day,
    pub(crate) datagram: SealedDatagram,
}

impl Packet {
    /// Seals what is asked, for this address and with this stamp.
    pub(crate) fn fresh(
        keys: &ClientKeys,
        ask: Ask,
        address: ClientAddress,
        Stamp { timestamp, day }: Stamp,
    ) -> Result<Self, Error> {
        let request = Request {
            timestamp,
            address,
            open_for: ask.open_for,
            action: ask.action,
            reply: ask.reply,
            service: ask.service,
        };
        let mut random = [0; NONCE_LEN];
        getrandom::fill(&mut random).map_err(|error| {
            Error::System(format!("the system gives no random bytes for the packet: {error}"))
        })?;
        let datagram = common::seal(keys, day, Nonce::hedged(keys, &request, random), &request);
        Ok(Self { request, day, datagram })
    }

    /// Whether the clock that stamped this packet, if one did, can have been set at all.
    pub(crate) fn is_plausibly_stamped(&self) -> bool {
        self.day == Day::COUNTER || is_plausible(self.request.timestamp)
    }
}

/// Whether this device's clock can have been set at all.
pub(crate) fn is_plausible_now() -> bool {
    now().is_ok_and(is_plausible)
}

fn is_plausible(timestamp: Timestamp) -> bool {
    timestamp >= PLAUSIBLE_SINCE
}

fn now() -> Result<Timestamp, Error> {
    let since_epoch =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|_| unusable_clock())?;
    u64::try_from(since_epoch.as_millis()).map(Timestamp::from_millis).map_err(|_| unusable_clock())
}

fn unusable_clock() -> Error {
    Error::System("the clock shows a time that a packet can't carry: set it".into())
}

#[cfg(test)]
mod tests {
    use common::{Action, OpenFor, Realm, ReplyWanted, Secret};

    use super::*;

    #[test]
    fn a_stamp_from_before_2020_comes_from_a_clock_that_was_never_set() {
        assert!(!is_plausible(Timestamp::from_millis(0)));
        assert!(!is_plausible(Timestamp::from_millis(PLAUSIBLE_SINCE.as_millis() - 1)));
        assert!(is_plausible(PLAUSIBLE_SINCE));
    }

    #[test]
    fn no_two_packets_share_a_nonce_even_when_they_ask_the_same() {
        let keys = ClientKeys::derive(
            &Secret::new(std::array::from_fn(|at| u8::try_from(at).unwrap())).unwrap(),
            &Realm::default(),
        );
        let ask = Ask {
            action: Action::Open,
            open_for: OpenFor::Default,
            service: None,
            reply: ReplyWanted::No,
        };
        let stamp = Stamp::now().unwrap();
        let nonces: std::collections::HashSet<[u8; NONCE_LEN]> = (0..1_000)
            .map(|_| Packet::fresh(&keys, ask, ClientAddress::Observed, stamp).unwrap().datagram)
            .map(|datagram| datagram[8..20].try_into().unwrap())
            .collect();
        assert_eq!(nonces.len(), 1_000);
    }
}
