//! The door in the kernel: one nftables table, `inet knockd`, and nobody else's.
//!
//! [`ruleset`] says what the table is, and [`template`] what this kernel makes of that, by [`nft`]; [`table`] puts it in
//! as one transaction and compares it ([`reader`], [`listing`], [`verify`]). [`netlink`] writes the elements, which are
//! all that changes when somebody knocks; [`answer`] reads what the kernel says to that. [`watch`] tells when somebody else changed any of it, by the kernel's [`notice`]s;
//! [`counters`] reads what the rules have dropped; [`connections`] ends those that nobody let in.
//!
//! # Security considerations
//! - The table drops early, before destination NAT and before any other table could accept: what others
//!   accept afterwards doesn't matter, and what they drop stays dropped.
//! - It stays when the daemon ends. Grants are elements with timeouts, so that the kernel ends them
//!   whether a daemon lives or not.
//! - A set of doors has a default timeout: no element is ever without an end.

pub mod answer;
mod attributes;
pub mod connections;
pub mod counters;
pub mod included;
pub mod kernel;
pub mod listing;
pub mod memory;
pub mod netlink;
pub mod nft;
pub mod notice;
pub mod reader;
mod reflex;
pub mod ruleset;
pub mod table;
pub mod template;
pub mod verify;
pub mod watch;

use std::{io, time::Duration};

use common::Tag;

use crate::{
    gate::{
        bans::{BanChange, BanKind},
        clock::Uptime,
        grants::{Change, Door},
        source::Source,
    },
    local::NeverBanned,
};

/// The most changes that are made as one: what three elements for each take stays below the size of a
/// netlink socket's send buffer (net.core.wmem_default, 212,992 bytes).
pub const CHANGES_AT_ONCE: usize = 1024;

/// A banned source, by whom it is banned, and for how long yet.
pub type BanLeft = (Source, BanKind, Duration);

/// Opens and shuts doors.
pub trait Firewall {
    /// Makes all of these changes, or none. Of more than [`CHANGES_AT_ONCE`], some may be made if others
    /// fail.
    ///
    /// # Errors
    /// [`FirewallError`] if not all of them were made.
    fn apply(&mut self, changes: &[Change], now: Uptime) -> Result<(), FirewallError>;

    /// Bans these sources and lifts these bans, all of it or nothing. Of more than [`CHANGES_AT_ONCE`],
    /// some may be made if others fail.
    ///
    /// # Errors
    /// [`FirewallError`] if not all of them were made.
    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError>;

    /// The sources that are banned, by whom, and for how long yet; `None` if they are too many to be read in no time.
    ///
    /// # Errors
    /// [`FirewallError`] if that can't be read.
    fn bans(&mut self) -> Result<Option<Vec<BanLeft>>, FirewallError>;

    /// The addresses that are this host's own, and those of its gateways and resolvers: they are never banned.
    ///
    /// # Errors
    /// If the kernel doesn't tell them.
    fn own_addresses(&mut self) -> io::Result<NeverBanned>;

    /// Lets packets with these tags past the kernel's filter, each for this long from now on; for no time at
    /// all: no longer.
    ///
    /// # Errors
    /// [`FirewallError`] if not all of them could be added.
    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError>;

    /// The doors that are open, and for how long yet; [`Duration::MAX`] for one without an end. `None` if they are too
    /// many to be read in no time.
    ///
    /// # Errors
    /// [`FirewallError`] if that can't be read.
    fn doors(&mut self) -> Result<Option<Vec<(Door, Duration)>>, FirewallError>;

    /// Puts these doors and bans in place of all that there are, whichever those are: all of it or nothing, with no
    /// moment in between. Takes a second for each 500,000, in which nothing else is done.
    ///
    /// # Errors
    /// [`FirewallError`]; then everything is as it was.
    fn replace(
        &mut self,
        doors: &[(Door, Duration)],
        bans: &[BanLeft],
    ) -> Result<(), FirewallError>;

    /// Has whoever keeps the table make all of its doors and bans right, in steps between which other things are done.
    /// Whether there is somebody who does.
    fn doubt_everything(&mut self) -> bool {
        false
    }
}

/// Why the kernel's table can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel refused a transaction; none of it took effect.
    #[error("the kernel refused to change table inet knockd: {0}{hint}", hint = hint(.0))]
    Refused(io::Error),
    /// The kernel can't be asked.
    #[error("netlink: {0}{hint}", hint = hint(.0))]
    Netlink(io::Error),
    /// The program `nft` can't be run, or failed.
    #[error("nft: {0}")]
    Nft(String),
    /// The table that the kernel holds isn't the one that was put in.
    #[error("the table read back from the kernel is not the one that was put in: {0}")]
    ReadBack(String),
}

impl FirewallError {
    /// Whether the kernel says that what was to be made is there already.
    #[must_use]
    pub fn says_already_there(&self) -> bool {
        matches!(self, Self::Refused(error) if error.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether the kernel says that the table, or a set of it, isn't there.
    #[must_use]
    pub fn says_not_there(&self) -> bool {
        match self {
            Self::Refused(error) | Self::Netlink(error) => error.kind() == io::ErrorKind::NotFound,
            Self::Nft(_) | Self::ReadBack(_) => false,
        }
    }
}

/// What to do about an error of the kernel's.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; this needs CAP_NET_ADMIN: run it as root",
        io::ErrorKind::NotFound => "; is the table there? see `knockd firewall status`",
        _ => "",
    }
}
