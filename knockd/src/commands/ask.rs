//! What the commands that need a running daemon share: they ask it over its control socket.

use std::{io, path::Path};

use super::{Exit, Failure};
use crate::{
    config,
    control::{Refused, RefusedKind, Reply, Request, client},
};

/// Asks the daemon of this configuration; what it refuses is a failure.
///
/// # Errors
/// A [`Failure`]: of the configuration, of the daemon, or because none runs.
pub(super) fn ask(config: &Path, request: &Request) -> Result<Reply, Failure> {
    let control = config::control(config)?;
    match client::ask(&control, request) {
        Ok(Reply::Refused(refused)) => Err(refused.into()),
        Ok(reply) => Ok(reply),
        Err(error) => Err(no_answer(&control, &error)),
    }
}

/// The failure of a reply that answers another request.
pub(super) fn unexpected() -> Failure {
    Failure::new(
        Exit::Software,
        "the daemon has answered something else: is it of another version?",
    )
}

fn no_answer(control: &Path, error: &io::Error) -> Failure {
    let control = control.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unavailable,
            format!("no daemon listens at {control}: start it (systemctl start knockd)"),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPerm,
            format!("{control}: {error}; run it as root, or as a member of the group knockd"),
        ),
        _ => Failure::new(
            Exit::Unavailable,
            format!("the daemon at {control} doesn't answer: {error}; see journalctl -u knockd"),
        ),
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let exit = match refused.kind {
            RefusedKind::Request => Exit::Usage,
            RefusedKind::Impossible => Exit::DataErr,
            RefusedKind::Unknown => Exit::NoInput,
            RefusedKind::Failed => Exit::OsErr,
        };
        Self::new(exit, refused.message)
    }
}
