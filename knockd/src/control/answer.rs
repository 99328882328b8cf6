//! What the daemon does on request, and says of itself.

use std::{cmp::Reverse, collections::HashSet, net::IpAddr, time::Duration};

use super::{
    Banned, Clock, Denied, Memory, Refused, RefusedKind, Reply, Request, Resynced, SkewSeen, Skews,
    Status, Table, Unbanned, configuration::Configuration, list,
};
use crate::{
    admission::{Admission, BanError, ResyncError},
    counts::Counts,
    firewall::Firewall,
    gate::{
        bans::{BanKind, BanReason, Bans},
        clock::Now,
        grants::Door,
        policy::{ClientName, Port},
        skews::Skew,
        source::Source,
    },
    house::ClockSteps,
    telemetry::{self, rfc3339},
};

/// Denied clients that the status shows.
pub const DENIALS_SHOWN: usize = 20;
/// Clients with lost counters that the status shows.
pub const LOST_SHOWN: usize = 20;
/// Clients whose skews are told in one reply.
pub const SKEWS_AT_ONCE: usize = 1_000;
/// The longest ban that an admin can make: ten years.
pub const BAN_LIMIT: Duration = Duration::from_hours(10 * 365 * 24);

/// What a request is answered from.
pub struct Parts<'a, F> {
    /// The daemon's insides.
    pub admission: &'a mut Admission<F>,
    /// What was decided so far.
    pub counts: &'a Counts,
    /// Which configuration is in force.
    pub configuration: Configuration,
    /// The kernel's table.
    pub table: Table,
    /// What the kernel dropped because the receive buffer was full.
    pub receive_buffer_drops: Option<u64>,
    /// How often the clock was set.
    pub clock_steps: ClockSteps,
    /// When the daemon started.
    pub since: Now,
    /// The connections that are to be ended, if any.
    pub to_end: Option<ToEnd>,
}

/// Connections that are to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToEnd {
    /// Those of a banned source.
    Of(Source),
    /// Those through these doors.
    Through(HashSet<Door>),
    /// Those from an address, to these ports if any are given.
    From(IpAddr, Option<Vec<Port>>),
}

