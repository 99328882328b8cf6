//! What becomes of datagrams, and what can go wrong with it.

use std::{fmt, io, sync::Arc};

use common::{Datagram, Mac, UnicastAddress};

use super::parked::OF_ONE_CLIENT;
use crate::{
    firewall::FirewallError,
    gate::{
        bans::NotBanned,
        clock::Uptime,
        decision::Refusal,
        directory::{ClientId, ServiceId},
        grants::TooMany,
        skews::Drift,
        source::Source,
    },
};

/// What became of a datagram.
#[derive(Debug)]
pub enum Outcome {
    /// The doors are open.
    Granted {
        /// For whom.
        client: ClientId,
        /// To what.
        services: Arc<[ServiceId]>,
        /// Until when.
        until: Uptime,
    },
    /// The client's hold on the doors is over.
    Closed {
        /// Whose.
        client: ClientId,
        /// On what.
        services: Arc<[ServiceId]>,
        /// What went wrong beside it.
        warning: Option<Failure>,
    },
    /// A client holds as many addresses as it may: its grants for this one have given way to its newest.
    GaveWay {
        /// Whose.
        client: ClientId,
        /// The address that is let in no longer, unless by another client.
        address: UnicastAddress,
    },
    /// A client that got in is about to be shut out by its clock.
    Drifting {
        /// Whose clock it is.
        client: ClientId,
        /// How far it is off.
        drift: Drift,
    },
    /// A check failed.
    Refused {
        /// Which, and whose packet it was.
        refusal: Refusal,
        /// What tells a client's packet from all others, and not from a copy; `None` for a stranger's.
        packet: Option<Mac>,
    },
    /// The source has failed too often.
    Banned {
        /// The source.
        source: Source,
        /// Until when it is banned.
        until: Uptime,
        /// What went wrong beside it.
        warning: Option<Failure>,
    },
    /// The source has failed too often, and isn't banned.
    NotBanned(NoBan),
    /// A client that holds a key has knocked from a banned source: the ban is over.
    BanLifted {
        /// The source.
        source: Source,
        /// What went wrong beside it.
        warning: Option<Failure>,
    },
    /// Every check passed, and it could not be done.
    Failed {
        /// For whom.
        client: ClientId,
        /// What was asked for.
        services: Arc<[ServiceId]>,
        /// What went wrong.
        failure: Failure,
    },
}

impl Outcome {
    /// That this datagram was refused.
    pub(super) fn refused(refusal: Refusal, datagram: &[u8]) -> Self {
        let packet = refusal.client.and_then(|_| Datagram::parse(datagram).ok());
        Self::Refused { refusal, packet: packet.map(|datagram| datagram.mac()) }
    }
}

/// Why a source that has failed too often isn't banned.
#[derive(Debug)]
pub enum NoBan {
    /// It must not be, or there are too many bans.
    Spared(NotBanned),
    /// The kernel did not take the ban.
    Failed(Failure),
}

/// Why a packet that passed every check had no effect.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It could not be written down.
    Journal(io::ErrorKind, String),
    /// As many of the client's packets wait for the disk as may of one client: it knocks faster than the disk answers.
    TooManyWaiting,
    /// There are too many grants.
    GrantsFull {
        /// The client that holds the most, and how many.
        most: Option<(Box<str>, usize)>,
    },
    /// The kernel did not open the door.
    Firewall(String),
}

impl Failure {
    /// The names of all failures.
    pub const NAMES: [&'static str; 4] =
        ["journal-failed", "too-many-waiting", "grants-full", "firewall-failed"];

    /// The failure's one name, among the reasons of a refusal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Journal(..) => "journal-failed",
            Self::TooManyWaiting => "too-many-waiting",
            Self::GrantsFull { .. } => "grants-full",
            Self::Firewall(_) => "firewall-failed",
        }
    }

    pub(super) fn journal(error: &io::Error) -> Self {
        Self::Journal(error.kind(), error.to_string())
    }

    pub(super) fn firewall(error: &FirewallError) -> Self {
        Self::Firewall(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(io::ErrorKind::StorageFull, error) => {
                write!(f, "the state folder can't be written: {error}; make room on its disk")
            }
            Self::Journal(_, error) => write!(f, "the state folder can't be written: {error}"),
            Self::TooManyWaiting => write!(
                f,
                "{OF_ONE_CLIENT} of its packets wait for the disk already: it knocks too often, or the disk is slow"
            ),
            Self::GrantsFull { most: None } => write!(f, "{TooMany}"),
            Self::GrantsFull { most: Some((client, count)) } => {
                write!(f, "{TooMany}; the client {client} holds {count} of them")
            }
            Self::Firewall(error) => f.write_str(error),
        }
    }
}
