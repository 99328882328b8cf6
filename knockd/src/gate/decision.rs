//! What the gate says of a datagram.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use common::{Mac, ReplyKeys, ServiceName, Timestamp, UnicastAddress};

use super::{
    counters::{Advance, NotAhead},
    directory::{ClientId, ServiceId},
    skews::Drift,
};

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a decision that nobody acts on opens nothing and tells nobody"]
pub enum Decision {
    /// The packet passed all ten checks and is now remembered.
    Accept(Accepted),
    /// The packet failed one of them, and nothing is to happen.
    Refuse(Refusal),
}

/// A packet that passed all ten checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an accepted packet must be written down before anything opens"]
pub struct Accepted {
    /// Who sent it.
    pub client: ClientId,
    /// The address that the door is for.
    pub address: UnicastAddress,
    /// The services, at least one.
    pub services: Arc<[ServiceId]>,
    /// What is to happen to the door.
    pub effect: Effect,
    /// What the packet is remembered by.
    pub mac: Mac,
    /// What the packet was stamped with: how long it must be remembered follows from it.
    pub timestamp: Timestamp,
    /// How it is remembered.
    pub memory: Memory,
    /// That the client's clock is about to leave the allowed skew, where that is to be told.
    pub drift: Option<Drift>,
    /// What its reply is sealed with, if it is to get one. The packet's mac is what the reply is bound to.
    pub reply: Option<ReplySeal>,
}

/// What a reply is sealed with: one key's packets are like another's.
#[derive(Clone, Debug)]
pub struct ReplySeal(pub Box<ReplyKeys>);

impl PartialEq for ReplySeal {
    /// Keys are never compared: that there is a reply is all that two decisions can differ in, beside the mac.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ReplySeal {}

/// How an accepted packet is remembered, so that it isn't accepted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// By its mac, among all others.
    Mac,
    /// By the counter of its client, which has no clock.
    Counter(Advance),
}

/// What is to happen to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open it for this long.
    Open(Duration),
    /// End the client's own grant.
    Close,
}

/// A packet that failed a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose packet it is; `None` for a stranger's, whose mac did not verify.
    pub client: Option<ClientId>,
    /// The first check that it failed.
    pub reason: Reason,
}

impl Refusal {
    /// Whether it counts against the packet's source: what a stranger's packet is refused for, or garbage.
    /// An honest device with a wrong clock is no stranger, and a copy of somebody's packet needs no key, and
    /// can have any source.
    #[must_use]
    pub const fn is_strike(&self) -> bool {
        match self.reason {
            Reason::UnknownTag | Reason::BadMac | Reason::BadSeal => true,
            Reason::Malformed(_) => self.client.is_none(),
            _ => false,
        }
    }
}

/// The check that a packet failed. Each has one name ([`Reason::name`]), the same in events, metrics
/// and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Step 1 or 5: not as the format has it.
    Malformed(common::Malformed),
    /// Step 2: the tag is no client's on any day that could be meant.
    UnknownTag,
    /// Step 3: the mac does not match.
    BadMac,
    /// Step 4: the mac matches and the seal does not open.
    BadSeal,
    /// Step 6: stamped too long ago, or too far ahead.
    Stale(Staleness),
    /// Step 6: of a client without a clock, the number is none that is known to be new.
    Counter(NotAhead),
    /// Step 7: the client's entry is switched off.
    ClientDisabled,
    /// Step 7: the client's entry has ended.
    ClientExpired,
    /// Step 7: it is the client's old key, and the time for which that was good is over.
    OldKeyExpired,
    /// Step 7: the source is in none of the client's networks.
    NetworkNotAllowed,
    /// Step 7: an admin has banned the source.
    Banned,
    /// Step 8: the address asked for is not the datagram's source, or the client must name it and did not.
    AddressMismatch {
        /// The address in the packet; `None` if it asks for the source.
        asked: Option<UnicastAddress>,
        /// The source of the datagram.
        source: IpAddr,
    },
    /// Step 9: there is no such service, or the client may not open it.
    ServiceNotAllowed(Option<ServiceName>),
    /// Step 10: accepted before.
    Replayed,
    /// Step 10: the memory against replays is full, so that the packet could not be remembered.
    ReplayMemoryFull,
}

