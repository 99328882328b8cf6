//! The events of what becomes of datagrams, in words.

use std::{net::IpAddr, sync::Arc};

use common::UnicastAddress;
use tracing::{Level, debug, error, field::display, info, warn};

use super::{
    budget::{Quota, Subject},
    rfc3339, seconds,
};
use crate::{
    admission::{Failure, NoBan, Outcome},
    gate::{
        bans::NotBanned,
        clock::{Now, Uptime},
        decision::{Reason, Refusal},
        directory::{ClientId, Directory, ServiceId},
        skews::Drift,
        source::Source,
    },
};

/// Something to be told of a client, or of nobody's packet.
#[derive(Clone, Debug)]
pub(super) struct Line {
    client: Option<ClientId>,
    source: IpAddr,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Granted(Arc<[ServiceId]>, Uptime),
    Closed(Arc<[ServiceId]>),
    GaveWay(UnicastAddress),
    Unwritten(Failure),
    Drifting(Drift),
    Refused(Reason),
    Failed(Arc<[ServiceId]>, Failure),
    Banned(Source, Uptime),
    BanLifted(Source),
    BanInDoubt(Source, Failure),
    NotBanned(NotBanned),
    NotBannable(Failure),
    Copies,
}

impl Line {
    /// What is to be told of this, and of what went wrong beside it.
    pub(super) fn of(outcome: &Outcome, source: IpAddr) -> (Self, Option<Self>) {
        let line = |client: Option<ClientId>, what| Self { client, source, what };
        let in_doubt = |source: &Source, failure: &Option<Failure>| {
            let failure = failure.clone()?;
            Some(line(None, What::BanInDoubt(*source, failure)))
        };
        match outcome {
            Outcome::Granted { client, services, until } => {
                (line(Some(*client), What::Granted(Arc::clone(services), *until)), None)
            }
            Outcome::Closed { client, services, warning } => {
                let unwritten =
                    warning.clone().map(|failure| line(Some(*client), What::Unwritten(failure)));
                (line(Some(*client), What::Closed(Arc::clone(services))), unwritten)
            }
            Outcome::GaveWay { client, address } => {
                (line(Some(*client), What::GaveWay(*address)), None)
            }
            Outcome::Drifting { client, drift } => {
                (line(Some(*client), What::Drifting(*drift)), None)
            }
            Outcome::Refused { refusal: Refusal { client, reason }, .. } => {
                (line(*client, What::Refused(*reason)), None)
            }
            Outcome::Failed { client, services, failure } => {
                let failed = What::Failed(Arc::clone(services), failure.clone());
                (line(Some(*client), failed), None)
            }
            Outcome::Banned { source, until, warning } => {
                (line(None, What::Banned(*source, *until)), in_doubt(source, warning))
            }
            Outcome::BanLifted { source, warning } => {
                (line(None, What::BanLifted(*source)), in_doubt(source, warning))
            }
            Outcome::NotBanned(NoBan::Spared(why)) => (line(None, What::NotBanned(*why)), None),
            Outcome::NotBanned(NoBan::Failed(failure)) => {
                (line(None, What::NotBannable(failure.clone())), None)
            }
        }
    }

    /// That copies of packets were refused which were told of before.
    pub(super) const fn copies(source: IpAddr) -> Self {
        Self { client: None, source, what: What::Copies }
    }

    /// What shares a budget with it.
    pub(super) const fn subject(&self) -> Subject {
        let what = match &self.what {
            What::Granted(..) => "granted",
            What::Closed(_) => "closed",
            What::GaveWay(_) => "gave-way",
            What::Unwritten(_) => "state-unwritten",
            What::Drifting(_) => "clock-drifts",
            What::Refused(reason) => reason.name(),
            What::Failed(_, failure) => failure.name(),
            What::Banned(..) => "banned",
            What::BanLifted(_) => "ban-lifted",
            What::BanInDoubt(..) => "ban-in-doubt",
            What::NotBanned(_) => "not-banned",
            What::NotBannable(_) => "not-bannable",
            What::Copies => "copies",
        };
        Subject { client: self.client, what }
    }

    /// How many of it are told before they are held back.
    pub(super) const fn quota(&self) -> Quota {
        match &self.what {
            What::Granted(..) | What::Closed(_) | What::GaveWay(_) => Quota::Deeds,
            What::Unwritten(_) | What::Refused(_) | What::Failed(..) => {
                Quota::Shared(1, self.level())
            }
            What::Banned(..) | What::BanLifted(_) => Quota::Own(10),
            What::Drifting(_) | What::BanInDoubt(..) => Quota::Own(1),
            What::NotBanned(_) | What::NotBannable(_) => Quota::Own(1),
            What::Copies => Quota::Own(0),
        }
    }

