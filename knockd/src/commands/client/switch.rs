//! `knockd client disable` and `enable`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{edit::Edit, effect::Effect, folder::Folder};
use crate::{
    commands::{Failure, Format, Output},
    gate::policy::{ClientName, Standing},
};

/// The client to switch off.
#[derive(Args, Clone, Debug)]
pub struct DisableArgs {
    /// The client's name
    pub name: ClientName,
    /// End its connections as well, also those whose grants are over
    #[arg(long)]
    pub cut: bool,
}

/// The client to switch on.
#[derive(Args, Clone, Debug)]
pub struct EnableArgs {
    /// The client's name
    pub name: ClientName,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Switched<'a> {
    changed: bool,
    client: &'a str,
    file: String,
    enabled: bool,
    in_force: bool,
    grants_ended: usize,
    connections_ended: Option<usize>,
}

/// Switches a client off: its knocks are refused, and its grants end.
pub(super) fn disable(
    config: &Path,
    args: &DisableArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let cut = args.cut.then_some(&args.name);
    switch(config, &args.name, Standing::Disabled, cut, output)
}

/// Switches a client on again.
pub(super) fn enable(
    config: &Path,
    args: &EnableArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    switch(config, &args.name, Standing::Enabled, None, output)
}

fn switch(
    config: &Path,
    name: &ClientName,
    to: Standing,
    cut: Option<&ClientName>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let folder = Folder::lock(config)?;
    let found = folder.client(name)?;
    let (changed, file) = (found.client.standing != to, found.origin.file.display().to_string());
    let (value, how) = match to {
        Standing::Enabled => ("true", "enabled"),
        Standing::Disabled => ("false", "disabled"),
    };
    if changed {
        let below = if found.generation.is_some() { "key-from" } else { "key" };
        let edit = Edit::Set { key: "enabled", value, below };
        folder.edit(&found, &[edit], |client| client.standing == to)?;
    }
    let control = folder.config.control.clone();
    drop(folder);
    let effect = Effect::take(config, &control, cut)?;
    match output.format() {
        Format::Human if changed => output.line(format!("{name} is {how} in {file}"))?,
        Format::Human => output.line(format!("{name} is {how} already"))?,
        Format::Json => output.json(&Switched {
            changed,
            client: name.as_str(),
            file,
            enabled: to == Standing::Enabled,
            in_force: effect.is_in_force(),
            grants_ended: effect.grants_ended(),
            connections_ended: effect.connections_ended(),
        })?,
    }
    effect.note(output);
    Ok(())
}
