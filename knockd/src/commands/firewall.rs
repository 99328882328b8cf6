//! `knockd firewall print|install|status|remove`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Exit, Failure, Format, Output, fallback, live, run::firewall_exit};
use crate::{
    config::{self, Config},
    firewall::{
        FirewallError,
        included::Included,
        kernel::{Kernel, NotCarried},
        ruleset::{Ruleset, TABLE},
        table::{self, Guarded, TableState},
        template::Template,
    },
    journal::StateFolder,
    plan,
};

/// What to do with the table.
#[derive(Clone, Debug, Subcommand)]
pub enum FirewallCommand {
    /// Print the script that `install` gives to nft; changes nothing
    Print,
    /// Put the table in: protected ports are shut from then on, live grants stay
    Install(InstallArgs),
    /// Say whether the table in the kernel is the one that ought to be there
    Status,
    /// Take the table out: everything that it guards is open then. Not while knockd runs
    Remove,
}

/// How to put it in.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  knockd firewall install --fallback /var/lib/knockd-firewall/table.nft"
)]
pub struct InstallArgs {
    /// Keep a copy of the table in FILE once it is in; if the configuration is wrong, put that in instead
    #[arg(long, value_name = "FILE")]
    pub fallback: Option<PathBuf>,
    /// Load FILE by nft as well, in the same transaction: however much it flushes, no port shows meanwhile. If nft
    /// refuses it, nothing changes
    #[arg(long, value_name = "FILE")]
    pub with: Option<Included>,
}

/// Runs one of them.
///
/// # Errors
/// A [`Failure`]; `status` fails with EX_UNAVAILABLE unless the table is whole.
pub fn run(
    command: &FirewallCommand,
    config: &Path,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        FirewallCommand::Print => print(&load(config)?, output),
        FirewallCommand::Install(args) => install(config, args, output),
        FirewallCommand::Status => status(&load(config)?, output),
        FirewallCommand::Remove => remove(config, output),
    }
}

fn load(config: &Path) -> Result<Ruleset, Failure> {
    load_all(config).map(|(ruleset, _)| ruleset)
}

fn load_all(config: &Path) -> Result<(Ruleset, Option<Config>), Failure> {
    let config = config::load(config)?;
    Ok((plan::ruleset(&config, config.clients.len()), Some(config)))
}

/// Shuts the door by the main file alone if that is sound and the clients are not: who they are matters to the
/// daemon, and an open door to everybody.
fn load_for_install(
    path: &Path,
    output: &mut Output<'_>,
) -> Result<(Ruleset, Option<Config>), Failure> {
    let failure = match load_all(path) {
        Ok(loaded) => return Ok(loaded),
        Err(failure) => failure,
    };
    match config::load_without_clients(path) {
        Ok(config) => {
            output.note(format!("{failure}\nThe table goes in all the same; knockd won't start before that is mended"));
            Ok((plan::ruleset(&config, config.clients.len()), None))
        }
        Err(_) => Err(failure),
    }
}

fn print(ruleset: &Ruleset, output: &mut Output<'_>) -> Result<(), Failure> {
    match output.format() {
        Format::Human => output.line(ruleset.script().trim_end()),
        Format::Json => output.json(&json!({ "script": ruleset.script() })),
    }
}

fn install(config: &Path, args: &InstallArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let (ruleset, config) = match (load_for_install(config, output), &args.fallback) {
        (Ok(loaded), _) => loaded,
        (Err(mistakes), Some(file)) => {
            return install_fallback(&mistakes, file, args.with.as_ref(), output);
        }
        (Err(mistakes), None) => return Err(mistakes),
    };
    let put_in = put_in(&ruleset, args.with.as_ref()).map_err(|error| failure(&error))?;
    let changed = put_in.is_some();
    put_in.and_then(|lost| lost.told()).into_iter().for_each(|told| output.note(told));
    if let Some(config) = config
        && let Err(error) = live::restore(&config)
    {
        output.note(format!("live grants can't be put in again before knockd starts: {error}"));
    }
    if let Some(file) = &args.fallback
        && let Err(error) = fallback::keep(file, &ruleset.script())
    {
        output.note(format!(
            "{}: the table can't be kept there for a time when the configuration is wrong: {error}",
            file.display()
        ));
    }
    match (output.format(), changed) {
        (Format::Json, _) => output.json(&json!({ "changed": changed, "table": "whole" })),
        (Format::Human, true) => {
            output.line(format!("table {TABLE} is in: its ports are shut, live grants stay"))
        }
        (Format::Human, false) => {
            output.line(format!("table {TABLE} was in already, and whole: nothing changed"))
        }
    }
}