    /// Its level; what is at debug has no budget.
    pub(super) const fn level(&self) -> Level {
        match &self.what {
            What::Refused(_) if self.client.is_none() => Level::DEBUG,
            What::NotBanned(NotBanned::Own(_) | NotBanned::Never(_) | NotBanned::Translated(_)) => {
                Level::DEBUG
            }
            What::Granted(..) | What::Closed(_) | What::GaveWay(_) => Level::INFO,
            What::BanLifted(_) => Level::INFO,
            // What a key holder asks for and may not have is somebody's mistake, or worse.
            What::Refused(Reason::ServiceNotAllowed(_)) => Level::WARN,
            What::Refused(_) => Level::INFO,
            What::Drifting(_) | What::Banned(..) | What::NotBanned(NotBanned::Full) => Level::WARN,
            What::Copies => Level::WARN,
            What::Failed(_, Failure::TooManyWaiting) => Level::WARN,
            What::Unwritten(_) | What::Failed(..) => Level::ERROR,
            What::BanInDoubt(..) | What::NotBannable(_) => Level::ERROR,
        }
    }

    /// Tells it. `name` is the client's, if it is about one; `times` is for how many it stands, if it isn't for one.
    pub(super) fn tell(&self, name: &str, directory: &Directory, times: Option<u64>, now: Now) {
        let Self { client, source, what } = self;
        let names = |services| names(services, directory);
        let most = times.map(|times| format!("{times} more within a minute, the last: "));
        let most = most.unwrap_or_default();
        match what {
            What::Granted(services, until) => {
                let (client, service) = (name, names(services));
                let expires = rfc3339(now.utc_of(*until));
                info!(
                    %client, %source, %service, decision = "granted", %expires, times, event = "granted",
                    "{most}{client} at {source}: {service} open until {expires}"
                );
            }
            What::Closed(services) => {
                let (client, service) = (name, names(services));
                info!(
                    %client, %source, %service, decision = "closed", times, event = "closed",
                    "{most}{client} at {source}: {service} closed"
                );
            }
            What::GaveWay(address) => {
                let client = name;
                info!(
                    %client, source = %address, decision = "gave-way", times, event = "gave-way",
                    "{most}{client} at {address}: its grants there have given way to its newest, from {source} (grant.per-client)"
                );
            }
            What::Unwritten(failure) => {
                let client = name;
                error!(%client, %source, reason = failure.name(), times, event = "state-unwritten", "{most}{failure}");
            }
            What::Drifting(Drift { difference_ms: skew_ms, allowed_ms }) => {
                let client = name;
                warn!(
                    %client, %source, skew_ms, event = "clock-drifts",
                    "{client}: its clock is {} s off, and beyond {} s nothing of it is accepted: set its clock (clock-skew)",
                    seconds(*skew_ms), allowed_ms / 1000
                );
            }
            What::Refused(reason) if client.is_none() => {
                debug!(%source, decision = "refused", reason = reason.name(), event = "refused", "{source}: refused: {reason}");
            }
            What::Refused(reason @ Reason::ServiceNotAllowed(_)) => {
                let (client, service) = (name, reason.service().map(display));
                warn!(
                    %client, %source, service, decision = "refused", reason = reason.name(), times, event = "refused",
                    "{most}{client} at {source}: refused: {reason}"
                );
            }
            What::Refused(reason) => {
                let client = name;
                info!(
                    %client, %source, decision = "refused", reason = reason.name(), times, event = "refused",
                    "{most}{client} at {source}: refused: {reason}"
                );
            }
            // Of the client's own making, as a rule.
            What::Failed(services, failure @ Failure::TooManyWaiting) => {
                let (client, service) = (name, names(services));
                warn!(
                    %client, %source, %service, decision = "refused", reason = failure.name(), times, event = "refused",
                    "{most}{client} at {source}: refused: {failure}"
                );
            }
            What::Failed(services, failure) => {
                let (client, service) = (name, names(services));
                error!(
                    %client, %source, %service, decision = "refused", reason = failure.name(), times, event = "refused",
                    "{most}{client} at {source}: refused: {failure}"
                );
            }
            What::Banned(source, until) => {
                let expires = rfc3339(now.utc_of(*until));
                warn!(
                    %source, decision = "banned", %expires, by = "failures", times, event = "banned",
                    "{most}{source}: banned until {expires}"
                );
            }
            What::BanLifted(source) => {
                info!(
                    %source, decision = "ban-lifted", by = "knock", times, event = "ban-lifted",
                    "{most}{source}: a valid knock has lifted its ban"
                );
            }
            What::BanInDoubt(source, failure) => error!(
                %source, reason = failure.name(), times, event = "ban-in-doubt",
                "{most}{source}: its ban was not written down or not lifted: {failure}"
            ),
            What::NotBanned(why @ NotBanned::Full) => warn!(
                %source, times, event = "not-banned",
                "{most}{source}: fails too often, and isn't banned: {why}"
            ),
            What::NotBanned(NotBanned::Own(_) | NotBanned::Never(_) | NotBanned::Translated(_)) => {
                debug!(%source, event = "not-banned", "{source}: fails too often, and is never banned");
            }
            What::NotBannable(failure) => error!(
                %source, reason = failure.name(), times, event = "not-banned",
                "{most}{source}: can't be banned: {failure}"
            ),
            What::Copies => warn!(
                copies = times,
                event = "summed-up",
                "{} copies of packets that were told of, the last from {source}",
                times.unwrap_or(1)
            ),
        }
    }
}

fn names(services: &[ServiceId], directory: &Directory) -> String {
    let names: Vec<String> =
        services.iter().map(|service| directory.service(*service).name.to_string()).collect();
    names.join(",")
}
