//! `knockd status`: how the daemon is, in one screen.

use std::path::Path;

use super::{
    Failure, Format, Output,
    ask::{ask, unexpected},
};
use crate::{
    control::{
        Clock, Reply, Request, Status, Table,
        configuration::{Configuration, Refusal},
    },
    firewall::counters::RuleDrops,
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
    let Status { version, pid, since, decisions, replay_memory, .. } = status;
    let mut line = |name: &str, text: String| output.line(format!("{name:<16} {text}"));
    line("knockd", format!("{version}, process {pid}, since {since}"))?;
    for text in configuration(&status.configuration) {
        line("configuration", text)?;
    }
    line("clients", status.clients.to_string())?;
    line("live grants", status.grants.to_string())?;
    line(
        "bans",
        format!(
            "{} by failures, {} by an admin, of at most {}",
            status.bans_by_failures, status.bans_by_admin, status.bans_limit
        ),
    )?;
    line("table", table(&status.table))?;
    line("clock", clock(&status.clock))?;
    line("granted", decisions.granted.to_string())?;
    line("closed", decisions.closed.to_string())?;
    let refused: Vec<String> =
        decisions.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    line("refused", sum(decisions.refused.values(), &refused))?;
    line(
        "banned",
        format!(
            "{}, lifted by a valid knock {}, too many to be banned {}",
            decisions.banned, decisions.ban_lifted, decisions.not_banned
        ),
    )?;
    line("kernel drops", kernel_drops(status.kernel_drops.as_deref()))?;
    line(
        "buffer drops",
        status.receive_buffer_drops.map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
    )?;
    line("replay memory", format!("{} of {} packets", replay_memory.used, replay_memory.capacity))?;
    let last = status.last_error.as_ref();
    line(
        "errors",
        last.map_or_else(
            || status.errors.to_string(),
            |last| format!("{}, the last at {}: {}", status.errors, last.at, last.message),
        ),
    )?;
    if status.untold_events > 0 {
        line(
            "untold",
            format!("{} events, because whoever takes them did not", status.untold_events),
        )?;
    }
    if let Some(why) = &status.metrics_failing {
        line("metrics", format!("NOT told, tried again: {why}"))?;
    }
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

/// A sum, and what it consists of.
fn sum<'n>(numbers: impl Iterator<Item = &'n u64>, parts: &[String]) -> String {
    let total: u64 = numbers.sum();
    match parts {
        [] => total.to_string(),
        parts => format!("{total}: {}", parts.join(", ")),
    }
}

fn kernel_drops(drops: Option<&[RuleDrops]>) -> String {
    let Some(drops) = drops else { return "unknown".to_owned() };
    let some = drops.iter().filter(|drops| drops.packets > 0);
    let parts: Vec<String> =
        some.map(|drops| format!("{} {} ({})", drops.packets, drops.rule, drops.chain)).collect();
    sum(drops.iter().map(|drops| &drops.packets), &parts)
}

fn clock(clock: &Clock) -> String {
    let Clock { synchronized, steps, last_step_ms, last_step } = clock;
    let is = match synchronized {
        Some(true) => "synchronised",
        Some(false) => "NOT synchronised",
        None => "not kept by systemd-timesyncd: whether it is synchronised isn't known",
    };
    match (last_step_ms, last_step) {
        (Some(by), Some(to)) => {
            format!("{is}; set {steps} times, last by {by:+} ms to {to}")
        }
        _ => is.to_owned(),
    }
}

fn table(table: &Table) -> String {
    let Table { whole, failing, repairs, lacked, since, open_ms } = table;
    let is = match failing {
        Some(why) => format!("NOT whole, and can't be put right: {why}"),
        None if *whole => "whole".to_owned(),
        None => "NOT whole: it is being put right".to_owned(),
    };
    match (lacked, since, open_ms) {
        (Some(lacked), Some(since), Some(open_ms)) => format!(
            "{is}; put right {repairs} times, last at {since} after {open_ms} ms without: {lacked}"
        ),
        _ => is,
    }
}
