//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    commands::{
        bans::{BanArgs, UnbanArgs},
        check::CheckArgs,
        client::ClientCommand,
        doctor::DoctorArgs,
        firewall::FirewallCommand,
        revoke::RevokeArgs,
    },
    config::DEFAULT_PATH,
};

/// Opens a port for one address, for a while, on a single authorization packet
#[derive(Debug, Parser)]
#[command(name = "knockd", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,

    /// Answer in JSON, on stdout
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground: receive knocks, open and close doors
    #[command(
        after_help = "Example:\n  knockd --config ./knockd.toml run\n\nEvents go to the journal under systemd, to stderr otherwise;\nKNOCKD_LOG=error|warn|info|debug says how much is told."
    )]
    Run,
    /// Say whether the configuration is sound: every mistake in one run
    Check(CheckArgs),
    /// Say why a knock would not let a device in on this host, and how to mend it
    Doctor(DoctorArgs),
    /// Enrol a client, list them, change or remove one
    #[command(subcommand)]
    Client(ClientCommand),
    /// Print, install, inspect or remove the table in the kernel
    #[command(
        subcommand,
        after_help = "Example:\n  knockd firewall install && knockd firewall status"
    )]
    Firewall(FirewallCommand),
    /// List who is in, for what, for how long yet
    #[command(after_help = "Example:\n  knockd grants --json")]
    Grants,
    /// List who is banned, by whom, why, for how long yet
    #[command(after_help = "Example:\n  knockd bans --json")]
    Bans,
    /// Ban an address: end its grants and connections, and refuse its knocks
    Ban(BanArgs),
    /// Lift a ban, whoever made it
    Unban(UnbanArgs),
    /// End the live grants of a client or an address
    Revoke(RevokeArgs),
    /// Have the running daemon apply a changed configuration, and wait until it is in force
    ///
    /// Clients, services, who needs no knock, limits, bans, the prefilter and clock-skew take effect at once,
    /// without ending a live grant, a ban or a remembered packet; grants end that no entry allows any more.
    /// listen, clients, state, control, realm and the metrics take effect when the daemon is restarted. If
    /// anything is wrong, in any file, nothing is applied: every mistake is told, and the exit status is 78.
    #[command(after_help = "Example:\n  knockd check && knockd reload")]
    Reload,
    /// Say how the running daemon is: grants, bans, what it has decided so far
    #[command(after_help = "Example:\n  knockd status --json")]
    Status,
}

const AFTER_HELP: &str = "\
Examples:
  knockd check
  knockd doctor
  knockd client add press-17 --service mqtts --server broker.example.com --out press-17.toml
  knockd firewall install
  knockd grants
  knockd ban 198.51.100.7 --for 2d

Exit status (sysexits.h):
  0   done                          70  a fault of this program
  64  wrong command line            71  the operating system refused
  65  wrong data                    73  can't be made, or exists already
  66  what was named isn't there    74  reading or writing failed
  69  the table isn't whole, nft    75  not while a daemon runs
      failed, no daemon runs, or    77  permissions of a file
      the doctor found a fault      78  wrong configuration";
