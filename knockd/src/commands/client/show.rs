//! `knockd client show`: all that there is of one client, but its keys.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::list::Listed;
use crate::{
    commands::{Exit, Failure, Format, Output, ask::ask},
    config,
    control::{Reply, Request, revoke::ClientState},
    gate::policy::ClientName,
};

/// The client to show.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The client's name
    pub name: ClientName,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a Listed,
    /// What the running daemon says of it; null if none answers.
    daemon: Option<&'a ClientState>,
}

/// Shows a client's entry, and who is in by it.
///
/// # Errors
/// The configuration's mistakes; [`Exit::NoInput`] if there is no such client.
pub(super) fn run(config: &Path, args: &ShowArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let settings = config::load_without_clients(config)?;
    let found = config::find(&settings, &args.name)?.ok_or_else(|| unknown(&args.name))?;
    let asked = ask(config, &Request::Client { name: args.name.clone() });
    let daemon = match asked {
        Ok(Reply::Client(state)) => Some(state),
        Ok(_) => None,
        // Nobody to ask is no failure: what the files say is told all the same.
        Err(Failure { exit: Exit::Unavailable, .. }) => None,
        Err(failure) => {
            output.note(format!("the daemon can't be asked: {failure}"));
            None
        }
    };
    let skew = daemon.as_ref().and_then(|state| state.skew.as_ref());
    let entry = Listed::new(&found.client, &found.origin, skew);
    match output.format() {
        Format::Json => output.json(&Shown { entry: &entry, daemon: daemon.as_ref() }),
        Format::Human => tell(&entry, daemon.as_ref(), output),
    }
}

/// The failure of a name that no client has.
pub(super) fn unknown(name: &ClientName) -> Failure {
    let message = format!("there is no client {name}: knockd client list tells who there is");
    Failure::new(Exit::NoInput, message)
}

fn tell(
    entry: &Listed,
    daemon: Option<&ClientState>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut line = |name: &str, text: &str| output.line(format!("{name:<12} {text}"));
    for (name, text) in entry.lines() {
        line(name, &text)?;
    }
    let Some(ClientState { known, grants, more, .. }) = daemon else {
        return line("grants", "unknown: no daemon runs");
    };
    if !known {
        return line("grants", "none: the running daemon doesn't know it yet (knockd reload)");
    }
    if grants.is_empty() {
        return line("grants", "none");
    }
    for grant in grants {
        let text = format!("{} for {}, {} s left", grant.service, grant.address, grant.remaining_s);
        line("grant", &text)?;
    }
    match more {
        0 => Ok(()),
        more => line("grants", &format!("and {more} more: knockd grants lists all")),
    }
}
