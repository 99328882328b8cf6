//! A command line as a table of options, and the reading of one: what `--help`, the man page and the completions are
//! made of is what is read.
//!
//! The table is our own, since the client is to be small: with clap it would be a quarter larger. lexopt takes the
//! words apart.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};

/// What an option takes, or what a word without one stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing.
    Nothing,
    /// A value, behind a blank or an equals sign.
    Value(&'static str),
    /// A value behind an equals sign, or else this one.
    Perhaps(&'static str, &'static str),
    /// It is no option, but a word that may be left out.
    Word,
    /// All that stands behind `--`.
    Rest,
}

/// One of the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// Its long name without the dashes, its short one if it has no other, or what is shown of a word.
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) help: &'static str,
    /// What it is where it isn't given.
    pub(crate) default: &'static str,
    /// Options that contradict it.
    pub(crate) against: &'static [&'static str],
    /// An option that it is nothing without.
    pub(crate) needs: &'static str,
}

impl Opt {
    /// An option that stands beside any other.
    pub(crate) const fn new(name: &'static str, takes: Takes, help: &'static str) -> Self {
        Self { name, takes, help, default: "", against: &[], needs: "" }
    }

    /// The same with a default.
    pub(crate) const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// The same, contradicted by these.
    pub(crate) const fn against(self, against: &'static [&'static str]) -> Self {
        Self { against, ..self }
    }

    /// The same, and nothing without this one.
    pub(crate) const fn with(self, needs: &'static str) -> Self {
        Self { needs, ..self }
    }

    /// As it stands on a command line.
    fn shown(&self) -> String {
        match self.takes {
            Takes::Word | Takes::Rest => self.name.to_owned(),
            _ if self.name.len() == 1 => format!("-{}", self.name),
            _ => format!("--{}", self.name),
        }
    }

    /// As it stands in the list of `--help`.
    fn listed(&self) -> String {
        let indented =
            if self.name.len() == 1 { self.shown() } else { format!("    {}", self.shown()) };
        match self.takes {
            Takes::Nothing => indented,
            Takes::Value(value) => format!("{indented} <{value}>"),
            Takes::Perhaps(value, _) => format!("{indented}[=<{value}>]"),
            Takes::Word => format!("[{}]", self.name),
            Takes::Rest => format!("[{}]...", self.name),
        }
    }
}

/// A program's command line, or that of one of its commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandLine {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) options: &'static [Opt],
    pub(crate) commands: &'static [CommandLine],
    pub(crate) after_help: &'static str,
}

/// What somebody wants who gives no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    Version,
}

/// How a reading ended.
#[derive(Debug)]
pub(crate) enum Read<'a> {
    /// All of it is read.
    Whole,
    /// A command follows, with the words behind it.
    Command(&'a CommandLine, Parser),
    Asked(Asked),
}

impl CommandLine {
    /// Reads words, and hands each option to `set`, which says what is wrong with its value.
    ///
    /// # Errors
    /// What is wrong with the words.
    pub(crate) fn read(
        &self,
        mut words: Parser,
        set: &mut dyn FnMut(&'static str, OsString) -> Result<(), String>,
    ) -> Result<Read<'_>, String> {
        let mut given: Vec<&Opt> = Vec::new();
        loop {
            // Behind "--" every word is the command's, whatever it looks like.
            if let Some(mut raw) = words.try_raw_args()
                && raw.peek() == Some(OsStr::new("--"))
                && let Some(rest) = self.options.iter().find(|option| option.takes == Takes::Rest)
            {
                raw.next();
                let mut raw = raw.peekable();
                given.extend(raw.peek().map(|_| rest));
                raw.try_for_each(|word| set(rest.name, word))?;
                break;
            }
            let Some(word) = words.next().map_err(|error| error.to_string())? else { break };
            let (shown, word) = match word {
                Arg::Short('h') | Arg::Long("help") => return Ok(Read::Asked(Asked::Help)),
                Arg::Short('V') | Arg::Long("version") => return Ok(Read::Asked(Asked::Version)),
                Arg::Short(short) => (format!("-{short}"), None),
                Arg::Long(long) => (format!("--{long}"), None),
                Arg::Value(word) => (word.to_string_lossy().into_owned(), Some(word)),
            };
            let is_word = word.is_some();
            if is_word && given.is_empty() {
                let command = self.commands.iter().find(|command| command.name == shown);
                if let Some(command) = command {
                    return Ok(Read::Command(command, words));
                }
            }
            let is_it = |option: &&Opt| match option.takes {
                Takes::Word => is_word,
                Takes::Rest => false,
                _ => !is_word && option.shown() == shown,
            };
            let unexpected = || format!("unexpected argument '{shown}' found");
            let option = self.options.iter().find(is_it).ok_or_else(unexpected)?;
            if given.iter().any(|other| other.name == option.name) {
                return Err(match option.takes {
                    Takes::Word => unexpected(),
                    _ => format!("{shown} is given more than once"),
                });
            }
            let value = match (option.takes, word) {
                (Takes::Word, Some(word)) => word,
                (Takes::Value(value), _) => words
                    .value()
                    .map_err(|_| format!("{shown} needs a value: {shown} <{value}>"))?,
                (Takes::Perhaps(_, missing), _) => {
                    words.optional_value().unwrap_or_else(|| missing.into())
                }
                _ => OsString::new(),
            };
            set(option.name, value).map_err(|error| format!("{}: {error}", option.shown()))?;
            given.push(option);
        }
        self.check(&given).map(|()| Read::Whole)
    }

