//! `--keep`: a door that stays open, from networks that come and go, for months.
//!
//! `wires` waits for everything at once, `keeper` turns what came into what is done, and `door` takes the steps, none
//! of which waits: `schedule` says when, `names` looks the server up, `knocker` knocks, and [`crate::probes`] or
//! [`crate::reply`] show whether it is open. `network` hears of changes and `notices` knows which they are, `child` is
//! the command, `tell` and `notify` say how it goes.
//!
//! # Security considerations
//! - What ends the keeper in order closes the door. What doesn't (SIGKILL, a power failure) leaves it to end
//!   with the grant, at most as long as was asked for.
//! - Every packet is a fresh one. However often the network changes, it makes at most one knock every two seconds;
//!   a server that doesn't open is knocked at ever more seldom, down to once a minute.

mod child;
mod door;
mod keeper;
mod knocker;
mod names;
mod network;
mod notices;
mod notify;
mod schedule;
mod sign;
mod step;
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
