//! `knockd status`: how the daemon is, in one screen.

use std::path::Path;

use super::{
    Failure, Format, Output,
    ask::{ask, unexpected},
};
use crate::control::{Reply, Request, Status, Table};

/// Tells how the daemon is.
///
/// # Errors
/// A [`Failure`] if no daemon runs.
pub fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let Reply::Status(status) = ask(config, &Request::Status)? else { return Err(unexpected()) };
    match output.format() {
        Format::Json => output.json(&status),
        Format::Human => tell(&status, output),
    }
}

fn tell(status: &Status, output: &mut Output<'_>) -> Result<(), Failure> {
    let Status { version, pid, since, decisions, .. } = status;
    let mut line = |name: &str, text: String| output.line(format!("{name:<16} {text}"));
    line("knockd", format!("{version}, process {pid}, since {since}"))?;
    line("clients", status.clients.to_string())?;
    line("live grants", status.grants.to_string())?;
    line(
        "bans",
        format!("{} by failures, {} by an admin", status.bans_by_failures, status.bans_by_admin),
    )?;
    line("table", table(&status.table))?;
    line("granted", decisions.granted.to_string())?;
    line("closed", decisions.closed.to_string())?;
    let refused: Vec<String> =
        decisions.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let total: u64 = decisions.refused.values().sum();
    let by_reason = match refused.is_empty() {
        true => String::new(),
        false => format!(": {}", refused.join(", ")),
    };
    line("refused", format!("{total}{by_reason}"))?;
    line(
        "banned",
        format!(
            "{}, lifted by a valid knock {}, too many to be banned {}",
            decisions.banned, decisions.ban_lifted, decisions.not_banned
        ),
    )?;
    line(
        "buffer drops",
        status.receive_buffer_drops.map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
    )?;
    for denied in &status.denied {
        line(
            "denied",
            format!(
                "{} asked {} times for what it may not have, last at {}",
                denied.client, denied.count, denied.last
            ),
        )?;
    }
    Ok(())
}

fn table(table: &Table) -> String {
    let Table { failing, repairs, lacked, since, open_ms } = table;
    let is = match failing {
        Some(why) => format!("NOT whole, and can't be put right: {why}"),
        None => "whole".to_owned(),
    };
    match (lacked, since, open_ms) {
        (Some(lacked), Some(since), Some(open_ms)) => format!(
            "{is}; put right {repairs} times, last at {since} after {open_ms} ms without: {lacked}"
        ),
        _ => is,
    }
}