    /// Whether those that are given go together.
    fn check(&self, given: &[&Opt]) -> Result<(), String> {
        let is_given = |name: &str| given.iter().any(|option| option.name == name);
        for option in given {
            if let Some(other) = given.iter().find(|other| option.against.contains(&other.name)) {
                return Err(format!("{} can't be used with {}", option.shown(), other.shown()));
            }
            if let Some(needed) = self.options.iter().find(|it| it.name == option.needs)
                && !is_given(needed.name)
            {
                return Err(format!("{} needs {}", option.shown(), needed.shown()));
            }
        }
        Ok(())
    }

    /// What `--help` shows.
    pub(crate) fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage: {}\n", self.about, self.usage);
        if !self.commands.is_empty() {
            text.push_str("\nCommands:\n");
            for command in self.commands {
                text.push_str(&format!("  {}  {}\n", command.name, command.about));
            }
        }
        let is_word = |option: &&Opt| matches!(option.takes, Takes::Word | Takes::Rest);
        text.push_str("\nArguments:\n");
        for option in self.options.iter().filter(is_word) {
            list(&mut text, &option.listed(), option.help);
        }
        text.push_str("\nOptions:\n");
        for option in self.options.iter().filter(|option| !is_word(option)) {
            let help = match option.default {
                "" => option.help.to_owned(),
                default => format!("{} [default: {default}]", option.help),
            };
            list(&mut text, &option.listed(), &help);
        }
        list(&mut text, "-h, --help", "Print help");
        if !self.commands.is_empty() {
            list(&mut text, "-V, --version", "Print version");
        }
        format!("{text}\n{}\n", self.after_help)
    }
}

/// The column of the helps, wide enough for most of the options.
const COLUMN: usize = 28;

fn list(text: &mut String, listed: &str, help: &str) {
    if listed.len() < COLUMN {
        text.push_str(&format!("  {listed:<COLUMN$}{help}\n"));
    } else {
        text.push_str(&format!("  {listed}\n  {:COLUMN$}{help}\n", ""));
    }
}

/// The same command line for whoever makes its man page and its completions.
#[cfg(feature = "clap")]
impl From<CommandLine> for clap::Command {
    fn from(line: CommandLine) -> Self {
        let mut command = Self::new(line.name)
            .about(line.about)
            .after_help(line.after_help)
            .args(line.options.iter().map(clap_arg))
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true);
        if line.name == "knock" {
            command = command.version(env!("CARGO_PKG_VERSION"));
        }
        command.subcommands(line.commands.iter().copied().map(Self::from))
    }
}

#[cfg(feature = "clap")]
fn clap_arg(option: &Opt) -> clap::Arg {
    let arg = clap::Arg::new(option.name).help(option.help);
    let arg = match option.takes {
        Takes::Word => return arg.value_name(option.name),
        Takes::Rest => return arg.value_name(option.name).num_args(1..).last(true),
        Takes::Nothing => arg.action(clap::ArgAction::SetTrue),
        Takes::Value(value) => arg.value_name(value),
        Takes::Perhaps(value, missing) => arg
            .value_name(value)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(missing),
    };
    let arg = match option.name.chars().next() {
        Some(short) if option.name.len() == 1 => arg.short(short),
        _ => arg.long(option.name),
    };
    if option.default.is_empty() { arg } else { arg.default_value(option.default) }
}