/// By how much a packet's stamp missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// The packet's stamp less the daemon's clock, in milliseconds: negative for a device whose clock is
    /// slow, or for a packet that is old.
    pub difference_ms: i64,
    /// What it is measured against.
    pub bound: StaleBound,
}

/// What a stale packet's stamp was measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleBound {
    /// The allowed skew.
    Skew,
    /// The newest stamp that could have been forgotten: nothing at or below it is accepted.
    Forgotten,
}

impl Reason {
    /// The names of all reasons, in the order of the checks.
    pub const NAMES: [&'static str; 16] = [
        "malformed",
        "unknown-tag",
        "bad-mac",
        "bad-seal",
        "stale",
        "counter-behind",
        "counter-lost",
        "client-disabled",
        "client-expired",
        "old-key-expired",
        "network-not-allowed",
        "banned",
        "address-mismatch",
        "service-not-allowed",
        "replayed",
        "replay-memory-full",
    ];

    /// The reason's one name, among [`Self::NAMES`].
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnknownTag => "unknown-tag",
            Self::BadMac => "bad-mac",
            Self::BadSeal => "bad-seal",
            Self::Stale(_) => "stale",
            Self::Counter(NotAhead::Behind { .. }) => "counter-behind",
            Self::Counter(NotAhead::Lost) => "counter-lost",
            Self::ClientDisabled => "client-disabled",
            Self::ClientExpired => "client-expired",
            Self::OldKeyExpired => "old-key-expired",
            Self::NetworkNotAllowed => "network-not-allowed",
            Self::Banned => "banned",
            Self::AddressMismatch { .. } => "address-mismatch",
            Self::ServiceNotAllowed(_) => "service-not-allowed",
            Self::Replayed => "replayed",
            Self::ReplayMemoryFull => "replay-memory-full",
        }
    }
}

impl Reason {
    /// The service that was asked for, where that is what was refused.
    #[must_use]
    pub const fn service(&self) -> Option<ServiceName> {
        match self {
            Self::ServiceNotAllowed(service) => *service,
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    /// The reason in words, with what an admin needs to mend it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(part) => write!(f, "{part}"),
            Self::UnknownTag => f.write_str("the tag is no client's"),
            Self::BadMac => f.write_str("the mac does not match"),
            Self::BadSeal => f.write_str("the seal does not open"),
            Self::Stale(staleness) => write!(f, "{staleness}"),
            Self::Counter(error) => write!(f, "{error}"),
            Self::ClientDisabled => f.write_str("the client is disabled"),
            Self::ClientExpired => f.write_str("the client's entry has expired"),
            Self::OldKeyExpired => f.write_str(
                "it is sealed with the client's old key, which is no longer good: the device needs the new one",
            ),
            Self::NetworkNotAllowed => {
                f.write_str("the source is in none of the client's networks")
            }
            Self::Banned => f.write_str("an admin has banned the source"),
            Self::AddressMismatch { asked: Some(asked), source } => {
                write!(f, "the packet is for {asked} and came from {source}")
            }
            Self::AddressMismatch { asked: None, source } => {
                write!(
                    f,
                    "the packet is for whatever source it has ({source}), which this client's entry does not allow"
                )
            }
            Self::ServiceNotAllowed(Some(service)) => {
                write!(f, "there is no service {service} that the client may open")
            }
            Self::ServiceNotAllowed(None) => f.write_str("the client may open no service"),
            Self::Replayed => f.write_str("the packet was accepted before"),
            Self::ReplayMemoryFull => f.write_str("the memory against replays is full"),
        }
    }
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, millis) =
            (if self.difference_ms < 0 { '-' } else { '+' }, self.difference_ms.unsigned_abs());
        write!(
            f,
            "the stamp is {sign}{}.{:03} s off the daemon's clock",
            millis / 1000,
            millis % 1000
        )?;
        match self.bound {
            StaleBound::Skew => Ok(()),
            StaleBound::Forgotten => {
                f.write_str(", and packets of that time may have been accepted and forgotten")
            }
        }
    }
}
