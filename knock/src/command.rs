//! The command behind `--`: it takes this process's place, so that signals, terminal, input and exit
//! status are the command's own. (With `--keep` it is a child: see [`crate::keep`].)

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    process::Command,
};

use crate::exit::Error;

/// Runs the command in place of this process. It comes back only if that failed.
pub(crate) fn replace_this_process(command: &[OsString]) -> Result<(), Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    Err(failure(program, &Command::new(program).args(arguments).exec()))
}

/// Why a command could not be run, told apart as env(1) does.
pub(crate) fn failure(program: &OsStr, error: &io::Error) -> Error {
    let text = format!("{}: {error}", program.to_string_lossy());
    if error.kind() == io::ErrorKind::NotFound {
        Error::NotFound(text)
    } else {
        Error::NotExecutable(text)
    }
}
