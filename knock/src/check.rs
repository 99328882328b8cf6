//! `--check`: goes the way of a knock leg by leg, from the key to the open port, and says which one fails.
//!
//! The server is silent whatever it thinks of a packet, so that the last leg can't tell a refused knock from a lost
//! one: it says what to look at on the server's side.

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use common::{ClientAddress, ReplyWanted};
use serde::Serialize;

use crate::{
    cli::Args,
    exit::Error,
    nat,
    output::Output,
    packet::{self, DeviceClock},
    plan::{Plan, Wait},
    probes::{Probes, Proof},
    reply::{self, Replies},
    report::Report,
    resolve,
    run::{NO_HANDSHAKE, NO_PORT},
    send::{self, Outcome, Route, Unreachable},
    wait,
};

/// What is known of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It is well.
    Ok,
    /// It may be what fails.
    Doubtful,
    /// It fails.
    Failed,
    /// It was not looked at.
    Unknown,
}

/// One part of the way from the key to the open port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// The profile, and the key in it.
    Profile,
    /// What tells the time of packets.
    Clock,
    /// The server's name.
    Name,
    /// The way to the server's addresses.
    Route,
    /// The address that the door is to open for.
    Address,
    /// The packet.
    Knock,
    /// The server's reply, where it has replies on.
    Reply,
    /// The service's port.
    Door,
}

/// A part, and what was found of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Leg {
    part: Part,
    standing: Standing,
    what: String,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Profile => "profile",
            Self::Clock => "clock",
            Self::Name => "name",
            Self::Route => "route",
            Self::Address => "address",
            Self::Knock => "knock",
            Self::Reply => "reply",
            Self::Door => "door",
        })
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standing = match self.standing {
            Standing::Ok => "ok",
            Standing::Doubtful => "doubtful",
            Standing::Failed => "FAILED",
            Standing::Unknown => "unknown",
        };
        write!(f, "{standing:<9} {:<8} {}", self.part, self.what)
    }
}

/// Goes the way of a knock. With `--dry-run` it ends before anything is sent.
///
/// # Errors
/// What the first leg that fails says; the legs before it are in the report.
pub(crate) fn check(args: &Args, output: Output, report: &mut Report) -> Result<(), Error> {
    let mut check = Check { output, report };
    let mut plan = check.failing(Part::Profile, Plan::new(args))?;
    // Nothing is lost where replies are off, and much is known where they are on.
    plan.ask.reply = ReplyWanted::Yes;
    check.report.begin(&plan);
    let profile = plan.profile.as_ref().map(|name| format!("profile {name}"));
    let profile =
        profile.unwrap_or_else(|| "no profile, but what the command line says".to_owned());
    check.leg(
        Part::Profile,
        Standing::Ok,
        format!("{profile}; the key is one, and nobody else's to read"),
    )?;
    let (standing, what) = match &plan.clock {
        DeviceClock::Utc => clock(),
        DeviceClock::Counter(numbers) => {
            check.failing(Part::Clock, numbers.peek(1))?;
            match plan.clock.forgets() {
                Some(warning) => (Standing::Doubtful, warning),
                None => {
                    let path = numbers.file().path().display();
                    (Standing::Ok, format!("none: a counter in {path}"))
                }
            }
        }
    };
    check.leg(Part::Clock, standing, what)?;

    let addresses = resolve::addresses(&plan.server, plan.families, plan.address);
    let addresses = check.failing(Part::Name, addresses)?;
    let shown: Vec<_> = addresses.iter().map(|to| to.ip().to_string()).collect();
    check.leg(
        Part::Name,
        Standing::Ok,
        format!("{} is {}", plan.server.host(), shown.join(", ")),
    )?;

    let (routes, unreachable) = send::routes(&addresses, plan.address);
    for failed in &unreachable {
        check.report.unreachable(failed);
        let standing = if routes.is_empty() { Standing::Failed } else { Standing::Doubtful };
        check.leg(Part::Route, standing, format!("to {}: {}", failed.to.ip(), failed.error))?;
    }
    if routes.is_empty() {
        return Err(send::nothing_sent(&unreachable, &[]));
    }
    for route in &routes {
        check.leg(Part::Route, Standing::Ok, way(route))?;
    }
    for route in &routes {
        let (standing, what) = match nat::warning(route) {
            Some(warning) => (Standing::Doubtful, warning),
            None => (Standing::Ok, whom(route)),
        };
        check.leg(Part::Address, standing, what)?;
    }
    if args.dry_run {
        return check.leg(
            Part::Knock,
            Standing::Unknown,
            "nothing is sent in a dry run".to_owned(),
        );
    }
    let start = Instant::now();
    let probes = plan.wait.map(|wait| (Probes::before(&routes, wait.port, start.elapsed()), wait));
    let outcomes = check.failing(Part::Knock, send::send(&mut plan, &routes))?;
    check.knock(&outcomes, &unreachable)?;
    let replies = Replies::to(&plan, &outcomes, start.elapsed(), REPLY_TIME);
    check.door(&mut plan, probes, replies, start)
}

