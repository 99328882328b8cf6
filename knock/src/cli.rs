//! The command line, as it is read and as `--help` shows it.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    num::NonZeroU8,
    path::PathBuf,
    str::FromStr,
};

use common::ServiceName;

use crate::{
    duration::{Seconds, Span},
    endpoint::{AddressChoice, Server, ServicePort},
    keygen::KeygenArgs,
    options::{
        Asked, CommandLine, Opt, Read,
        Takes::{Nothing, Perhaps, Rest, Value, Word},
    },
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
  74  no: the output could not be written; what was to be sent was sent
  75  again: no reply came in time (--keep goes on by itself)
  77  no: a file with a key is open to others, or a file may not be read or written, as in a unit that keeps it away
  78  no: a profile, a key or a counter is missing or wrong
  126, 127  no: COMMAND can't be run, or isn't there; otherwise the exit status is COMMAND's,
            or with --keep 128 and the number of the signal that ended COMMAND, or knock before it ran.
            Ended by a signal that can't be caught (137: SIGKILL, also for want of memory): again";

/// What stands below the options in `knock keygen --help`.
const KEYGEN_HELP: &str = "\
Examples:
  knock keygen                                          a random key
  knock keygen --out master.key                         one for a factory's master key, in a file of its own
  knock keygen --master master.key press-17             the key of the client press-17, without a network
  knock keygen --master master.key press-17 --generation 2    the one after it, as key-generation = 2 in its entry

Exit codes: 64 the command line is wrong, 73 the file is there already or can't be made, 77 a file with a key is open
to others, 78 the master key is wrong";

/// The program's own.
const KNOCK: CommandLine = CommandLine {
    name: "knock",
    about: "Opens a door: sends one sealed datagram to each address of a server that runs knockd",
    usage: "knock [OPTIONS] [PROFILE] [-- COMMAND...]\n       knock keygen [OPTIONS] [NAME]",
    options: &[
        Opt::new("PROFILE", Word, "Profile to use; may be left out where there is only one"),
        Opt::new("COMMAND", Rest, "Command to run after sending, or once the port is open with --wait; it takes knock's place (with --keep: a child)"),
        Opt::new("wait", Perhaps("TIME", "10s"), "Wait until the service's port accepts a connection, for at most TIME (10s if left out); of a port of UDP nothing can be known"),
        Opt::new("reply", Perhaps("TIME", "5s"), "Ask for a reply, and wait for it for at most TIME (5s if left out), sending again meanwhile; the server has to have replies on. With --keep, replies say how long the grants are, and the port isn't probed"),
        Opt::new("keep", Nothing, "Keep the door open: knock again before the grant ends and whenever the network changes, until a signal or COMMAND's end")
            .against(&["close", "dry-run", "repeat"]),
        Opt::new("notify", Value("started|open"), "With --keep, what the service manager is told as the start: that it is knocking, or that the door is open")
            .or("started")
            .with("keep"),
        Opt::new("check", Nothing, "Go the way of a knock leg by leg (profile, clock, name, route, address, knock, reply, door) and say which one fails; with --dry-run without sending anything")
            .against(&["keep", "close", "reply", "repeat", "COMMAND"]),
        Opt::new("port", Value("PORT"), "Port that --wait, --keep and --check probe, such as tcp/8883"),
        Opt::new("close", Nothing, "Close the door instead: end this device's own grant")
            .against(&["wait", "open-for"]),
        Opt::new("open-for", Value("TIME"), "How long the door is to stay open, such as 60s; the server caps it"),
        Opt::new("service", Value("NAME"), "Service to open; without one, every service that this device may open"),
        Opt::new("address", Value("ADDRESS"), "Address to open for: auto (the local one towards the server), observed (the one that the server sees), or an IP address"),
        Opt::new("repeat", Value("N"), "Packets to send to each address, every one fresh, 1 to 100").or("1"),
        Opt::new("4", Nothing, "Send to IPv4 addresses only").against(&["6"]),
        Opt::new("6", Nothing, "Send to IPv6 addresses only"),
        Opt::new("server", Value("HOST[:PORT]"), "Server that runs knockd; the port is 62201 if left out"),
        Opt::new("key-file", Value("FILE"), "File with the key in base64, readable by its owner alone"),
        Opt::new("realm", Value("REALM"), "Realm of the server, where it has one"),
        Opt::new("counter-file", Value("FILE"), "File with the number of the last packet, of a device without a clock"),
        Opt::new("set-counter", Value("N"), "Begin that file, or set it to what `knockd client resync` says; send nothing")
            .against(&["COMMAND", "wait", "keep", "reply", "close", "open-for", "dry-run", "check"]),
        Opt::new("config", Value("FILE"), "Read the profiles from this file alone"),
        Opt::new("dry-run", Nothing, "Show the datagrams and what is in them, never the key, and send nothing; a datagram shown is valid: don't pass it on"),
        Opt::new("json", Nothing, "Print one JSON object instead of text, also on failure; with --keep, one for each event"),
        Opt::new("quiet", Nothing, "Print nothing but errors").against(&["json", "dry-run", "check"]),
    ],
    commands: &[KEYGEN],
    after_help: AFTER_HELP,
};

/// Of what has no profile, and needs no server.
const KEYGEN: CommandLine = CommandLine {
    name: "keygen",
    about: "Make a key, random or derived of a master key, offline",
    usage: "knock keygen [OPTIONS] [NAME]",
    options: &[
        Opt::new("NAME", Word, "Name of the client whose key it is to be").with("master"),
        Opt::new("master", Value("FILE"), "File with the master key that the client's is derived from, readable by its owner alone")
            .with("NAME"),
        Opt::new("generation", Value("N"), "Which of the client's derived keys: 1, and more when one had to be replaced")
            .or("1")
            .with("master"),
        Opt::new("out", Value("FILE"), "Write the key to this new file, for its owner alone, instead of showing it"),
        Opt::new("json", Nothing, "Print one JSON object instead of text"),
    ],
    commands: &[],
    after_help: KEYGEN_HELP,
};

/// What a command line says.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) profile: Option<ProfileName>,
    pub(crate) command: Vec<OsString>,
    pub(crate) wait: Option<Span>,
    pub(crate) reply: Option<Span>,
    pub(crate) keep: bool,
    pub(crate) notify: Notify,
    pub(crate) check: bool,
    pub(crate) port: Option<ServicePort>,
    pub(crate) close: bool,
    pub(crate) open_for: Option<Seconds>,
    pub(crate) service: Option<ServiceName>,
    pub(crate) address: Option<AddressChoice>,
    pub(crate) repeat: Repeat,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) server: Option<Server>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) realm: Option<String>,
    pub(crate) counter_file: Option<PathBuf>,
    pub(crate) set_counter: Option<u64>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

