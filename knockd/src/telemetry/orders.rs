//! Tells what an admin has had done.

use tracing::{error, info, warn};

use crate::control::{Banned, Reply, Request, Resynced, Unbanned};

/// Tells what an admin has had done.
pub fn report_order(request: &Request, reply: &Reply) {
    match (request, reply) {
        (Request::Ban { reason: why, .. }, Reply::Banned(banned)) => {
            let Banned { source, expires, grants_ended, .. } = banned;
            warn!(
                source,
                decision = "banned",
                expires,
                why,
                by = "admin",
                event = "banned",
                "{source}: banned by an admin until {expires}; grants ended: {grants_ended}"
            );
        }
        (Request::Unban { source }, Reply::Unbanned(Unbanned { lifted, .. })) => {
            let source = source.as_deref().unwrap_or("all");
            info!(
                source,
                decision = "ban-lifted",
                by = "admin",
                lifted,
                event = "ban-lifted",
                "{source}: an admin has lifted {lifted} bans"
            );
        }
        (_, Reply::Refused(refused)) => {
            error!(event = "order-failed", "an admin's request failed: {}", refused.message)
        }
        (Request::Revoke(revoke), Reply::Revoked(revoked)) => {
            let grants_ended = revoked.grants_ended;
            let (client, source) = (revoke.client.as_deref(), revoke.address.as_deref());
            let whose = client.or(source).unwrap_or_default();
            let service = revoke.service.as_deref();
            let cut = if revoke.cut { ", and its connections" } else { "" };
            warn!(
                event = "revoked",
                client,
                source,
                service,
                decision = "revoked",
                grants_ended,
                "{whose}: an admin has ended {grants_ended} grants{cut}"
            );
        }
        (Request::Resync { client }, Reply::Resynced(Resynced { counter })) => {
            warn!(
                client,
                event = "counter-set",
                "{client}: an admin has set its counter anew: it counts from {counter} on"
            );
        }
        _ => {}
    }
}
