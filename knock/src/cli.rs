//! The command line, as clap reads it and as `--help` shows it.

use std::{ffi::OsString, num::NonZeroU8, path::PathBuf, str::FromStr};

use common::ServiceName;

use crate::{
    duration::{Seconds, Span},
    endpoint::{AddressChoice, Server, ServicePort},
    keygen::KeygenArgs,
    profile::ProfileName,
};

/// What stands below the options in `--help`.
const AFTER_HELP: &str = "\
Profiles are read from /etc/knock/knock.toml and from knock/knock.toml in the user's config directory
($XDG_CONFIG_HOME or ~/.config); of two with the same name, the user's counts. Flags override them, and
are enough without any. `knockd client add NAME …` on the broker's host prints a profile.

Environment:
  KNOCK_KEY_FILE  the file with the key, where neither --key-file nor the profile says where the key is
  COMMAND has KNOCK_HOST and KNOCK_ADDRESS, the server's name and the address at which the door is open, and KNOCK_PORT,
  the service's port; {host} and {address} in its arguments stand for the same

Examples:
  knock                                     open what the only profile names
  knock broker --wait                       and return as soon as the port is open
  knock broker --wait -- mosquitto_pub -h {host} -p 8883 -t a -m b
  knock broker --close                      shut it again
  knock broker --reply                      and say until when it is open, and for which address
  knock --keep broker                       keep it open until SIGTERM, from networks that come and go
  knock --keep broker -- mosquitto_sub -h {host} -p 8883 -t a
  knock broker --check                      say which leg fails, where nothing opens
  knock --server broker.example.com --key-file /etc/knock/key --service mqtts --port tcp/8883 --wait=5s
  knock broker --dry-run                    show the datagram and what is in it, and send nothing

Exit codes, and whether it makes sense to try again without anybody's doing:
  0   sent; with --wait: open; with --reply: there is one; with --keep: ended by SIGTERM or SIGINT, and closed
  64  no: the command line is wrong; nothing was sent
  68  again: the server's name has no address that can be used (--keep goes on by itself)
  69  again: nothing could be sent, or the port did not open in time (--keep goes on by itself)
  71  again: the system gave no randomness or no socket, or the counter can't be written
  73  no: a new key's file is there already, or can't be made
  74  again: the output could not be written
  75  again: no reply came in time (--keep goes on by itself)
  77  no: a file with a key is open to others, or a file may not be read or written, as in a unit that keeps it away
  78  no: a profile, a key or a counter is missing or wrong
  126, 127  no: COMMAND can't be run, or isn't there; otherwise the exit status is COMMAND's,
            or with --keep 128 and the number of the signal that ended COMMAND, or knock before it ran.
            Ended by a signal that can't be caught (137: SIGKILL, also for want of memory): again";

/// Opens a door: sends one sealed datagram to each address of a server that runs knockd
#[derive(Debug, clap::Parser)]
#[command(
    name = "knock",
    version,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Args {
    /// What else there is to do
    #[command(subcommand)]
    pub(crate) tool: Option<Tool>,

    /// Profile to use; may be left out where there is only one
    #[arg(value_name = "PROFILE")]
    pub(crate) profile: Option<ProfileName>,

    /// Command to run after sending, or once the port is open with --wait; it takes knock's place (with --keep: a child)
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// Wait until the service's port accepts a connection, for at most TIME (10s if left out); of a port of UDP nothing
    /// can be known
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10s"
    )]
    pub(crate) wait: Option<Span>,

    /// Ask for a reply, and wait for it for at most TIME (5s if left out), sending again meanwhile; the server has to
    /// have replies on. With --keep, replies say how long the grants are, and the port isn't probed
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "5s"
    )]
    pub(crate) reply: Option<Span>,

    /// Keep the door open: knock again before the grant ends and whenever the network changes, until a signal or COMMAND's end
    #[arg(long, conflicts_with_all = ["close", "dry_run", "repeat"])]
    pub(crate) keep: bool,

    /// With --keep, what the service manager is told as the start: that it is knocking, or that the door is open
    #[arg(long, value_name = "started|open", default_value = "started", requires = "keep")]
    pub(crate) notify: Notify,

    /// Go the way of a knock leg by leg (profile, clock, name, route, address, knock, door) and say which one fails;
    /// with --dry-run without sending anything
    #[arg(long, conflicts_with_all = ["keep", "close", "reply", "repeat", "command"])]
    pub(crate) check: bool,

    /// Port that --wait, --keep and --check probe, such as tcp/8883
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<ServicePort>,

    /// Close the door instead: end this device's own grant
    #[arg(long, conflicts_with_all = ["wait", "open_for"])]
    pub(crate) close: bool,

    /// How long the door is to stay open, such as 60s; the server caps it
    #[arg(long, value_name = "TIME")]
    pub(crate) open_for: Option<Seconds>,

    /// Service to open; without one, every service that this device may open
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<ServiceName>,

    /// Address to open for: auto (the local one towards the server), observed (the one that the server sees), or an IP address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<AddressChoice>,

    /// Packets to send to each address, every one fresh, 1 to 100
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) repeat: Repeat,

    /// Send to IPv4 addresses only
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,

    /// Send to IPv6 addresses only
    #[arg(short = '6')]
    pub(crate) ipv6: bool,

    /// Server that runs knockd; the port is 62201 if left out
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) server: Option<Server>,

    /// File with the key in base64, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Realm of the server, where it has one
    #[arg(long, value_name = "REALM")]
    pub(crate) realm: Option<String>,

    /// File with the number of the last packet, of a device without a clock
    #[arg(long, value_name = "FILE")]
    pub(crate) counter_file: Option<PathBuf>,

    /// Begin that file, or set it to what `knockd client resync` says; send nothing
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["command", "wait", "keep", "reply", "close", "open_for", "dry_run", "check"]
    )]
    pub(crate) set_counter: Option<u64>,

    /// Read the profiles from this file alone
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Show the datagrams and what is in them, never the key, and send nothing; a datagram shown is valid: don't pass it on
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print one JSON object instead of text, also on failure; with --keep, one for each event
    #[arg(long)]
    pub(crate) json: bool,

    /// Print nothing but errors
    #[arg(long, conflicts_with_all = ["json", "dry_run", "check"])]
    pub(crate) quiet: bool,
}

