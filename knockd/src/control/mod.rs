//! The control socket: how the `knockd` commands talk to the daemon. A request is one line of JSON, and so is
//! its reply; then the connection ends.
//!
//! # Security considerations
//! - Two Unix sockets, each with the mode 0660: the control socket for operators (root and the group `knockd`), and
//!   one beside it ([`read_path`]) for readers (the group `knockd-readers`), at which nothing can be changed
//!   ([`Request::access`]). Who may connect to which is the kernel's to say. An operator may do all that root may
//!   do here, lifting an admin's ban included; the event of each order says who gave it ([`Peer`]).
//! - How many connections are served at once is bounded, for each user and for all, and root's places are apart
//!   ([`places`]). Each is served for [`server::PATIENCE`] at most ([`Request::patience`] once it has asked), with a
//!   request of [`REQUEST_MAX`] bytes at most.
//! - Names and addresses are parsed where a request is read. What isn't one is refused, and is never repeated.

pub mod answer;
pub mod audit;
pub mod client;
pub mod configuration;
pub mod list;
pub mod look_up;
pub mod places;
pub mod revoke;
pub mod server;
mod text;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::{
    configuration::{Configuration, Refusal, Reloaded},
    list::{BanMark, BansPage, GrantMark, GrantsPage},
    revoke::{ClientState, Revoke, Revoked},
};
use crate::{
    counts::Counts,
    firewall::counters::RuleDrops,
    gate::{bans::BanReason, policy::ClientName, source::Source},
    telemetry::LastError,
};

/// Longest request in bytes.
pub const REQUEST_MAX: u64 = 4096;

impl Request {
    /// How long the daemon may take for it, from when it was asked. All files of a million clients, which a reload
    /// may have to read, take some ten seconds.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        match self {
            Self::Reload { .. } => Duration::from_mins(5),
            // As many connections as conntrack may hold are looked through.
            Self::Revoke(_) => Duration::from_mins(1),
            _ => server::PATIENCE,
        }
    }

    /// What it takes to be allowed it.
    #[must_use]
    pub const fn access(&self) -> Access {
        match self {
            Self::Status
            | Self::Client { .. }
            | Self::Grants { .. }
            | Self::Bans { .. }
            | Self::Skews { .. } => Access::Read,
            Self::Ban { .. }
            | Self::Reload { .. }
            | Self::Revoke(_)
            | Self::Unban { .. }
            | Self::Resync { .. } => Access::Operate,
        }
    }
}

/// What somebody may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// How things are.
    Read,
    /// That, and to have something done.
    Operate,
}

/// Who asks: unix(7), SO_PEERCRED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process; 0 if it is none of this process namespace.
    pub pid: i32,
    /// What the socket that it came by allows.
    pub access: Access,
}

/// Where readers ask: beside the control socket, with `-read` in its name.
#[must_use]
pub fn read_path(control: &Path) -> PathBuf {
    let mut name = control.file_stem().unwrap_or_default().to_owned();
    name.push("-read");
    if let Some(extension) = control.extension() {
        name.push(".");
        name.push(extension);
    }
    control.with_file_name(name)
}

/// What the daemon is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// To ban a source.
    #[serde(rename_all = "kebab-case")]
    Ban {
        /// The source, as an admin writes it.
        #[serde(with = "text")]
        source: Source,
        /// For how long, in milliseconds; for `ban.duration` if it isn't given.
        for_ms: Option<u64>,
        /// Why.
        #[serde(with = "text")]
        reason: BanReason,
    },
    /// To apply the changed configuration. The reply comes when that is done, or refused.
    Reload {
        /// The name of a client whose connections are to end with it; none if it isn't given.
        #[serde(default, with = "text::option")]
        cut: Option<ClientName>,
    },
    /// To end grants before their time.
    Revoke(Revoke),
    /// What there is of a client.
    Client {
        /// Its name.
        #[serde(with = "text")]
        name: ClientName,
    },
    /// Who is in: a page of at most [`list::ROWS`].
    Grants {
        /// Where the page before ended; none for the first one.
        after: Option<GrantMark>,
    },
    /// Who is banned: a page of at most [`list::ROWS`].
    Bans {
        /// Where the page before ended; none for the first one.
        after: Option<BanMark>,
    },
    /// To lift bans.
    Unban {
        /// The source; all if it isn't given.
        #[serde(default, with = "text::option")]
        source: Option<Source>,
    },
    /// To set the counter of a client without a clock anew.
    Resync {
        /// The client's name.
        #[serde(with = "text")]
        client: ClientName,
    },
    /// How far clients' clocks were off.
    Skews {
        /// From which place of the daemon's list on: 0, and then what the last reply says.
        from: usize,
    },
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// How it is.
    Status(Box<Status>),
    /// The changed configuration is in force.
    Reloaded(Box<Reloaded>),
    /// It is refused, and what was in force before still is.
    NotReloaded(Refusal),
    /// Grants are ended.
    Revoked(Revoked),
    /// What there is of a client.
    Client(ClientState),
    /// Who is in.
    Grants(GrantsPage),
    /// Who is banned.
    Bans(BansPage),
    /// A source is banned.
    Banned(Banned),
    /// Bans are lifted.
    Unbanned(Unbanned),
    /// A counter is set anew.
    Resynced(Resynced),
    /// How far clients' clocks were off.
    Skews(Skews),
    /// What was asked for isn't done.
    Refused(Refused),
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs: RFC 3339.
    pub since: String,
    /// How many clients there are.
    pub clients: usize,
    /// How many grants are live.
    pub grants: usize,
    /// How many sources are banned by their failures.
    pub bans_by_failures: usize,
    /// How many sources an admin has banned.
    pub bans_by_admin: usize,
    /// What was decided since.
    pub decisions: Counts,
    /// Clients that asked for what they may not have, the most eager ones first; at most
    /// [`answer::DENIALS_SHOWN`].
    pub denied: Vec<Denied>,
    /// Which configuration is in force.
    pub configuration: Configuration,
    /// The kernel's table, and what was put right of it since.
    pub table: Table,
    /// Clients whose counters are lost, so that nothing is accepted from them; at most [`answer::LOST_SHOWN`].
    #[serde(default)]
    pub counters_lost: Vec<String>,
    /// Datagrams that were lost because the receive buffer was full; none if that can't be read.
    pub receive_buffer_drops: Option<u64>,
    /// Packets that the kernel dropped, by rule, since the table went in; none if that can't be read.
    pub kernel_drops: Option<Vec<RuleDrops>>,
    /// The memory against replays.
    pub replay_memory: Memory,
    /// The most bans that there can be.
    pub bans_limit: usize,
    /// Events at level error since.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<LastError>,
    /// The clock on the wall.
    pub clock: Clock,
}

