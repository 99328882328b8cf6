//! The command behind `--` as a child: it keeps the terminal and the process group, gets the signals that are
//! sent to `knock` alone, and ends it with its own exit status.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, exit::Error};

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// Starts it, with no signal blocked.
    ///
    /// # Errors
    /// As env(1) tells them apart: there is no such command, or it can't be run.
    pub(super) fn start(line: &[OsString]) -> Result<Option<Self>, Error> {
        let Some((program, arguments)) = line.split_first() else { return Ok(None) };
        let child = Command::new(program).args(arguments).spawn();
        child.map(|child| Some(Self(child))).map_err(|error| command::failure(program, &error))
    }

    /// Hands a signal on.
    pub(super) fn hand_on(&self, signal: Signal) {
        // It was not waited for yet, so that its id is nobody else's.
        if let Ok(id) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Its exit status as a shell has it, if it has ended.
    pub(super) fn ended(&mut self) -> Option<u8> {
        self.0.try_wait().ok().flatten().map(status)
    }
}

/// The exit code, or 128 and the number of the signal that ended it.
fn status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_status_is_its_exit_code_or_128_and_its_signal() {
        for (raw, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (15, 143), (9, 137)] {
            assert_eq!(status(ExitStatus::from_raw(raw)), expected);
        }
    }
}
