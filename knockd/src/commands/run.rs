//! `knockd run`

use std::{io, path::Path};

use tracing::warn;

use super::{Exit, Failure};
use crate::{
    activation::Passed,
    config::{self, Environment, reload},
    daemon::{self, Start, StartError},
    firewall::FirewallError,
    journal::StateError,
    signals, supervisor, telemetry,
};

/// Runs the daemon in the foreground until SIGTERM or SIGINT. `dumps` is whether dumps of its memory could be forbidden.
///
/// # Errors
/// A [`Failure`] if it can't start.
pub fn run(config: &Path, dumps: io::Result<()>) -> Result<(), Failure> {
    let run = start(config, dumps);
    if let Err(failure) = &run {
        supervisor::cannot_start(&failure.message);
    }
    run
}

fn start(config: &Path, dumps: io::Result<()>) -> Result<(), Failure> {
    let passed = Passed::take().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    signals::hold_back_reloads()
        .map_err(|error| Failure::new(Exit::OsErr, format!("signals: {error}")))?;
    let environment = Environment::of_process();
    // Before the files are read: a change in between shows at the next reload.
    let stamps = config::clients_dir(config, &environment)
        .ok()
        .and_then(|folder| reload::stamps(&folder).ok())
        .unwrap_or_default();
    let located = config::load_located(config, &environment)?;
    telemetry::start().map_err(|error| Failure::new(Exit::OsErr, error.to_string()))?;
    if let Err(error) = dumps {
        warn!(
            event = "dumps-possible",
            "dumps of this process' memory, which holds keys, can't be forbidden: {error} (prctl)"
        );
    }
    daemon::run(Start { located, path: config.to_owned(), stamps, passed })
        .map_err(|error| Failure::new(exit(&error), error.to_string()))
}

const fn exit(error: &StartError) -> Exit {
    match error {
        StartError::State(StateError::InUse { .. }) => Exit::TempFail,
        StartError::State(StateError::Io { .. }) => Exit::CantCreat,
        StartError::Firewall(error) => firewall_exit(error),
        StartError::Control { .. } => Exit::CantCreat,
        StartError::Passed(_) => Exit::Config,
        StartError::Listen(_) | StartError::Metrics(_) | StartError::System { .. } => Exit::OsErr,
    }
}

/// How a command ends that the firewall failed.
pub(super) const fn firewall_exit(error: &FirewallError) -> Exit {
    match error {
        FirewallError::Nft(_) | FirewallError::ReadBack(_) => Exit::Unavailable,
        FirewallError::Refused(_) | FirewallError::Netlink(_) => Exit::OsErr,
    }
}
