//! Whether the daemon runs, answers, and is content.

use std::{io::ErrorKind, path::Path};

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};
use crate::{
    control::{Reply, Request, Status, client, configuration::Refusal},
    gate::decision::Reason,
};

/// Asks the daemon how it is; `None` if none listens.
pub(super) fn ask(control: &Path) -> Result<Option<Status>, Unable> {
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
        Err(error) => Err(Unable::of_denied(
            error.kind() == ErrorKind::PermissionDenied,
            format!("{}: {error}", control.display()),
        )),
    }
}

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let control = examined.config()?.control.display().to_string();
    match examined.status() {
        Ok(Some(status)) => content(status, findings),
        Ok(None) => findings.add(
            Finding::fault(
                "daemon-not-running",
                "no daemon listens at the control socket: nobody answers a knock",
            )
            .at(control)
            .mend("systemctl start knockd"),
        ),
        Err(unable) if unable.needs_root => return Err(unable),
        Err(unable) => findings.add(
            Finding::fault(
                "daemon-not-answering",
                format!("the daemon doesn't answer: {}", unable.why),
            )
            .at(control)
            .mend("systemctl restart knockd"),
        ),
    }
    Ok(())
}

/// What the daemon itself complains of.
fn content(status: &Status, findings: &mut Findings<'_>) {
    if let Some(why) = &status.table.failing {
        findings.add(
            Finding::fault("table-failing", format!("the daemon can't put the table right: {why}"))
                .mend("knockd firewall install"),
        );
    }
    if let Some(refused) = &status.configuration.refused {
        findings.add(refusal(refused));
    }
    if !status.configuration.restart.is_empty() {
        findings.add(
            Finding::warning(
                "restart-pending",
                format!(
                    "changed in the configuration and not in force before a restart: {}",
                    status.configuration.restart.join(", ")
                ),
            )
            .at(status.configuration.file.clone())
            .mend("systemctl restart knockd"),
        );
    }
    for client in &status.counters_lost {
        findings.add(
            Finding::fault(
                "counter-lost",
                format!("the counter of {client} is lost: nothing is accepted from it"),
            )
            .mend(format!("knockd client resync {client}")),
        );
    }
    let full = Reason::ReplayMemoryFull.name();
    if let Some(refused) = status.decisions.refused.get(full) {
        findings.add(
            Finding::warning(
                "replay-memory-full",
                format!(
                    "{refused} knocks were refused since {} because the memory against replays was full",
                    status.since
                ),
            )
            .at("[replay] in knockd.toml")
            .mend("write a larger capacity or per-client there, and: systemctl reload knockd"),
        );
    }
    if let Some(lost) = status.receive_buffer_drops.filter(|lost| *lost > 0) {
        findings.add(
            Finding::warning(
                "datagrams-lost",
                format!(
                    "{lost} datagrams were lost since {} because the receive buffer was full, knocks among them perhaps",
                    status.since
                ),
            )
            .mend("knockd status says what arrives; write a smaller junk-budget into [prefilter] if it is junk"),
        );
    }
    if let Some(why) = &status.metrics_failing {
        findings.add(
            Finding::warning("metrics-failing", format!("figures can't be told at {why}"))
                .at("[metrics] in knockd.toml")
                .mend("write listen = \"unix:/run/knockd-metrics/metrics.sock\" there, and: systemctl restart knockd"),
        );
    }
    if status.untold_events > 0 {
        findings.add(
            Finding::warning(
                "events-untold",
                format!(
                    "{} events were not told since {}, because whoever takes them did not",
                    status.untold_events, status.since
                ),
            )
            .mend("systemctl status systemd-journald tells how the journal is"),
        );
    }
    if status.clients == 0 {
        findings.add(
            Finding::warning("no-clients", "the daemon knows no client: nobody can knock")
                .mend("knockd client add NAME --service SERVICE --server HOST"),
        );
    }
}

/// The last change was refused, and the daemon goes by what it had before.
fn refusal(refused: &Refusal) -> Finding {
    let first = refused.mistakes.first().map(|mistake| mistake.text.as_str()).unwrap_or_default();
    let others = refused.mistakes.len().saturating_sub(1) + refused.more;
    let others = if others == 0 { String::new() } else { format!(" (and {others} more)") };
    Finding::fault(
        "reload-refused",
        format!(
            "the daemon goes by an older configuration since {}, because what the files say now is wrong: {first}{others}",
            refused.since
        ),
    )
    .mend("knockd check tells every mistake; mend them, and: systemctl reload knockd")
}