/// How full the memory against replays is, in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// Remembered now.
    pub used: usize,
    /// At most.
    pub capacity: usize,
}

/// The clock on the wall, by which packets are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Clock {
    /// Whether systemd-timesyncd keeps it right; none where that doesn't run, and somebody else may.
    pub synchronized: Option<bool>,
    /// How often it was set since the daemon started, rather than going on.
    pub steps: u64,
    /// By how many milliseconds the last time: ahead, or (below zero) back.
    pub last_step_ms: Option<i64>,
    /// What it was set to then: RFC 3339.
    pub last_step: Option<String>,
}

/// The kernel's table, and what was put right of it since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Table {
    /// Whether it is as it ought to be.
    pub whole: bool,
    /// Why it can't be put right, while that is so.
    pub failing: Option<String>,
    /// How often it was put right.
    pub repairs: u64,
    /// What it lacked the last time.
    pub lacked: Option<String>,
    /// When that was: RFC 3339.
    pub since: Option<String>,
    /// For how long it lacked that, in milliseconds.
    pub open_ms: Option<u64>,
}

/// A client that asked for what it may not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Denied {
    /// Its name.
    pub client: String,
    /// How often.
    pub count: u64,
    /// When last, by its own clock: RFC 3339.
    pub last: String,
}

/// A source is banned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Banned {
    /// The source as it is banned: of an IPv6 address, its /64.
    pub source: String,
    /// When the ban ends: RFC 3339.
    pub expires: String,
    /// How many grants it has ended.
    pub grants_ended: usize,
    /// What went wrong beside it.
    pub warning: Option<String>,
}

/// Bans are lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unbanned {
    /// Whether there was one.
    pub changed: bool,
    /// How many.
    pub lifted: usize,
}

/// A counter is set anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Resynced {
    /// From where on the device is to count: its next packet has the number after this.
    pub counter: u64,
}

/// How far clients' clocks were off when their last packets were accepted, at most [`answer::SKEWS_AT_ONCE`] of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Skews {
    /// Of clients that have knocked since the daemon started.
    pub skews: Vec<SkewSeen>,
    /// Where to go on, if there may be more.
    pub next: Option<usize>,
}

/// How far a client's clock was off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SkewSeen {
    /// The client's name.
    pub client: String,
    /// Its packet's stamp less the daemon's clock, in milliseconds: negative for a clock that is slow.
    pub skew_ms: i64,
    /// When: RFC 3339.
    pub seen: String,
}

impl Reply {
    /// The reply with how many connections were ended, where that was asked for.
    #[must_use]
    pub fn with_connections(mut self, ended: Result<usize, String>) -> Self {
        let (count, warning) = match &mut self {
            Self::Revoked(it) => (&mut it.connections_ended, &mut it.warning),
            Self::Reloaded(it) => (&mut it.connections_ended, &mut it.warning),
            _ => return self,
        };
        match ended {
            Ok(ended) => *count = Some(ended),
            Err(error) => *warning = Some(format!("connections could not be ended: {error}")),
        }
        self
    }
}

/// What was asked for isn't done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refused {
    /// Why, in kind.
    pub kind: RefusedKind,
    /// Why, and what to do.
    pub message: String,
}

/// Why something isn't done, in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusedKind {
    /// The request is none that this daemon understands.
    Request,
    /// It names something that isn't there.
    Unknown,
    /// It must not, or can't, be done.
    Impossible,
    /// The system failed it.
    Failed,
    /// Who asks may not.
    NotAllowed,
    /// Too many ask at once; the same can succeed later.
    Busy,
}

impl Refused {
    /// A refusal of this kind.
    pub fn new(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
