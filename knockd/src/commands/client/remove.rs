//! `knockd client remove`: takes a client's entry out of its file.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{cut::cut, folder::Folder};
use crate::{
    commands::{Exit, Failure, Format, Output},
    config::{self, Located},
    gate::policy::ClientName,
};

/// The client to remove.
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    /// The client's name
    pub name: ClientName,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Removed<'a> {
    changed: bool,
    client: &'a str,
    file: String,
}

/// Removes the client's entry; its file as well where no other client is in it.
///
/// # Errors
/// [`Exit::NoInput`] if there is no such client, [`Exit::DataErr`] if its entry can't be cut out, and
/// whatever stands in the way of writing: nothing has changed then.
pub(super) fn run(
    config: &Path,
    args: &RemoveArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let folder = Folder::lock(config)?;
    let Located { config, origins } = &folder.located;
    let Some((_, origin)) =
        config.clients.iter().zip(origins).find(|(client, _)| client.name == args.name)
    else {
        let message =
            format!("there is no client {}: knockd client list tells who there is", args.name);
        return Err(Failure::new(Exit::NoInput, message));
    };
    let neighbours = origins.iter().filter(|it| it.file == origin.file).count().saturating_sub(1);
    if neighbours == 0 {
        folder.remove(&origin.file)?;
    } else {
        let by_hand = || {
            let message = format!("{origin} can't be cut out of its file: remove it by hand");
            Failure::new(Exit::DataErr, message)
        };
        let text = config::read_clients_text(&origin.file)?;
        let text = str::from_utf8(&text).map_err(|_| by_hand())?;
        let rest = cut(text, args.name.as_str()).ok_or_else(by_hand)?;
        // What is left must be what it was but for one client.
        let left = config::check_clients(&origin.file, &rest, &config.policy.services)?;
        if left != neighbours {
            return Err(by_hand());
        }
        folder.replace(&origin.file, rest.as_bytes())?;
    }
    let file = origin.file.display().to_string();
    match output.format() {
        Format::Human => output.line(format!("{} is removed from {file}", args.name))?,
        Format::Json => {
            output.json(&Removed { changed: true, client: args.name.as_str(), file })?;
        }
    }
    output.note("shut it out, and end its grants, with: systemctl reload knockd");
    Ok(())
}