impl<F: Firewall> Parts<'_, F> {
    /// Does what is asked for.
    pub fn answer(&mut self, request: &Request, now: Now) -> Reply {
        let done = match request {
            Request::Status => Ok(Reply::Status(Box::new(self.status(now)))),
            Request::Ban { source, for_ms, reason } => self.ban(*source, *for_ms, reason, now),
            Request::Grants { after } => {
                Ok(Reply::Grants(list::grants(self.admission, *after, now)))
            }
            Request::Bans { after } => {
                Ok(Reply::Bans(list::bans(self.admission, after.as_ref(), now)))
            }
            Request::Unban { source } => self.unban(*source, now),
            Request::Resync { client } => self.resync(client, now),
            Request::Skews { from } => Ok(Reply::Skews(self.skews(*from))),
            Request::Revoke(revoke) => self.revoke(revoke, now).map(Reply::Revoked),
            Request::Client { name } => Ok(Reply::Client(self.client(name, now))),
            // It is answered when it is applied: see [`crate::reload`].
            Request::Reload { .. } => Err(bad(&"a reload is not answered at once")),
        };
        done.unwrap_or_else(Reply::Refused)
    }

    /// How the daemon is; what is read elsewhere than in the event loop is for others to add
    /// ([`super::look_up`]).
    pub fn status(&mut self, now: Now) -> Status {
        self.admission.forget_ended_bans(now);
        self.admission.forget_ended_grants(now);
        let gate = self.admission.gate();
        let mut denials: Vec<_> = gate.denials().iter().collect();
        denials.sort_by_key(|(client, denial)| (Reverse(denial.count), *client));
        let denied = denials.iter().take(DENIALS_SHOWN).map(|(client, denial)| Denied {
            client: gate.directory().name(*client).to_owned(),
            count: denial.count,
            last: rfc3339(denial.last),
        });
        let (used, capacity) = gate.replay().occupancy(now.utc);
        let (errors, last_error) = telemetry::errors();
        let ClockSteps { count, last } = self.clock_steps;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            // By the clock as it is now: it may have been stepped since.
            since: rfc3339(now.utc_of(self.since.uptime)),
            clients: gate.directory().len(),
            grants: self.admission.grants().live(now.uptime),
            bans_by_failures: gate.bans().count(BanKind::Failures),
            bans_by_admin: gate.bans().count(BanKind::Admin),
            decisions: self.counts.clone(),
            denied: denied.collect(),
            configuration: self.configuration.clone(),
            table: self.table.clone(),
            counters_lost: self
                .admission
                .lost_counters()
                .take(LOST_SHOWN)
                .map(|client| gate.directory().name(client).to_owned())
                .collect(),
            receive_buffer_drops: self.receive_buffer_drops,
            kernel_drops: None,
            replay_memory: Memory { used, capacity },
            bans_limit: Bans::MAX,
            errors,
            last_error,
            clock: Clock {
                synchronized: None,
                steps: count,
                last_step_ms: last.map(|(step, _)| step.by_ms),
                last_step: last.map(|(_, to)| rfc3339(to)),
            },
        }
    }

    fn ban(
        &mut self,
        source: Source,
        for_ms: Option<u64>,
        reason: &BanReason,
        now: Now,
    ) -> Result<Reply, Refused> {
        let length = for_ms.map_or(self.admission.gate().ban_for(), Duration::from_millis);
        if length.is_zero() || length > BAN_LIMIT {
            return Err(bad(&"a ban lasts for at least a millisecond and at most ten years"));
        }
        let ban = self
            .admission
            .ban(source, length, reason.clone(), now)
            .map_err(|error| failed(&error))?;
        self.to_end = Some(ToEnd::Of(source));
        Ok(Reply::Banned(Banned {
            source: source.to_string(),
            expires: rfc3339(now.utc_of(ban.until)),
            grants_ended: ban.ended,
            warning: ban.warning.map(|error| error.to_string()),
        }))
    }

    fn resync(&mut self, client: &ClientName, now: Now) -> Result<Reply, Refused> {
        let Some(id) = self.client_named(client) else {
            let message = format!(
                "the daemon knows no client {client}: knockd client list tells who is in its files, and a reload loads them"
            );
            return Err(Refused::new(RefusedKind::Unknown, message));
        };
        let counter = self.admission.resync(id, now).map_err(|error| {
            let kind = match error {
                ResyncError::HasClock | ResyncError::Exhausted(_) => RefusedKind::Impossible,
                ResyncError::Journal(_) => RefusedKind::Failed,
            };
            Refused::new(kind, format!("{client}: {error}"))
        })?;
        Ok(Reply::Resynced(Resynced { counter }))
    }

    fn skews(&self, from: usize) -> Skews {
        let gate = self.admission.gate();
        let (skews, next) = gate.skews().page(from, SKEWS_AT_ONCE);
        let skews = skews
            .map(|(client, skew)| SkewSeen::new(gate.directory().name(client), skew))
            .collect();
        Skews { skews, next }
    }

    fn unban(&mut self, source: Option<Source>, now: Now) -> Result<Reply, Refused> {
        let sources: Vec<Source> = match source {
            Some(source) => vec![source],
            None => self.admission.gate().bans().iter().map(|(source, _)| *source).collect(),
        };
        let lifted = self.admission.unban(&sources, now).map_err(|error| failed(&error))?;
        Ok(Reply::Unbanned(Unbanned { changed: lifted > 0, lifted }))
    }
}

impl SkewSeen {
    pub(super) fn new(client: &str, skew: Skew) -> Self {
        let Skew { difference_ms, seen, .. } = skew;
        Self { client: client.to_owned(), skew_ms: difference_ms, seen: rfc3339(seen) }
    }
}

pub(super) fn bad(error: &dyn std::fmt::Display) -> Refused {
    Refused::new(RefusedKind::Request, error.to_string())
}

fn failed(error: &BanError) -> Refused {
    let kind = match error {
        BanError::NotBanned(_) => RefusedKind::Impossible,
        BanError::Journal(_) | BanError::OwnAddresses(_) | BanError::Firewall(_) => {
            RefusedKind::Failed
        }
    };
    Refused::new(kind, error.to_string())
}