/// What somebody wants who has called this program.
#[derive(Debug)]
pub(crate) enum Order {
    Knock(Box<Args>),
    Keygen(KeygenArgs),
    /// A text to be shown.
    Tell(String),
}

/// A command line that is none.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What is wrong with it.
    pub(crate) message: String,
    /// How it is written.
    pub(crate) usage: &'static str,
}

/// Reads a command line, without the program's name.
pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Order, Refused> {
    let parser = lexopt::Parser::from_args(words);
    let mut args = Args::default();
    let read = KNOCK.read(parser, &mut |name, value| args.set(name, value));
    match read.map_err(|message| Refused { message, usage: KNOCK.usage })? {
        Read::Whole => Ok(Order::Knock(Box::new(args))),
        Read::Asked(asked) => Ok(Order::Tell(answer(&KNOCK, asked))),
        Read::Command(line, parser) => {
            let mut args = KeygenArgs::default();
            let read = line.read(parser, &mut |name, value| args.set(name, value));
            match read.map_err(|message| Refused { message, usage: KEYGEN.usage })? {
                Read::Asked(asked) => Ok(Order::Tell(answer(line, asked))),
                Read::Whole | Read::Command(..) => Ok(Order::Keygen(args)),
            }
        }
    }
}

fn answer(line: &CommandLine, asked: Asked) -> String {
    match asked {
        Asked::Help => line.help(),
        Asked::Version => concat!("knock ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
    }
}

/// The command line, for whoever makes its man page and its completions.
#[cfg(feature = "clap")]
#[must_use]
pub fn command_line() -> clap::Command {
    KNOCK.into()
}

impl Args {
    /// Takes an option's value.
    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        match name {
            "PROFILE" => self.profile = Some(parsed(&value)?),
            "COMMAND" => self.command.push(value),
            "wait" => self.wait = Some(parsed(&value)?),
            "reply" => self.reply = Some(parsed(&value)?),
            "keep" => self.keep = true,
            "notify" => self.notify = parsed(&value)?,
            "check" => self.check = true,
            "port" => self.port = Some(parsed(&value)?),
            "close" => self.close = true,
            "open-for" => self.open_for = Some(parsed(&value)?),
            "service" => self.service = Some(parsed(&value)?),
            "address" => self.address = Some(parsed(&value)?),
            "repeat" => self.repeat = parsed(&value)?,
            "4" => self.ipv4 = true,
            "6" => self.ipv6 = true,
            "server" => self.server = Some(parsed(&value)?),
            "key-file" => self.key_file = Some(value.into()),
            "realm" => self.realm = Some(parsed(&value)?),
            "counter-file" => self.counter_file = Some(value.into()),
            "set-counter" => self.set_counter = Some(parsed(&value)?),
            "config" => self.config = Some(value.into()),
            "dry-run" => self.dry_run = true,
            "json" => self.json = true,
            "quiet" => self.quiet = true,
            _ => return Err("nobody takes it: a fault of knock".to_owned()),
        }
        Ok(())
    }
}

