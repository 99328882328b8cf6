//! The two ways out: standard output for answers, standard error for what is wrong.

use std::{
    ffi::OsString,
    io::{self, Write as _},
};

use crate::{cli::Args, exit::Error, report::Report};

/// What standard output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Lines for people, as things happen.
    Text,
    /// One object for machines, at the end.
    Json,
    /// Nothing.
    Quiet,
}

impl Output {
    /// As the flags say.
    pub(crate) const fn of(args: &Args) -> Self {
        match (args.json, args.quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Quiet,
            (false, false) => Self::Text,
        }
    }

    /// As a command line says that clap refused; what follows "--" is the command's.
    pub(crate) fn of_refused(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut own = arguments.take_while(|argument| argument != "--");
        if own.any(|argument| argument == "--json") { Self::Json } else { Self::Text }
    }

    /// Tells people what happened.
    pub(crate) fn tell(self, text: &str) -> Result<(), Error> {
        match self {
            Self::Text => write(text),
            Self::Json | Self::Quiet => Ok(()),
        }
    }

    /// Warns people of something that doesn't end the run.
    pub(crate) fn warn(self, warning: &str) {
        match self {
            Self::Text | Self::Json => complain(&format!("knock: warning: {warning}\n")),
            Self::Quiet => {}
        }
    }

    /// Tells machines what happened.
    pub(crate) fn conclude(self, report: &Report) -> Result<(), Error> {
        match self {
            Self::Json => write(&report.to_json()?),
            Self::Text | Self::Quiet => Ok(()),
        }
    }
}

/// Writes to standard output in one go.
pub(crate) fn write(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes to standard error. If nobody reads that, there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
