//! What happened, told: one event for each decision that matters, with the same fields everywhere.
//!
//! Every event has the field `event`, a name of its kind that never changes; `config/EVENTS.md` lists them all, with
//! the fields of each.
//!
//! Under systemd the events go to the journal, each field prefixed with `KNOCKD_` and in capitals; elsewhere
//! to stderr. `KNOCKD_LOG` (error, warn, info, debug) says how much is told; info unless given.
//!
//! # Security considerations
//! - What strangers send is told at debug only, so that nobody without a key can fill a disk with lines.
//! - Refusals of authentic packets, which a copy can cause, are told one by one up to
//!   100 a second, and beyond that summed up. Grants are always told.
//! - Bans, which forged packets can cause, are told up to 10 a second, and that there can be no more of them
//!   once a minute; the rest is summed up.
//! - No field holds a byte of a datagram, and no name that isn't in the configuration.

use std::{io, net::IpAddr, num::NonZeroU32, os::unix::fs::MetadataExt as _};

use common::Timestamp;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::{Level, debug, error, field::display, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    admission::{Failure, NoBan, Outcome},
    escape::LogLine,
    gate::{
        bans::NotBanned,
        clock::Now,
        decision::{Reason, Refusal},
        directory::{Directory, ServiceId},
        skews::Drift,
        source::Source,
    },
};

pub mod catalogue;
mod errors;

pub use errors::{LastError, errors};

use errors::ErrorKeeper;

/// Sends events to the journal when systemd runs this process, and to stderr otherwise.
///
/// # Errors
/// A value of `KNOCKD_LOG` that is no level, or a journal that can't be reached.
pub fn start() -> io::Result<()> {
    let level = match std::env::var("KNOCKD_LOG") {
        Ok(level) => level.parse::<Level>().map_err(|_| {
            io::Error::other(format!("KNOCKD_LOG={level}: write error, warn, info or debug"))
        })?,
        Err(_) => Level::INFO,
    };
    let level = LevelFilter::from_level(level);
    let registry = tracing_subscriber::registry();
    if stderr_is_the_journal() {
        let journal = tracing_journald::layer()?
            .with_field_prefix(Some("KNOCKD".to_owned()))
            .with_syslog_identifier("knockd".to_owned());
        registry
            .with(journal.with_filter(level))
            .with(ErrorKeeper.with_filter(LevelFilter::ERROR))
            .init();
    } else {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(|| LogLine(io::stderr()))
            .with_ansi(false)
            // A line that can't be written is no reason to end: the daemon would, telling that.
            .log_internal_errors(false)
            .with_target(false);
        registry
            .with(lines.with_filter(level))
            .with(ErrorKeeper.with_filter(LevelFilter::ERROR))
            .init();
    }
    Ok(())
}

/// Whether stderr is connected to the journal: systemd.exec(5), `$JOURNAL_STREAM`.
#[must_use]
pub fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Lines a second that tell refusals of authentic packets: whoever captured one can send copies of it at
/// line rate.
const REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Lines a second that tell bans.
const BANS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Lines a minute that tell that a source could not be banned.
const NO_BANS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// Tells what happens, within a bound.
pub struct Telemetry {
    refusals: DefaultDirectRateLimiter,
    bans: DefaultDirectRateLimiter,
    no_bans: DefaultDirectRateLimiter,
    held_back: HeldBack,
}

/// How many events were not told one by one.
#[derive(Clone, Copy, Default)]
struct HeldBack {
    refusals: u64,
    bans: u64,
    no_bans: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            refusals: RateLimiter::direct(Quota::per_second(REFUSALS_PER_SECOND)),
            bans: RateLimiter::direct(Quota::per_second(BANS_PER_SECOND)),
            no_bans: RateLimiter::direct(Quota::per_minute(NO_BANS_PER_MINUTE)),
            held_back: HeldBack::default(),
        }
    }
}

