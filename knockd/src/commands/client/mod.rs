//! `knockd client`: enrol a client, list them, change or remove one.
//!
//! Each needs a sound main file, and a sound entry of the client that it is about, and leaves sound ones behind; other
//! clients' entries aren't looked at, however many there are, but by `import`, `export` and `list`. A running daemon is
//! asked to apply it; without one, it takes effect when the daemon starts.

use std::path::Path;

use clap::Subcommand;

use super::{Failure, Output};

mod add;
mod cut;
mod edit;
mod effect;
mod entry;
mod export;
mod folder;
mod handover;
mod import;
mod list;
mod profile;
mod remove;
mod resync;
mod rotate;
mod show;
mod switch;
#[cfg(test)]
mod tests;

pub use add::{AddArgs, AddressChoice};
pub use export::ExportArgs;
pub use import::{ImportArgs, TableFormat};
pub use profile::{InvalidServer, Server};
pub use remove::RemoveArgs;
pub use resync::ResyncArgs;
pub use rotate::RotateArgs;
pub use show::ShowArgs;
pub use switch::{DisableArgs, EnableArgs};

/// What to do with the clients.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a key for a new client, and hand out the device's whole knock.toml
    ///
    /// The client's entry goes into a file of its own in the folder of the clients, which its owner can
    /// write and its group can read. The device's knock.toml, with the key in it, goes to the file that --out names,
    /// for its owner alone, or is printed; it is kept nowhere else.
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// List the clients, without their keys
    #[command(after_help = "Example:\n  knockd client list --json")]
    List,
    /// Show one client, without its keys, and who is in by it
    #[command(after_help = "Example:\n  knockd client show press-17 --json")]
    Show(ShowArgs),
    /// Make a new key for a client, and hand out the device's whole new knock.toml
    ///
    /// The old key stays good for as long as --overlap says, so that the device can have the new one within that
    /// time. A key that somebody else may have is ended at once with --overlap 0s. While an older key is still
    /// good, another rotation is refused: the device may have that one alone.
    #[command(after_help = ROTATE_HELP)]
    Rotate(RotateArgs),
    /// Refuse a client's knocks, and end its live grants
    ///
    /// With --cut, connections end as well that came from where the client was let in of late: by its name 16
    /// addresses are remembered, since the daemon started. Those of others behind the same address end with
    /// them, unless they hold a grant.
    #[command(after_help = "Example:\n  knockd client disable press-17 --cut")]
    Disable(DisableArgs),
    /// Let a client in again that was disabled
    #[command(after_help = "Example:\n  knockd client enable press-17")]
    Enable(EnableArgs),
    /// Remove a client's entry, and end its live grants
    ///
    /// The entries of other clients in the same file stay as they are, to the byte. --cut ends connections as
    /// `knockd client disable` does.
    #[command(after_help = "Example:\n  knockd client remove press-17 --cut")]
    Remove(RemoveArgs),
    /// Bring back a client without a clock that has lost its counter, or whose counter the daemon has lost
    ///
    /// Says from where on the device is to count, and accepts nothing at or below that any more.
    #[command(
        after_help = "Example:\n  knockd client resync press-17\n\nExit status: 65 the client has a clock, 66 no such client, 69 no daemon runs"
    )]
    Resync(ResyncArgs),
    /// Enrol a whole fleet from a table, or none of it if there is a mistake in the table
    ///
    /// FILE is CSV with a line of column names, or JSON lines. The fields are name, services, networks, expires,
    /// address, clock, enabled, key, key-from and key-generation. In CSV, lists have spaces between their values.
    /// A name that is new is added; it needs services, and gets a key if none is given. Of one that is known, the
    /// fields that FILE has are changed to what it says (an empty one to its default), and the key stays unless
    /// another is given. Clients that FILE doesn't name stay as they are.
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Print all clients as a table that `knockd client import` reads, without their keys
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
}

const IMPORT_HELP: &str = "\
Examples:
  knockd client import fleet.csv --profiles profiles --server broker.example.com
  knockd client import fleet.jsonl --into plant-7 --dry-run

A table:
  name,services,networks,expires
  press-17,mqtts,10.3.0.0/16,2027-12-31
  press-18,mqtts admin,,

Exit status: 64 FILE is neither CSV nor JSON lines, 65 a mistake in FILE, 66 no such FILE, 73 something can't be written, \
75 another knockd client is at work, 77 PROFILES is open to others";

const EXPORT_HELP: &str = "\
Examples:
  knockd client export > fleet.csv
  knockd client export --format jsonl | grep press

Exit status: 74 the table can't be written, 78 the configuration is wrong";

const ADD_HELP: &str = "\
Examples:
  knockd client add press-17 --service mqtts --server broker.example.com --out press-17.toml
  knockd client add gate-3 --service mqtts --from 10.3.0.0/16 --expires 2027-12-31

Exit status: 64 no such service, 73 the name is taken or FILE is there, 75 another knockd client is at work";

const ROTATE_HELP: &str = "\
Examples:
  knockd client rotate press-17 --server broker.example.com --out press-17.toml
  knockd client rotate press-17 --overlap 0s --server broker.example.com --out press-17.toml

Exit status: 66 no such client, 73 FILE is there, 75 an older key is still good";

/// Runs one of them.
///
/// # Errors
/// A [`Failure`]: nothing has changed then.
pub fn run(command: &ClientCommand, config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        ClientCommand::Add(args) => add::run(config, args, output),
        ClientCommand::List => list::run(config, output),
        ClientCommand::Show(args) => show::run(config, args, output),
        ClientCommand::Rotate(args) => rotate::run(config, args, output),
        ClientCommand::Disable(args) => switch::disable(config, args, output),
        ClientCommand::Enable(args) => switch::enable(config, args, output),
        ClientCommand::Remove(args) => remove::run(config, args, output),
        ClientCommand::Resync(args) => resync::run(config, args, output),
        ClientCommand::Import(args) => import::run(config, args, output),
        ClientCommand::Export(args) => export::run(config, args, output),
    }
}
