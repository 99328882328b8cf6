//! The command behind `--`: it takes this process's place, so that signals, terminal, input and exit
//! status are the command's own.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use crate::exit::Error;

/// Runs the command in place of this process. It comes back only if that failed.
pub(crate) fn replace_this_process(command: &[OsString]) -> Result<(), Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let error = Command::new(program).args(arguments).exec();
    let text = format!("{}: {error}", program.to_string_lossy());
    // As env(1) has it.
    Err(if error.kind() == io::ErrorKind::NotFound {
        Error::NotFound(text)
    } else {
        Error::NotExecutable(text)
    })
}
