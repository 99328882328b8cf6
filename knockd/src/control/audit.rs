//! Who has had what done: an event for each order, with the user and the process that gave it.
//!
//! # Security considerations
//! - Orders that are carried out are all told. Of those that fail, which cost nothing to give, a user other than root
//!   has ten a minute told, all such users together; the rest is summed up.
//! - What is told was parsed before: a client's or a service's name, an address, a reason without control characters.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::{error, info, warn};

use super::{
    Banned, Peer, Refused, RefusedKind, Reply, Request, Resynced, Unbanned,
    revoke::{Revoke, Revoked},
};

/// Orders of users other than root that failed, told one by one in a minute.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// How long after them failed orders are summed up at most.
const SUMMED_UP_AFTER: Duration = Duration::from_secs(10);

/// Tells of orders, within a bound.
pub struct Audit {
    failures: DefaultDirectRateLimiter,
    /// How many failures were not told one by one.
    held_back: u64,
}

impl Default for Audit {
    fn default() -> Self {
        let failures = RateLimiter::direct(Quota::per_minute(FAILURES_PER_MINUTE));
        Self { failures, held_back: 0 }
    }
}

impl Audit {
    /// Tells what somebody has had done.
    pub fn report(&mut self, request: &Request, reply: &Reply, Peer { uid, pid, .. }: Peer) {
        if let Reply::Refused(refused) = reply {
            return self.report_failure(refused, uid, pid);
        }
        match request {
            Request::Ban { reason, .. } => {
                let Reply::Banned(Banned { source, expires, grants_ended, .. }) = reply else {
                    return;
                };
                let why = reason.to_string();
                warn!(
                    source,
                    decision = "banned",
                    expires,
                    why,
                    by = "admin",
                    uid,
                    pid,
                    event = "banned",
                    "{source}: banned by an admin until {expires}; grants ended: {grants_ended}"
                );
            }
            Request::Unban { source } => {
                let Reply::Unbanned(Unbanned { lifted, .. }) = reply else { return };
                let source = source.map_or_else(|| "all".to_owned(), |source| source.to_string());
                info!(
                    source,
                    decision = "ban-lifted",
                    by = "admin",
                    lifted,
                    uid,
                    pid,
                    event = "ban-lifted",
                    "{source}: an admin has lifted {lifted} bans"
                );
            }
            Request::Revoke(Revoke { client, address, service, cut }) => {
                let Reply::Revoked(Revoked { grants_ended, .. }) = reply else { return };
                let client = client.as_ref().map(ToString::to_string);
                let source = address.as_ref().map(ToString::to_string);
                let service = service.as_ref().map(ToString::to_string);
                let whose = client.as_deref().or(source.as_deref()).unwrap_or_default();
                let cut = if *cut { ", and its connections" } else { "" };
                warn!(
                    event = "revoked",
                    client,
                    source,
                    service,
                    decision = "revoked",
                    grants_ended,
                    uid,
                    pid,
                    "{whose}: an admin has ended {grants_ended} grants{cut}"
                );
            }
            Request::Resync { client } => {
                let Reply::Resynced(Resynced { counter }) = reply else { return };
                warn!(
                    %client,
                    uid,
                    pid,
                    event = "counter-set",
                    "{client}: an admin has set its counter anew: it counts from {counter} on"
                );
            }
            // What comes of it is told when that is known: see [`crate::reload`].
            Request::Reload { .. } => {}
            Request::Status
            | Request::Client { .. }
            | Request::Grants { .. }
            | Request::Bans { .. }
            | Request::Skews { .. } => {}
        }
    }

    /// Tells that somebody has asked for the changed configuration.
    pub fn report_reload(Peer { uid, pid, .. }: Peer) {
        info!(
            event = "reload-asked",
            uid, pid, "the changed configuration is asked for by the user {uid}"
        );
    }

    /// In what time [`Self::sum_up`] has something to tell, if it has.
    #[must_use]
    pub const fn sums_up_in(&self) -> Option<Duration> {
        if self.held_back > 0 { Some(SUMMED_UP_AFTER) } else { None }
    }

    /// Tells how many failed orders were not told one by one, if any.
    pub fn sum_up(&mut self) {
        let orders = std::mem::take(&mut self.held_back);
        if orders > 0 {
            warn!(
                orders,
                event = "summed-up",
                "more failed orders than are told one by one: these are summed up"
            );
        }
    }

    fn report_failure(&mut self, refused: &Refused, uid: u32, pid: i32) {
        if uid != 0 && self.failures.check().is_err() {
            self.held_back += 1;
            return;
        }
        let Refused { kind, message } = refused;
        match kind {
            RefusedKind::Failed => {
                error!(
                    event = "order-failed",
                    uid, pid, "an order of the user {uid} failed: {message}"
                );
            }
            // A mistake of who asks is no fault here.
            RefusedKind::Request
            | RefusedKind::Unknown
            | RefusedKind::Impossible
            | RefusedKind::NotAllowed
            | RefusedKind::Busy => {
                warn!(
                    event = "order-failed",
                    uid, pid, "an order of the user {uid} is refused: {message}"
                );
            }
        }
    }
}
