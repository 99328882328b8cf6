//! `--keep`: a door that stays open, from networks that come and go, for months.
//!
//! `keeper` is the one that decides and acts, one step after the other and never waiting for anything; `wires` waits
//! for everything at once. `schedule` says when, `network` hears of changes, `names` looks the server up, `probes`
//! look whether the door is open, `child` is the command, `tell` and `notify` say how it goes.
//!
//! # Security considerations
//! - What ends the keeper in order closes the door. What doesn't (SIGKILL, a power failure) leaves it to end
//!   with the grant, at most as long as was asked for.
//! - Every packet is a fresh one. However often the network changes, it makes at most one knock every two seconds;
//!   a server that doesn't open is knocked at ever more seldom, down to once a minute.

mod child;
mod keeper;
mod names;
mod network;
mod notify;
mod probes;
mod schedule;
mod tell;
mod wires;

use std::process::ExitCode;

use crate::{
    cli::Args,
    exit::Error,
    output::{Output, complain},
    report::Report,
};

/// Keeps the door open until a signal or the command's end.
pub(crate) fn obey(args: &Args) -> ExitCode {
    match keeper::keep(args) {
        Ok(code) => code.into(),
        Err(error) => fail(args, &error),
    }
}

/// What makes no sense to go on with ends as it does without `--keep`.
fn fail(args: &Args, error: &Error) -> ExitCode {
    let mut report = Report::default();
    report.fail(error);
    let _ = Output::of(args).conclude(&report);
    complain(&format!("knock: {error}\n"));
    error.code().into()
}