/// A check under way.
struct Check<'r> {
    output: Output,
    report: &'r mut Report,
}

impl Check<'_> {
    fn leg(&mut self, part: Part, standing: Standing, what: String) -> Result<(), Error> {
        let leg = Leg { part, standing, what };
        self.output.tell(&format!("{leg}\n"))?;
        self.report.checked(leg);
        Ok(())
    }

    /// Notes a leg that failed.
    fn failing<T>(&mut self, part: Part, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.leg(part, Standing::Failed, error.to_string())?;
        }
        result
    }

    /// The packet is out.
    fn knock(&mut self, outcomes: &[Outcome], unreachable: &[Unreachable]) -> Result<(), Error> {
        for outcome in outcomes {
            self.report.sent(outcome);
            let to = outcome.route.to;
            let (standing, what) = match &outcome.error {
                None => (Standing::Ok, format!("sent to {to}")),
                Some(error) => (Standing::Failed, format!("not sent to {to}: {error}")),
            };
            self.leg(Part::Knock, standing, what)?;
        }
        if outcomes.iter().all(|outcome| outcome.packets.is_empty()) {
            return Err(send::nothing_sent(unreachable, outcomes));
        }
        Ok(())
    }

    /// The server replies, if it does that at all, and the port opens.
    fn door(
        &mut self,
        plan: &mut Plan,
        probes: Option<(Probes, Wait)>,
        replies: Replies,
        start: Instant,
    ) -> Result<(), Error> {
        let replies = replies.wait(plan, start)?;
        self.report.replied(&replies);
        if !replies.is_empty() {
            let what = self.report.replies_as_text().trim_end().replace('\n', "; ");
            self.leg(Part::Reply, Standing::Ok, what)?;
        }
        let Some((probes, wait)) = probes else {
            let unseen = |port| format!("{port}: {NO_HANDSHAKE}");
            let what = plan.port.map_or_else(|| NO_PORT.to_owned(), unseen);
            return self.leg(Part::Door, Standing::Unknown, what);
        };
        let opened = wait::until_open(probes, wait, start).map_err(|error| match error {
            Error::NotOpen(text) if replies.is_empty() => {
                Error::NotOpen(format!("{text}. {NOT_OPEN}"))
            }
            other => reply::explained(other, &replies),
        });
        let accepted = self.failing(Part::Door, opened)?.proven_by(&replies);
        self.report.open(accepted, wait.port);
        let standing = if accepted.proof == Proof::Yes { Standing::Ok } else { Standing::Doubtful };
        let what = self.report.open_as_text().trim_end().to_owned();
        self.leg(Part::Door, standing, what)
    }
}

/// How long a reply is waited for: most servers have replies off, and send none.
const REPLY_TIME: Duration = Duration::from_millis(800);

/// What a door that stays shut can mean, the likeliest first.
const NOT_OPEN: &str = "All was well on this side, so look on the server's: `knockd doctor` says what stands in the \
way there, and `journalctl -t knockd` whether the knock came. Nothing there: a network on the way drops it, or the key \
or the realm isn't that server's. Refused as stale: this clock or that one is off; for an address mismatch: a router \
translates addresses";

/// Whether the clock can be right.
fn clock() -> (Standing, String) {
    if !packet::is_plausible_now() {
        return (Standing::Doubtful, packet::IMPLAUSIBLE_CLOCK.to_owned());
    }
    match is_synchronised() {
        Some(true) => (Standing::Ok, "synchronised".to_owned()),
        Some(false) => (Standing::Doubtful, NOT_SYNCHRONISED.to_owned()),
        None => (Standing::Ok, SYNCHRONISED_OR_NOT.to_owned()),
    }
}

const NOT_SYNCHRONISED: &str = "not synchronised yet: where it is off by more than the server allows, packets are refused as stale";
const SYNCHRONISED_OR_NOT: &str =
    "set; whether it is synchronised isn't known, since systemd-timesyncd doesn't keep it";

/// Whether systemd-timesyncd has set the clock (systemd-timesyncd.service(8), "Files"); `None` where it doesn't run.
fn is_synchronised() -> Option<bool> {
    let folder = Path::new("/run/systemd/timesync");
    folder.is_dir().then(|| folder.join("synchronized").exists())
}

fn way(route: &Route) -> String {
    let to = route.to.ip();
    route.local().map_or_else(|| format!("to {to}"), |local| format!("to {to}, from {local}"))
}

fn whom(route: &Route) -> String {
    match route.address {
        ClientAddress::Literal(own) => {
            format!("the door at {} is to open for {own}", route.to.ip())
        }
        ClientAddress::Observed => {
            format!("the door at {} is to open for the address that the server sees", route.to.ip())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_is_a_line_that_begins_with_how_it_is() {
        let leg = Leg { part: Part::Name, standing: Standing::Failed, what: "no such name".into() };
        assert_eq!(leg.to_string(), "FAILED    name     no such name");
    }
}
