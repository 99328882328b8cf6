//! `knockd client resync`: brings back a client without a clock whose counter is lost, here or on the device.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use crate::{
    commands::{
        Failure, Format, Output,
        ask::{ask, unexpected},
    },
    control::{Reply, Request, Resynced},
    gate::policy::ClientName,
};

/// The client to bring back.
#[derive(Args, Clone, Debug)]
pub struct ResyncArgs {
    /// The client's name
    pub name: ClientName,
}

/// The answer as `--json` has it.
#[derive(Serialize)]
struct Answer<'a> {
    changed: bool,
    client: &'a str,
    counter: u64,
}

/// Has the running daemon set the client's counter anew, and says what to do on the device.
///
/// # Errors
/// A [`Failure`] if no daemon runs, it doesn't know the client, the client has a clock, or it can't be written down:
/// nothing has changed then.
pub(super) fn run(
    config: &Path,
    args: &ResyncArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = args.name.as_str();
    let request = Request::Resync { client: args.name.clone() };
    let Reply::Resynced(Resynced { counter }) = ask(config, &request)? else {
        return Err(unexpected());
    };
    match output.format() {
        Format::Json => output.json(&Answer { changed: true, client, counter }),
        Format::Human => {
            output.line(format!("{client}: on the device, run: knock --set-counter {counter}"))
        }
    }
}
