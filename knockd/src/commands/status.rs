//! `knockd status`: how the daemon is, in one screen.

use std::path::Path;

use super::{
    Failure, Format, Output,
    ask::{ask, unexpected},
};
use crate::control::{
    Reply, Request, Status, Table,
    configuration::{Configuration, Refusal},
};

/// Mistakes of a refused configuration that are shown to a person.
const SHOWN: usize = 5;

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
    for text in configuration(&status.configuration) {
        line("configuration", text)?;
    }
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

/// Since when the configuration is in force, and what keeps a newer one from being so.
fn configuration(configuration: &Configuration) -> Vec<String> {
    let Configuration { file, since, restart, refused } = configuration;
    let mut lines = vec![format!("{file}, in force since {since}")];
    if !restart.is_empty() {
        lines.push(format!("takes effect at a restart: {}", restart.join(", ")));
    }
    if let Some(Refusal { since, mistakes, more }) = refused {
        lines.push(format!("REFUSED since {since}, the one before stays in force"));
        lines.extend(mistakes.iter().take(SHOWN).map(|mistake| mistake.text.clone()));
        if let left @ 1.. = mistakes.len().saturating_sub(SHOWN) + more {
            lines.push(format!("and {left} more: knockd check tells all"));
        }
    }
    lines
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
