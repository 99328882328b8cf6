//! `knockd bans`, `knockd ban` and `knockd unban`.
//!
//! Listing asks the running daemon; where none runs, the kernel and the state folder, which root alone can read.

use std::{collections::BTreeMap, path::Path, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    Failure, Format, Output,
    ask::{self, ask, unexpected},
    grants::state_failure,
    run::firewall_exit,
};
use crate::{
    clock, config,
    control::{
        Reply, Request,
        answer::BAN_LIMIT,
        list::{BanMark, BanRow, BansPage},
    },
    firewall::{Firewall as _, kernel::Kernel},
    gate::{
        bans::{BanKind, BanReason},
        source::{InvalidSource, Source},
    },
    journal::banned,
    telemetry::rfc3339,
};

/// Ban an address: end its grants and connections, and refuse its knocks
///
/// Of an IPv6 address the whole /64 is banned. A ban by an admin holds against valid knocks as well, until
/// it is over or lifted; a longer or shorter one takes its place.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  knockd ban 198.51.100.7 --for 2d --reason 'stolen gateway'")]
pub struct BanArgs {
    /// The address
    pub address: Source,
    /// For how long [default: ban.duration]
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    pub length: Option<Duration>,
    /// Why: at most 64 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: BanReason,
}

/// Lift a ban, whoever made it
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  knockd unban 198.51.100.7\n  knockd unban all")]
pub struct UnbanArgs {
    /// The address, or all
    #[arg(value_name = "ADDRESS|all")]
    pub which: Which,
}

/// Which bans to lift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// This one's.
    One(Source),
    /// All.
    All,
}

impl std::str::FromStr for Which {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        match text {
            "all" => Ok(Self::All),
            text => text.parse().map(Self::One),
        }
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = config::duration::parse(text).map_err(|error| error.to_string())?;
    match length {
        _ if length.is_zero() => Err("a ban lasts for at least 1ms".to_owned()),
        _ if length > BAN_LIMIT => Err("a ban lasts for at most ten years (3650d)".to_owned()),
        _ => Ok(length),
    }
}

/// Bans an address.
///
/// # Errors
/// A [`Failure`] if it can't be banned, or no daemon runs.
pub fn ban(config: &Path, args: &BanArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let request = Request::Ban {
        source: args.address,
        for_ms: args.length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
        reason: args.reason.clone(),
    };
    let Reply::Banned(banned) = ask(config, &request)? else { return Err(unexpected()) };
    if let Some(warning) = &banned.warning {
        output.note(format!("warning: {warning}"));
    }
    match output.format() {
        Format::Json => output.json(&banned),
        Format::Human => output.line(format!(
            "{} is banned until {}; grants ended: {}",
            banned.source, banned.expires, banned.grants_ended
        )),
    }
}

/// Lifts bans.
///
/// # Errors
/// A [`Failure`] if they can't be lifted, or no daemon runs.
pub fn unban(config: &Path, args: &UnbanArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let source = match args.which {
        Which::One(source) => Some(source),
        Which::All => None,
    };
    let Reply::Unbanned(unbanned) = ask(config, &Request::Unban { source })? else {
        return Err(unexpected());
    };
    match (output.format(), args.which) {
        (Format::Json, _) => output.json(&unbanned),
        (Format::Human, Which::One(source)) if unbanned.changed => {
            output.line(format!("{source} is no longer banned"))
        }
        (Format::Human, Which::One(source)) => output.line(format!("{source} was not banned")),
        (Format::Human, Which::All) => output.line(format!("bans lifted: {}", unbanned.lifted)),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    bans: Vec<BanRow>,
}

/// Lists the bans.
///
/// # Errors
/// A [`Failure`] if the daemon doesn't answer; without one, if the kernel or the state folder can't be read.
pub fn list(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let request = |after: Option<BanMark>| Request::Bans { after };
    let page = |reply| match reply {
        Reply::Bans(BansPage { bans, next }) => Some((bans, next)),
        _ => None,
    };
    let rows = match ask::list(config, request, page)? {
        Some(rows) => rows,
        None => without_a_daemon(config)?,
    };
    // In the order of the sources; of one whose ban was made longer meanwhile, the row that came last.
    let by_source: BTreeMap<Option<Source>, BanRow> =
        rows.into_iter().map(|row| (row.source.parse().ok(), row)).collect();
    let answer = Answer { bans: by_source.into_values().collect() };
    match output.format() {
        Format::Json => output.json(&answer),
        Format::Human => table(&answer, output),
    }
}

fn without_a_daemon(config: &Path) -> Result<Vec<BanRow>, Failure> {
    let config = config::load(config)?;
    let path = config.state.join(banned::FILE_NAME);
    let reasons = banned::reasons(&path).map_err(|error| state_failure(&error))?;
    let firewall_error = |error| Failure::new(firewall_exit(&error), error.to_string());
    let bans = Kernel::open().and_then(|mut kernel| kernel.bans()).map_err(firewall_error)?;
    let now = clock::now();
    let row = |(source, kind, left): (Source, BanKind, Duration)| BanRow {
        source: source.to_string(),
        by: kind.name().to_owned(),
        reason: reasons.get(&source).map(ToString::to_string).filter(|reason| !reason.is_empty()),
        expires: rfc3339(now.utc_of(now.uptime + left)),
        remaining_s: left.as_secs(),
    };
    Ok(bans.into_iter().map(row).collect())
}

fn table(answer: &Answer, output: &mut Output<'_>) -> Result<(), Failure> {
    if answer.bans.is_empty() {
        return output.line("nobody is banned");
    }
    output
        .line(format!("{:<44} {:<9} {:<21} {:>10}  REASON", "SOURCE", "BY", "EXPIRES", "LEFT"))?;
    for row in &answer.bans {
        output.line(format!(
            "{:<44} {:<9} {:<21} {:>8} s  {}",
            row.source,
            row.by,
            row.expires,
            row.remaining_s,
            row.reason.as_deref().unwrap_or("-")
        ))?;
    }
    Ok(())
}
