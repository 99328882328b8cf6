//! `knockd grants`: who is in, for what, for how long yet. Asks the running daemon, so that whoever may talk to
//! it can; where none runs, the kernel and the state folder, which root alone can read.

use std::{collections::HashMap, path::Path, time::Duration};

use serde::Serialize;

use super::{Exit, Failure, Format, Output, ask, run::firewall_exit};
use crate::{
    clock, config,
    control::{
        Reply, Request,
        list::{GrantMark, GrantRow, GrantsPage},
    },
    firewall::{Firewall as _, kernel::Kernel},
    gate::{clock::Now, grants::Door, policy::Service},
    journal::{
        StateError,
        held::{self, Found, StoredGrant},
    },
    plain::NotPlain,
    telemetry::rfc3339,
};

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    grants: Vec<GrantRow>,
}

/// Lists the live grants.
///
/// # Errors
/// A [`Failure`] if the daemon doesn't answer; without one, if the kernel or the state folder can't be read.
pub fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let request = |after: Option<GrantMark>| Request::Grants { after };
    let page = |reply| match reply {
        Reply::Grants(GrantsPage { grants, next }) => Some((grants, next)),
        _ => None,
    };
    let mut grants = match ask::list(config, request, page)? {
        Some(grants) => grants,
        None => without_a_daemon(config, output)?,
    };
    grants
        .sort_by(|a, b| (&a.client, &a.address, &a.ports).cmp(&(&b.client, &b.address, &b.ports)));
    let answer = Answer { grants };
    match output.format() {
        Format::Json => output.json(&answer),
        Format::Human => table(&answer, output),
    }
}

fn without_a_daemon(config: &Path, output: &mut Output<'_>) -> Result<Vec<GrantRow>, Failure> {
    let config = config::load(config)?;
    let path = config.state.join(held::FILE_NAME);
    let stored = match held::load(&path, None).map_err(|error| state_failure(&error))? {
        Found::Grants(grants) => grants,
        Found::None => Vec::new(),
        Found::Damaged => {
            output.note(format!("{}: damaged; doors are listed without names", path.display()));
            Vec::new()
        }
    };
    let firewall_error = |error| Failure::new(firewall_exit(&error), error.to_string());
    let doors = Kernel::open().and_then(|mut kernel| kernel.doors()).map_err(firewall_error)?;
    Ok(rows(&stored, doors, &config.policy.services, clock::now()))
}

/// The failure of a state folder that can't be read.
pub(super) fn state_failure(error: &StateError) -> Failure {
    match error {
        StateError::Io { path, error } if NotPlain::of(error).is_some() => {
            Failure::new(Exit::DataErr, format!("{}: {error}", path.display()))
        }
        _ => Failure::new(Exit::NoPerm, format!("{error}; run it as root")),
    }
}

/// A row for each grant that has a door in the kernel, and one for each door that has no grant.
fn rows(
    stored: &[StoredGrant],
    doors: Vec<(Door, Duration)>,
    services: &[Service],
    now: Now,
) -> Vec<GrantRow> {
    let mut nameless: HashMap<Door, Duration> = doors.into_iter().collect();
    let open = nameless.clone();
    let mut rows = Vec::new();
    for grant in stored.iter().filter(|grant| grant.until > now.uptime) {
        let Some(service) = services.iter().find(|service| service.name == grant.service) else {
            continue;
        };
        let doors: Vec<Door> = service
            .ports
            .iter()
            .map(|port| Door { address: grant.address, port: *port })
            .filter(|door| open.contains_key(door))
            .collect();
        if doors.is_empty() {
            continue;
        }
        nameless.retain(|door, _| !doors.contains(door));
        rows.push(GrantRow {
            client: Some(grant.client.to_string()),
            service: Some(grant.service.to_string()),
            ..row(&doors, grant.until.since(now.uptime), now)
        });
    }
    rows.extend(nameless.into_iter().map(|(door, left)| row(&[door], left, now)));
    rows
}

fn row(doors: &[Door], left: Duration, now: Now) -> GrantRow {
    GrantRow {
        client: None,
        address: doors.first().map(|door| door.address.to_string()).unwrap_or_default(),
        service: None,
        ports: doors.iter().map(|door| door.port.to_string()).collect(),
        expires: rfc3339(now.utc_of(now.uptime + left)),
        remaining_s: left.as_secs(),
    }
}

fn table(answer: &Answer, output: &mut Output<'_>) -> Result<(), Failure> {
    if answer.grants.is_empty() {
        return output.line("nobody is in");
    }
    output.line(format!(
        "{:<24} {:<40} {:<16} {:<20} LEFT",
        "CLIENT", "ADDRESS", "SERVICE", "PORTS"
    ))?;
    for row in &answer.grants {
        output.line(format!(
            "{:<24} {:<40} {:<16} {:<20} {} s",
            row.client.as_deref().unwrap_or("-"),
            row.address,
            row.service.as_deref().unwrap_or("-"),
            row.ports.join(","),
            row.remaining_s
        ))?;
    }
    Ok(())
}
