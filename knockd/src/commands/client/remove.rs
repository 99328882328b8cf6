//! `knockd client remove`: takes a client's entry out of its file.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{effect::Effect, folder::Folder, show};
use crate::{
    commands::{Failure, Format, Output},
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
/// EX_NOINPUT if there is no such client, EX_DATAERR if its entry can't be cut out, and
/// whatever stands in the way of writing: nothing has changed then.
pub(super) fn run(
    config: &Path,
    args: &RemoveArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let folder = Folder::lock(config)?;
    let found = folder.find(&args.name)?;
    match &found {
        Some(found) => folder.take_out(found)?,
        None if args.if_present => {}
        None => return Err(show::unknown(&args.name)),
    }
    let file = found.map(|found| found.origin.file.display().to_string());
    let control = folder.config.control.clone();
    drop(folder);
    let effect = Effect::take(config, &control, args.cut.then_some(&args.name))?;
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