impl KeygenArgs {
    /// Takes an option's value.
    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        match name {
            "NAME" => self.name = Some(parsed(&value)?),
            "master" => self.master = Some(value.into()),
            "generation" => self.generation = parsed(&value)?,
            "out" => self.out = Some(value.into()),
            "json" => self.json = true,
            _ => return Err("nobody takes it: a fault of knock".to_owned()),
        }
        Ok(())
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(value: &OsStr) -> Result<T, String> {
    let text = value.to_str().ok_or("it isn't UTF-8 text")?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// What `--keep` tells the service manager as its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Notify {
    /// That it is knocking.
    #[default]
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

impl Default for Repeat {
    fn default() -> Self {
        Self(NonZeroU8::MIN)
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
    use super::*;

    fn read_line(line: &[&str]) -> Result<Order, String> {
        read(line.iter().map(OsString::from)).map_err(|refused| refused.message)
    }

    fn args(line: &[&str]) -> Result<Args, String> {
        match read_line(line)? {
            Order::Knock(args) => Ok(*args),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn every_option_of_the_table_is_taken_and_contradicts_and_needs_what_there_is() {
        for line in [KNOCK, KEYGEN] {
            for option in line.options {
                let nobody = "nobody takes it";
                let set = |name, value: &str| match line.name {
                    "knock" => Args::default().set(name, value.into()),
                    _ => KeygenArgs::default().set(name, value.into()),
                };
                let refused = set(option.name, "1").err();
                assert!(!refused.is_some_and(|error| error.contains(nobody)), "{}", option.name);
                for other in
                    option.against.iter().chain([&option.needs]).filter(|it| !it.is_empty())
                {
                    assert!(line.options.iter().any(|it| it.name == *other), "{other}");
                }
                if !option.default.is_empty() {
                    assert_eq!(set(option.name, option.default), Ok(()), "{}", option.name);
                }
            }
        }
        assert_eq!(Args::default().repeat, "1".parse().unwrap());
        assert_eq!(Args::default().notify, "started".parse().unwrap());
    }

    #[test]
    fn wait_takes_its_time_with_an_equals_sign_only_and_10s_without() {
        let wait = |line: &[&str]| args(line).map(|args| args.wait);
        assert_eq!(wait(&[]).unwrap(), None);
        assert_eq!(wait(&["--wait"]).unwrap(), "10s".parse().ok());
        assert_eq!(wait(&["--wait=3s"]).unwrap(), "3s".parse().ok());
        let args = args(&["--wait", "broker"]).unwrap();
        assert_eq!(args.profile, "broker".parse().ok());
        assert!(wait(&["--wait="]).is_err());
        assert!(wait(&["--wait=3"]).is_err());
    }

    #[test]
    fn what_follows_two_dashes_is_the_command_with_or_without_a_profile() {
        let one = args(&["--", "echo", "--json", "--", "-h"]).unwrap();
        assert_eq!((one.profile, one.json), (None, false));
        assert_eq!(one.command, ["echo", "--json", "--", "-h"]);
        let other = args(&["broker", "--", "true"]).unwrap();
        assert_eq!((other.profile, other.command.len()), ("broker".parse().ok(), 1));
        assert!(args(&["--"]).unwrap().command.is_empty());
        assert_eq!(args(&["--", "keygen"]).unwrap().command, ["keygen"]);
    }

    #[test]
    fn options_that_contradict_each_other_or_lack_another_are_refused() {
        for line in [
            &["-4", "-6"][..],
            &["-64"],
            &["--close", "--wait"],
            &["--close", "--open-for=1s"],
            &["--quiet", "--json"],
            &["--quiet", "--dry-run"],
            &["--check", "--", "true"],
            &["--notify=open"],
            &["--keep", "--notify=later"],
            &["--json", "--json"],
            &["--json=1"],
            &["--port"],
            &["--frob"],
            &["-x"],
            &["a", "b"],
            &["keygen", "press-17"],
            &["keygen", "--master=x"],
            &["keygen", "--wait"],
        ] {
            assert!(read_line(line).is_err(), "{line:?}");
        }
        assert!(args(&["--keep", "--reply", "--notify", "open"]).is_ok());
        assert!(args(&["-4", "--repeat=1", "x"]).is_ok());
    }

    #[test]
    fn a_command_of_its_own_stands_first_and_help_and_version_are_told() {
        let Ok(Order::Keygen(keygen)) = read_line(&["keygen", "--json", "--out", "x"]) else {
            panic!()
        };
        assert_eq!((keygen.json, keygen.generation.get()), (true, 1));
        for (line, part) in [
            (&["--help"][..], "--wait[=<TIME>]"),
            (&["-h"], "[PROFILE]"),
            (&["keygen", "--help"], "--generation <N>"),
            (&["--version"], "knock "),
            (&["broker", "-V"], "knock "),
        ] {
            let Ok(Order::Tell(text)) = read_line(line) else { panic!("{line:?}") };
            assert!(text.contains(part) && text.ends_with('\n'), "{text}");
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

    #[cfg(feature = "clap")]
    #[test]
    fn the_definition_for_pages_is_sound() {
        command_line().debug_assert();
    }
}
