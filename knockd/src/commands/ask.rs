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

/// Asks the daemon of this configuration for a list, page by page: `request` makes the request for the page behind
/// a mark, and `page` takes the rows out of its reply and says where it ended. `None` if no daemon runs.
///
/// # Errors
/// A [`Failure`]: of the configuration, or of the daemon.
pub(super) fn list<R, M>(
    config: &Path,
    request: impl Fn(Option<M>) -> Request,
    page: impl Fn(Reply) -> Option<(Vec<R>, Option<M>)>,
) -> Result<Option<Vec<R>>, Failure> {
    let control = config::control(config)?;
    let (mut rows, mut mark) = (Vec::new(), None);
    loop {
        let reply = match client::ask(&control, &request(mark.take())) {
            Ok(Reply::Refused(refused)) => return Err(refused.into()),
            Ok(reply) => reply,
            // Only where nobody has answered yet: half a list is none.
            Err(error) if rows.is_empty() && says_none_runs(&error) => return Ok(None),
            Err(error) => return Err(no_answer(&control, &error)),
        };
        let (more, next) = page(reply).ok_or_else(unexpected)?;
        rows.extend(more);
        match next {
            Some(next) => mark = Some(next),
            None => return Ok(Some(rows)),
        }
    }
}

fn says_none_runs(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The failure of a reply that answers another request.
pub(super) fn unexpected() -> Failure {
    Failure::new(
        Exit::Software,
        "the daemon has answered something else: is it of another version?",
    )
}

pub(super) fn no_answer(control: &Path, error: &io::Error) -> Failure {
    let control = control.display();
    match error.kind() {
        _ if says_none_runs(error) => Failure::new(
            Exit::Unavailable,
            format!("no daemon listens at {control}: start it (systemctl start knockd)"),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPerm,
            format!(
                "{control}: {error}; run it as root, or as a member of the group knockd; who only looks may be one of knockd-readers"
            ),
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
            RefusedKind::Unknown => Exit::NoInput,
            RefusedKind::Impossible => Exit::DataErr,
            RefusedKind::Failed => Exit::OsErr,
            RefusedKind::NotAllowed => Exit::NoPerm,
            RefusedKind::Busy => Exit::TempFail,
        };
        Self::new(exit, refused.message)
    }
}