/// What has no profile, and needs no server.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Tool {
    /// Make a key, random or derived of a master key, offline
    Keygen(KeygenArgs),
}

/// The command line, for whoever makes its man page and its completions.
#[must_use]
pub fn command_line() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// What `--keep` tells the service manager as its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// That it is knocking.
    Started,
    /// That the door is open.
    Open,
}

/// Something else than what the service manager can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is started, or open")]
pub(crate) struct InvalidNotify;

impl FromStr for Notify {
    type Err = InvalidNotify;

    fn from_str(text: &str) -> Result<Self, InvalidNotify> {
        match text {
            "started" => Ok(Self::Started),
            "open" => Ok(Self::Open),
            _ => Err(InvalidNotify),
        }
    }
}

/// How many packets go to each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat(NonZeroU8);

/// Something else than a number of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number of packets is from 1 to 100")]
pub(crate) struct InvalidRepeat;

impl Repeat {
    /// The number of packets.
    pub(crate) const fn number(self) -> u8 {
        self.0.get()
    }
}

impl FromStr for Repeat {
    type Err = InvalidRepeat;

    fn from_str(text: &str) -> Result<Self, InvalidRepeat> {
        let number: NonZeroU8 = text.parse().map_err(|_| InvalidRepeat)?;
        if number.get() <= 100 { Ok(Self(number)) } else { Err(InvalidRepeat) }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn wait_takes_its_time_with_an_equals_sign_only_and_10s_without() {
        let wait = |line: &[&str]| Args::try_parse_from(line).map(|args| args.wait);
        assert_eq!(wait(&["knock"]).unwrap(), None);
        assert_eq!(wait(&["knock", "--wait"]).unwrap(), "10s".parse().ok());
        assert_eq!(wait(&["knock", "--wait=3s"]).unwrap(), "3s".parse().ok());
        let args = Args::try_parse_from(["knock", "--wait", "broker"]).unwrap();
        assert_eq!(args.profile, "broker".parse().ok());
        assert!(wait(&["knock", "--wait="]).is_err());
        assert!(wait(&["knock", "--wait=3"]).is_err());
    }

    #[test]
    fn what_follows_two_dashes_is_the_command_with_or_without_a_profile() {
        let args = Args::try_parse_from(["knock", "--", "echo", "--json", "--"]).unwrap();
        assert_eq!((args.profile, args.json), (None, false));
        assert_eq!(args.command, ["echo", "--json", "--"]);
        let args = Args::try_parse_from(["knock", "broker", "--", "true"]).unwrap();
        assert_eq!(args.profile, "broker".parse().ok());
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for line in [
            ["-4", "-6"],
            ["--close", "--wait"],
            ["--close", "--open-for=1s"],
            ["--quiet", "--json"],
            ["--quiet", "--dry-run"],
        ] {
            assert!(Args::try_parse_from(["knock"].iter().chain(&line)).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_number_of_packets_is_from_1_to_100() {
        for (text, number) in [("1", 1), ("100", 100)] {
            assert_eq!(text.parse::<Repeat>().map(Repeat::number), Ok(number));
        }
        for bad in ["", "0", "101", "256", "-1", "x"] {
            assert_eq!(bad.parse::<Repeat>(), Err(InvalidRepeat), "{bad:?}");
        }
    }
}
