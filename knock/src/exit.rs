//! How a run ends: every failure, and the exit code that tells a script what kind it was.

use std::process::ExitCode;

/// The exit codes, from sysexits.h where it has one. They are listed in `knock --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Sent, or with `--wait` open.
    Ok = 0,
    /// `EX_USAGE`: the command line is wrong. The network was not touched.
    Usage = 64,
    /// `EX_NOHOST`: the server's name has no address that can be used.
    NoHost = 68,
    /// `EX_UNAVAILABLE`: nothing could be sent, or the port did not open in time.
    Unavailable = 69,
    /// `EX_OSERR`: the system gave no randomness or no socket.
    System = 71,
    /// `EX_CANTCREAT`: a file is there already, or can't be made.
    CantCreate = 73,
    /// `EX_IOERR`: the output could not be written.
    Io = 74,
    /// `EX_TEMPFAIL`: no reply came in time.
    NoReply = 75,
    /// `EX_NOPERM`: a file with a key is open to others, or may not be read.
    Permission = 77,
    /// `EX_CONFIG`: a profile or a key is missing or wrong.
    Config = 78,
    /// As env(1) has it: the command is there and can't be run.
    NotExecutable = 126,
    /// As env(1) has it: there is no such command.
    NotFound = 127,
}

impl Code {
    /// The number that the process ends with.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// Why a run failed. The text says what is wrong and what to do; it never holds a key or a part of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A profile or a key is missing or wrong.
    #[error("{0}")]
    Config(String),
    /// The server's name has no address that can be used.
    #[error("{0}")]
    NoHost(String),
    /// Not one datagram could be sent.
    #[error("nothing could be sent: {0}")]
    NotSent(String),
    /// `--wait` ran out.
    #[error("{0}")]
    NotOpen(String),
    /// `--reply` ran out.
    #[error("{0}")]
    NoReply(String),
    /// A file with a key is open to others, or may not be read.
    #[error("{0}")]
    Permission(String),
    /// The system gave no randomness or no socket.
    #[error("{0}")]
    System(String),
    /// A file is there already, or can't be made.
    #[error("{0}")]
    CantCreate(String),
    /// The output could not be written.
    #[error("the output can't be written: {0}")]
    Output(#[from] std::io::Error),
    /// The command is there and can't be run.
    #[error("{0}")]
    NotExecutable(String),
    /// There is no such command.
    #[error("{0}")]
    NotFound(String),
}

impl Error {
    /// Whether it makes sense to try again without anybody's doing.
    pub(crate) const fn may_pass(&self) -> bool {
        match self {
            Self::NoHost(_)
            | Self::NotSent(_)
            | Self::NotOpen(_)
            | Self::NoReply(_)
            | Self::System(_) => true,
            Self::Usage(_)
            | Self::Output(_)
            | Self::Config(_)
            | Self::Permission(_)
            | Self::CantCreate(_)
            | Self::NotExecutable(_)
            | Self::NotFound(_) => false,
        }
    }

    /// The exit code for this kind of failure.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Usage(_) => Code::Usage,
            Self::Config(_) => Code::Config,
            Self::NoHost(_) => Code::NoHost,
            Self::NotSent(_) | Self::NotOpen(_) => Code::Unavailable,
            Self::NoReply(_) => Code::NoReply,
            Self::Permission(_) => Code::Permission,
            Self::System(_) => Code::System,
            Self::CantCreate(_) => Code::CantCreate,
            Self::Output(_) => Code::Io,
            Self::NotExecutable(_) => Code::NotExecutable,
            Self::NotFound(_) => Code::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_ends_with_the_number_that_sysexits_or_env_has_for_it_and_may_pass_or_not() {
        let text = String::new;
        for (error, number, may_pass) in [
            (Error::Usage(text()), 64, false),
            (Error::NoHost(text()), 68, true),
            (Error::NotSent(text()), 69, true),
            (Error::NotOpen(text()), 69, true),
            (Error::System(text()), 71, true),
            (Error::CantCreate(text()), 73, false),
            (Error::Output(std::io::Error::other("full")), 74, false),
            (Error::NoReply(text()), 75, true),
            (Error::Permission(text()), 77, false),
            (Error::Config(text()), 78, false),
            (Error::NotExecutable(text()), 126, false),
            (Error::NotFound(text()), 127, false),
        ] {
            assert_eq!(error.code().number(), number, "{error:?}");
            assert_eq!(error.may_pass(), may_pass, "{error:?}");
        }
        assert_eq!(Code::Ok.number(), 0);
    }
}
