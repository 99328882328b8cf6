//! Whether the daemon runs, answers, and is content.

use std::io::ErrorKind;

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};
use crate::control::{Reply, Request, Status, client};

/// Asks the daemon how it is; `None` if none listens.
pub(super) fn status(examined: &Examined) -> Result<Option<Status>, Unable> {
    let control = &examined.config()?.control;
    match client::ask(control, &Request::Status) {
        Ok(Reply::Status(status)) => Ok(Some(*status)),
        Ok(_) => {
            Err(Unable::other("the daemon has answered something else: is it of another version?"))
        }
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind()) =>
        {
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Unable::denied(format!("{}: {error}", control.display())))
        }
        Err(error) => Err(Unable::other(format!("{}: {error}", control.display()))),
    }
}

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let control = examined.config()?.control.display().to_string();
    let status = match status(examined) {
        Ok(Some(status)) => status,
        Ok(None) => {
            findings.add(
                Finding::fault(
                    "daemon-not-running",
                    "no daemon listens at the control socket: nobody answers a knock",
                )
                .at(control)
                .mend("systemctl start knockd"),
            );
            return Ok(());
        }
        Err(unable) if unable.needs_root => return Err(unable),
        Err(unable) => {
            findings.add(
                Finding::fault(
                    "daemon-not-answering",
                    format!("the daemon doesn't answer: {}", unable.why),
                )
                .at(control)
                .mend("systemctl restart knockd"),
            );
            return Ok(());
        }
    };
    if let Some(why) = &status.table.failing {
        findings.add(
            Finding::fault("table-failing", format!("the daemon can't put the table right: {why}"))
                .mend("knockd firewall install"),
        );
    }
    if status.clients == 0 {
        findings.add(
            Finding::warning("no-clients", "the daemon knows no client: nobody can knock")
                .mend("knockd client add NAME --service SERVICE --server HOST"),
        );
    }
    Ok(())
}
