//! One file per subcommand, and what they share: how a command fails, and how it answers.
//!
//! A command answers on stdout, for people or (`--json`) for machines, and says on stderr what happens
//! next. It fails with a [`Failure`]: an exit code of sysexits.h, and a message that says what to do.

use std::{fmt, process::ExitCode};

mod ask;
pub mod bans;
pub mod check;
pub mod client;
pub mod doctor;
mod fallback;
pub mod firewall;
pub mod grants;
pub mod moment;
mod output;
pub mod reload;
pub mod revoke;
pub mod run;
pub mod status;
#[cfg(test)]
pub(crate) mod test_support;

pub use output::{Format, Output, file_mode};

/// How a command ends when it fails: the codes of sysexits.h, in its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// EX_USAGE: the command line is wrong.
    Usage = 64,
    /// EX_DATAERR: what was given to read isn't as it must be.
    DataErr = 65,
    /// EX_NOINPUT: what was named doesn't exist: a file, a client.
    NoInput = 66,
    /// EX_NOHOST: a host's name is unknown.
    NoHost = 68,
    /// EX_UNAVAILABLE: what is needed isn't there, or doesn't answer.
    Unavailable = 69,
    /// EX_SOFTWARE: a fault of this program.
    Software = 70,
    /// EX_OSERR: the operating system refused.
    OsErr = 71,
    /// EX_CANTCREAT: what was to be made can't be, or exists already.
    CantCreat = 73,
    /// EX_IOERR: reading or writing failed.
    IoErr = 74,
    /// EX_TEMPFAIL: not now; the same command can succeed later.
    TempFail = 75,
    /// EX_NOPERM: a permission is missing, or there are too many of them on a file.
    NoPerm = 77,
    /// EX_CONFIG: the configuration is wrong.
    Config = 78,
}

impl Exit {
    /// The exit status.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ended without having done what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What is wrong, and what to do about it: for stderr. It may have several lines.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
