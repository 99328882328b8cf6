//! `knockd reload`: has the running daemon apply a changed configuration, and waits until it is in force.

use std::path::Path;

use serde::Serialize;

use super::{
    Exit, Failure, Format, Output,
    ask::{ask, unexpected},
    fallback,
};
use crate::control::{
    Reply, Request,
    configuration::{Refusal, Reloaded, Setting},
};

/// The answer as `--json` has it where the configuration is refused.
#[derive(Serialize)]
struct NotReloaded<'a> {
    changed: bool,
    refused: &'a Refusal,
}

/// Has a changed configuration applied, and tells what has changed.
///
/// # Errors
/// [`Exit::Config`] if it is refused; the one before is in force still. A [`Failure`] if no daemon runs.
pub fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    match ask(config, &Request::Reload { cut: None })? {
        Reply::Reloaded(reloaded) => {
            if let Err(warning) = fallback::follow(config, reloaded.clients) {
                output.note(format!("warning: {warning}"));
            }
            match output.format() {
                Format::Json => output.json(&reloaded),
                Format::Human => tell(&reloaded, output),
            }
        }
        Reply::NotReloaded(refused) => {
            if output.format() == Format::Json {
                output.json(&NotReloaded { changed: false, refused: &refused })?;
            }
            Err(failure(&refused))
        }
        _ => Err(unexpected()),
    }
}

/// The failure of a configuration that the daemon refuses.
pub(super) fn failure(Refusal { mistakes, more, .. }: &Refusal) -> Failure {
    let mut lines: Vec<&str> = mistakes.iter().map(|mistake| mistake.text.as_str()).collect();
    let and_more = format!("and {more} more: knockd check tells all");
    if *more > 0 {
        lines.push(&and_more);
    }
    lines.push("nothing is changed: the daemon goes by the configuration that it had before");
    // What the system refuses, and not a file, can be right the next time.
    let exit = match mistakes.iter().all(|mistake| mistake.file.is_none()) {
        true => Exit::OsErr,
        false => Exit::Config,
    };
    Failure::new(exit, lines.join("\n"))
}

fn tell(reloaded: &Reloaded, output: &mut Output<'_>) -> Result<(), Failure> {
    let Reloaded { changed, settings, restart, added, modified, removed, .. } = reloaded;
    for Setting { key, was, is } in settings {
        output.line(format!("{key}: {is} (was {was})"))?;
    }
    if added + modified + removed > 0 {
        output.line(format!("clients: {added} added, {modified} changed, {removed} removed"))?;
    }
    for (what, count) in
        [("grants ended", reloaded.grants_ended), ("bans lifted", reloaded.bans_lifted)]
    {
        if count > 0 {
            output.line(format!("{what}: {count}"))?;
        }
    }
    if !changed {
        output.line("nothing has changed")?;
    }
    for Setting { key, was, is } in restart {
        output.note(format!(
            "{key}: {is} takes effect when the daemon is restarted (systemctl restart knockd); it is {was} until then"
        ));
    }
    if let Some(warning) = &reloaded.warning {
        output.note(format!("warning: not all of it is done yet: {warning}"));
    }
    Ok(())
}
