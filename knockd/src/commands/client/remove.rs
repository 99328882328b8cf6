//! `knockd client remove`: takes a client's entry out of its file.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{cut::cut, effect::Effect, folder::Folder, show};
use crate::{
    commands::{Exit, Failure, Format, Output},
    config::{self, Located, Origin},
    gate::policy::ClientName,
};

/// The client to remove.
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    /// The client's name
    pub name: ClientName,
    /// End its connections as well, also those whose grants are over
    #[arg(long)]
    pub cut: bool,
    /// Succeed where there is no such client
    #[arg(long)]
    pub if_present: bool,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Removed<'a> {
    changed: bool,
    client: &'a str,
    file: Option<String>,
    in_force: bool,
    grants_ended: usize,
    connections_ended: Option<usize>,
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
    let mut all = config.clients.iter().zip(origins);
    let found = all.find(|(client, _)| client.name == args.name).map(|(_, origin)| origin);
    match found {
        Some(origin) => take_out(&folder, origin, &args.name)?,
        None if args.if_present => {}
        None => return Err(show::unknown(&args.name)),
    }
    let file = found.map(|origin| origin.file.display().to_string());
    let control = config.control.clone();
    drop(folder);
    let effect = Effect::take(&control, args.cut.then_some(&args.name))?;
    match (output.format(), &file) {
        (Format::Human, Some(file)) => {
            output.line(format!("{} is removed from {file}", args.name))?;
        }
        (Format::Human, None) => output.line(format!("there is no client {}", args.name))?,
        (Format::Json, _) => output.json(&Removed {
            changed: file.is_some(),
            client: args.name.as_str(),
            in_force: effect.is_in_force(),
            grants_ended: effect.grants_ended(),
            connections_ended: effect.connections_ended(),
            file,
        })?,
    }
    effect.note(output);
    Ok(())
}

fn take_out(folder: &Folder, origin: &Origin, name: &ClientName) -> Result<(), Failure> {
    let Located { config, origins } = &folder.located;
    let neighbours = origins.iter().filter(|it| it.file == origin.file).count().saturating_sub(1);
    if neighbours == 0 {
        return folder.remove(&origin.file);
    }
    let by_hand = || {
        let message = format!("{origin} can't be cut out of its file: remove it by hand");
        Failure::new(Exit::DataErr, message)
    };
    let text = config::read_clients_text(&origin.file)?;
    let text = str::from_utf8(&text).map_err(|_| by_hand())?;
    let rest = cut(text, name.as_str()).ok_or_else(by_hand)?;
    // What is left must be what it was but for one client.
    let left = config::check_clients(
        &origin.file,
        &rest,
        &config.policy.services,
        &config.master_key_file,
    )?;
    if left.len() != neighbours {
        return Err(by_hand());
    }
    folder.replace(&origin.file, rest.as_bytes())
}
