//! `knockd client`: enrol a client, list them, remove one.
//!
//! These commands touch files alone: a running daemon learns of it when it is restarted. Each needs a
//! sound configuration to begin with, and leaves a sound one behind.

use std::path::Path;

use clap::Subcommand;

use super::{Failure, Output};

mod add;
mod cut;
mod folder;
mod list;
mod profile;
mod remove;
mod resync;
#[cfg(test)]
mod tests;

pub use add::{AddArgs, AddressChoice};
pub use profile::{InvalidServer, Server};
pub use remove::RemoveArgs;
pub use resync::ResyncArgs;

/// What to do with the clients.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a key for a new client, and print the device's whole knock.toml
    ///
    /// The client's entry goes into a file of its own in the folder of the clients, which its owner can
    /// write and its group can read. The device's knock.toml, with the key in it, is printed once and
    /// kept nowhere.
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List the clients, without their keys
    #[command(after_help = "Example:\n  knockd client list --json")]
    List,
    /// Remove a client's entry
    ///
    /// The entries of other clients in the same file stay as they are, to the byte.
    #[command(after_help = "Example:\n  knockd client remove press-17")]
    Remove(RemoveArgs),
    /// Bring back a client without a clock that has lost its counter, or whose counter the daemon has lost
    ///
    /// Says from where on the device is to count, and accepts nothing at or below that any more.
    #[command(
        after_help = "Example:\n  knockd client resync press-17\n\nExit status: 65 the client has a clock, 66 no such client, 69 no daemon runs"
    )]
    Resync(ResyncArgs),
}

const ADD_HELP: &str = "\
Examples:
  knockd client add press-17 --service mqtts --server broker.example.com > knock.toml
  knockd client add gate-3 --service mqtts --from 10.3.0.0/16 --expires 2027-12-31

Exit status: 64 no such service, 73 the name is taken, 75 another knockd client is at work";

/// Runs one of them.
///
/// # Errors
/// A [`Failure`]: nothing has changed then.
pub fn run(command: &ClientCommand, config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        ClientCommand::Add(args) => add::run(config, args, output),
        ClientCommand::List => list::run(config, output),
        ClientCommand::Remove(args) => remove::run(config, args, output),
        ClientCommand::Resync(args) => resync::run(config, args, output),
    }
}