impl Telemetry {
    /// Tells how a datagram was dealt with.
    pub fn report(&mut self, outcome: &Outcome, source: IpAddr, directory: &Directory, now: Now) {
        match outcome {
            Outcome::Granted { client, services, until } => {
                let (client, service) = (directory.name(*client), names(services, directory));
                let expires = rfc3339(now.utc_of(*until));
                info!(
                    %client, %source, %service, decision = "granted", %expires, event = "granted",
                    "{client} at {source}: {service} open until {expires}"
                );
            }
            Outcome::Closed { client, services, warning } => {
                let (client, service) = (directory.name(*client), names(services, directory));
                info!(%client, %source, %service, decision = "closed", event = "closed", "{client} at {source}: {service} closed");
                if let Some(failure) = warning {
                    error!(%client, %source, reason = failure.name(), event = "state-unwritten", "{failure}");
                }
            }
            Outcome::GaveWay { client, address } => {
                let client = directory.name(*client);
                info!(
                    %client, source = %address, decision = "gave-way", event = "gave-way",
                    "{client} at {address}: its grants there have given way to its newest, from {source} (grant.per-client)"
                );
            }
            Outcome::Drifting { client, drift } => {
                let client = directory.name(*client);
                let Drift { difference_ms: skew_ms, allowed_ms } = *drift;
                warn!(
                    %client, %source, skew_ms, event = "clock-drifts",
                    "{client}: its clock is {} s off, and beyond {} s nothing of it is accepted: set its clock (clock-skew)",
                    seconds(skew_ms), allowed_ms / 1000
                );
            }
            Outcome::Refused(Refusal { client: None, reason }) => {
                debug!(%source, decision = "refused", reason = reason.name(), event = "refused", "{source}: refused: {reason}");
            }
            Outcome::Refused(Refusal { client: Some(client), reason }) if self.may_tell() => {
                let client = directory.name(*client);
                let service = reason.service().map(display);
                // What a key holder asks for and may not have is somebody's mistake, or worse.
                match reason {
                    Reason::ServiceNotAllowed(_) => warn!(
                        %client, %source, service, decision = "refused", reason = reason.name(), event = "refused",
                        "{client} at {source}: refused: {reason}"
                    ),
                    _ => info!(
                        %client, %source, service, decision = "refused", reason = reason.name(), event = "refused",
                        "{client} at {source}: refused: {reason}"
                    ),
                }
            }
            Outcome::Banned { source, until, warning } => {
                if self.bans.check().is_ok() {
                    let expires = rfc3339(now.utc_of(*until));
                    warn!(%source, decision = "banned", %expires, by = "failures", event = "banned", "{source}: banned until {expires}");
                } else {
                    self.held_back.bans += 1;
                }
                self.warn_of(*source, warning.as_ref());
            }
            Outcome::NotBanned(NoBan::Spared(NotBanned::Own(_) | NotBanned::Never(_))) => {
                debug!(%source, event = "not-banned", "{source}: fails too often, and is never banned");
            }
            Outcome::NotBanned(NoBan::Spared(why @ NotBanned::Full)) => {
                if self.no_bans.check().is_ok() {
                    warn!(%source, event = "not-banned", "{source}: fails too often, and isn't banned: {why}");
                } else {
                    self.held_back.no_bans += 1;
                }
            }
            Outcome::NotBanned(NoBan::Failed(failure)) => {
                if self.no_bans.check().is_ok() {
                    error!(%source, reason = failure.name(), event = "not-banned", "{source}: can't be banned: {failure}");
                } else {
                    self.held_back.no_bans += 1;
                }
            }
            Outcome::BanLifted { source, warning } => {
                info!(%source, decision = "ban-lifted", by = "knock", event = "ban-lifted", "{source}: a valid knock has lifted its ban");
                self.warn_of(*source, warning.as_ref());
            }
            Outcome::Failed { client, services, failure } if self.may_tell() => {
                let (client, service) = (directory.name(*client), names(services, directory));
                error!(
                    %client, %source, %service, decision = "refused", reason = failure.name(), event = "refused",
                    "{client} at {source}: refused: {failure}"
                );
            }
            Outcome::Refused(_) | Outcome::Failed { .. } => self.held_back.refusals += 1,
        }
    }

    /// Whether there are events that were not told one by one, and not summed up yet.
    #[must_use]
    pub const fn holds_back(&self) -> bool {
        let HeldBack { refusals, bans, no_bans } = self.held_back;
        refusals > 0 || bans > 0 || no_bans > 0
    }

    /// Tells how many events were not told one by one, if any.
    pub fn sum_up(&mut self) {
        let HeldBack { refusals, bans, no_bans } = std::mem::take(&mut self.held_back);
        if refusals > 0 {
            warn!(
                refusals,
                event = "summed-up",
                "more refusals than are told one by one: these are summed up"
            );
        }
        if bans > 0 {
            warn!(
                bans,
                event = "summed-up",
                "more bans than are told one by one: these are summed up (`knockd bans` lists them)"
            );
        }
        if no_bans > 0 {
            warn!(
                failures = no_bans,
                event = "summed-up",
                "failures of sources that could not be banned: these are summed up"
            );
        }
    }

    fn warn_of(&mut self, source: Source, failure: Option<&Failure>) {
        if let Some(failure) = failure
            && self.may_tell()
        {
            error!(%source, reason = failure.name(), event = "ban-in-doubt", "a ban was not written down or not lifted: {failure}");
        }
    }

    fn may_tell(&mut self) -> bool {
        self.refusals.check().is_ok()
    }
}

fn names(services: &[ServiceId], directory: &Directory) -> String {
    let names: Vec<String> =
        services.iter().map(|service| directory.service(*service).name.to_string()).collect();
    names.join(",")
}

/// Milliseconds as signed seconds: `+12.500`, `-0.120`.
#[must_use]
pub fn seconds(millis: i64) -> String {
    let (sign, size) = (if millis < 0 { '-' } else { '+' }, millis.unsigned_abs());
    format!("{sign}{}.{:03}", size / 1000, size % 1000)
}

/// A timestamp as people and tools read it, in UTC to the second; in milliseconds if it is beyond what a
/// calendar holds.
#[must_use]
pub fn rfc3339(timestamp: Timestamp) -> String {
    i64::try_from(timestamp.as_millis() / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{} ms", timestamp.as_millis()), |time| time.to_string())
}