/// Puts the table in unless it is in; what was lost with the former one. `None` if nothing has changed.
fn put_in(ruleset: &Ruleset, with: Option<&Included>) -> Result<Option<NotCarried>, FirewallError> {
    let template = Template::of(ruleset)?;
    match with {
        Some(included) => table::install_with(included, &template).map(Some),
        None if table::state(&template)? == TableState::Whole => Ok(None),
        None => table::install(&mut Kernel::open()?, &template).map(Some),
    }
}

/// With a configuration that says nothing, the table that was in last is the best guess at what is to be shut.
fn install_fallback(
    mistakes: &Failure,
    file: &Path,
    with: Option<&Included>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let script = fallback::read(file).map_err(|error| {
        let (message, file) = (&mistakes.message, file.display());
        Failure::new(
            mistakes.exit,
            format!(
                "{message}\nNOTHING IS SHUT by this: {file}, which would go in instead: {error}"
            ),
        )
    })?;
    let lost = table::install_script(with, &script).map_err(|error| failure(&error))?;
    lost.told().into_iter().for_each(|told| output.note(told));
    output.note(fallback::loudly(&format!(
        "{mistakes}\nTHE CONFIGURATION IS WRONG. The table that was in last goes in instead, from {}: mend the \
         configuration, then run `knockd firewall install`",
        file.display()
    )));
    match output.format() {
        Format::Json => output.json(&json!({ "changed": true, "table": "fallback" })),
        Format::Human => {
            output.line(format!("table {TABLE} is in as it was last, live grants stay"))
        }
    }
}

fn status(ruleset: &Ruleset, output: &mut Output<'_>) -> Result<(), Failure> {
    let state = Template::of(ruleset).and_then(|template| table::state(&template));
    let (state, differences) = match state.map_err(|error| failure(&error))? {
        TableState::Whole => ("whole", Vec::new()),
        TableState::Missing => ("missing", Vec::new()),
        TableState::Changed(differences) => ("changed", differences),
    };
    match output.format() {
        Format::Json => output.json(&json!({ "table": state, "differences": differences }))?,
        Format::Human => output.line(format!("table {TABLE}: {state}"))?,
    }
    let said = match state {
        "whole" => return Ok(()),
        "missing" => "every port that it guards is open".to_owned(),
        _ => differences.join("\n"),
    };
    Err(Failure::new(
        Exit::Unavailable,
        format!("{said}\nPut it right with: knockd firewall install"),
    ))
}

fn remove(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    // With a configuration that is no good no daemon can be told of; the table can be taken out all the same.
    if config::load(config).is_ok_and(|config| StateFolder::is_in_use(&config.state)) {
        return Err(Failure::new(
            Exit::TempFail,
            "knockd is running, and would put the table in again at once: stop it first (systemctl stop knockd)",
        ));
    }
    let guarded = table::remove().map_err(|error| failure(&error))?;
    let Guarded { local, routed, open_doors } = guarded.clone().unwrap_or_default();
    let mut ports: Vec<String> = local.iter().map(ToString::to_string).collect();
    ports.extend(routed.iter().map(|(to, port)| format!("{port} of {to}")));
    match (output.format(), guarded) {
        (Format::Json, guarded) => output.json(&json!({
            "changed": guarded.is_some(),
            "opened": ports,
            "grants-ended": open_doors,
        })),
        (Format::Human, None) => {
            output.line(format!("table {TABLE} was not there: nothing changed"))
        }
        (Format::Human, Some(_)) => output.line(format!(
            "table {TABLE} is gone: {} now open to everybody whom no other rule stops",
            listed(&ports)
        )),
    }
}

fn listed(ports: &[String]) -> String {
    match ports {
        [] => "no port was guarded, and none is".to_owned(),
        [port] => format!("{port} is"),
        ports => format!("{} are", ports.join(", ")),
    }
}

fn failure(error: &FirewallError) -> Failure {
    Failure::new(firewall_exit(error), error.to_string())
}
