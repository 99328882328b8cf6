//! Whether the table in the kernel is the one that follows from the configuration.

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
};
use crate::firewall::{
    FirewallError,
    ruleset::TABLE,
    table::{self, TableState},
    template::Template,
};

/// Checks it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    const MEND: &str = "knockd firewall install";
    let place = format!("table {TABLE}");
    let ruleset = examined.ruleset()?;
    let state = Template::of(&ruleset).and_then(|template| table::state(&template));
    match state.map_err(|error| unable(&error))? {
        TableState::Whole => {}
        TableState::Missing => findings.add(
            Finding::fault("table-missing", "the table isn't there: every port that it would guard is open to whom no other rule stops, and a knock can open nothing")
                .at(place)
                .mend(MEND),
        ),
        TableState::Changed(differences) => findings.add(
            Finding::fault(
                "table-changed",
                format!("the table isn't the one that follows from the configuration: {}", differences.join("; ")),
            )
            .at(place)
            .mend(MEND),
        ),
    }
    Ok(())
}

/// What the firewall says when it can't be read.
pub(super) fn unable(error: &FirewallError) -> Unable {
    let text = error.to_string();
    let denied = match error {
        FirewallError::Refused(error) | FirewallError::Netlink(error) => {
            error.kind() == std::io::ErrorKind::PermissionDenied
        }
        FirewallError::Nft(_) | FirewallError::ReadBack(_) => text.contains("not permitted"),
    };
    Unable::of_denied(denied, text.lines().next().unwrap_or_default())
}
