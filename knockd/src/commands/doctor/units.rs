//! Whether systemd's units see to it that the door is shut from the start.

use std::{path::Path, process::Command};

use super::finding::{Finding, Findings, Unable};

/// Checks them; where systemd doesn't run there is nothing to check.
pub(super) fn check(findings: &mut Findings<'_>) -> Result<(), Unable> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    match state("knockd-firewall.service")?.as_str() {
        "enabled" | "enabled-runtime" | "static" | "generated" | "alias" => {}
        "not-found" => findings.add(
            Finding::warning("unit-missing", "there is no unit knockd-firewall.service: nothing shuts the door before the network is up")
                .mend("install the package, or run `make install`"),
        ),
        state => findings.add(
            Finding::warning("unit-disabled", format!("knockd-firewall.service is {state}: after the next boot the door isn't shut until knockd starts"))
                .mend("systemctl enable knockd-firewall"),
        ),
    }
    let (daemon, socket) = (state("knockd.service")?, state("knockd.socket")?);
    let starts = |state: &str| state.starts_with("enabled");
    if daemon != "not-found" && !starts(&daemon) && !starts(&socket) {
        let units = if socket == "not-found" { "knockd" } else { "knockd.socket knockd" };
        findings.add(
            Finding::warning(
                "unit-disabled",
                format!("knockd.service is {daemon}: after the next boot nobody answers a knock"),
            )
            .mend(format!("systemctl enable {units}")),
        );
    }
    Ok(())
}

/// The unit's state in systemctl's words; "not-found" if there is no such unit.
fn state(unit: &str) -> Result<String, Unable> {
    let output = Command::new("systemctl").args(["is-enabled", unit]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(match text.lines().next().map(str::trim) {
        None | Some("") => "not-found".to_owned(),
        Some(state) => state.to_owned(),
    })
}
