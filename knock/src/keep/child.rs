//! The command behind `--` as a child: it keeps the terminal and the process group, gets the signals that are
//! sent to `knock` alone, and ends it with its own exit status.
//!
//! As the first process of a container, `knock` is the parent of whatever else has lost its own, and takes their ends
//! up as well: nobody else would.

use std::ffi::OsString;

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    command::{self, Place},
    exit::Error,
};

/// A command that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running(Pid);

impl Running {
    /// Starts it, with no signal blocked.
    ///
    /// # Errors
    /// As env(1) tells them apart: there is no such command, or it can't be run.
    pub(super) fn start(line: &[OsString], place: &Place) -> Result<Option<Self>, Error> {
        let Some((program, mut command)) = command::prepare(line, place) else { return Ok(None) };
        let child = command.spawn().map_err(|error| command::failure(program, &error))?;
        Ok(i32::try_from(child.id()).ok().map(|id| Self(Pid::from_raw(id))))
    }

    /// Hands a signal on.
    pub(super) fn hand_on(self, signal: Signal) {
        // It was not waited for yet, so that its id is nobody else's.
        let _ = kill(self.0, signal);
    }

    /// The command's exit status as a shell has it, if that is among the processes that have ended.
    pub(super) fn status_in(self, ended: &[(Pid, u8)]) -> Option<u8> {
        ended.iter().find(|(id, _)| *id == self.0).map(|(_, status)| *status)
    }
}

/// Takes up all processes that have ended and are this one's to take up, each with its exit status as a shell has it.
pub(super) fn ended() -> Vec<(Pid, u8)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return ended,
            Ok(status) => ended.extend(status.pid().zip(exit_status(status))),
            Err(Errno::EINTR) => {}
            // There is none.
            Err(_) => return ended,
        }
    }
}

/// The exit code, or 128 and the number of the signal that ended it.
fn exit_status(status: WaitStatus) -> Option<u8> {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => return None,
    };
    Some(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_status_is_its_exit_code_or_128_and_its_signal() {
        for (raw, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (15, 143), (9, 137)] {
            let status = WaitStatus::from_raw(Pid::from_raw(7), raw).unwrap();
            assert_eq!(exit_status(status), Some(expected));
        }
        let stopped = WaitStatus::from_raw(Pid::from_raw(7), 0x137f).unwrap();
        assert_eq!(exit_status(stopped), None);
    }

    #[test]
    fn the_commands_status_is_told_from_that_of_any_other_process() {
        let ended = [(Pid::from_raw(8), 3), (Pid::from_raw(7), 5)];
        assert_eq!(Running(Pid::from_raw(7)).status_in(&ended), Some(5));
        assert_eq!(Running(Pid::from_raw(9)).status_in(&ended), None);
    }
}
