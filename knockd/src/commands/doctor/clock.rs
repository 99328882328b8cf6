//! The clock, by which every packet is judged.

use std::io::ErrorKind;

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::read::run,
};
use crate::{
    clock,
    control::look_up,
    journal::{BootId, seen},
    plain,
    telemetry::rfc3339,
};

/// 2020-01-01, in milliseconds: before this software.
const YEAR_2020: u64 = 1_577_836_800_000;

/// Checks that something keeps it right.
pub(super) fn synchronized(findings: &mut Findings<'_>) -> Result<(), Unable> {
    const MEND: &str =
        "timedatectl set-ntp true (Debian: apt install systemd-timesyncd, or chrony)";
    if clock::now().utc.as_millis() < YEAR_2020 {
        findings.add(
            Finding::fault(
                "clock-wrong",
                "the clock shows a time before 2020: every packet is stale",
            )
            .mend(MEND),
        );
    }
    match is_synchronized() {
        Some(true) => Ok(()),
        Some(false) => {
            findings.add(
                Finding::warning("clock-unsynchronized", "the clock isn't synchronized: once it differs from the devices' by more than clock-skew, every knock is stale")
                    .mend(MEND),
            );
            Ok(())
        }
        None => Err(Unable::other(
            "neither timedatectl nor chronyc tells whether the clock is synchronized",
        )),
    }
}

/// Whether it is, as the kernel has it (STA_UNSYNC of adjtimex(2), by timedatectl), or chrony; `None` if nobody
/// tells.
fn is_synchronized() -> Option<bool> {
    let of_kernel = run("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
    if let Some(is) = of_kernel.ok().and_then(|text| yes_or_no(&text)) {
        return Some(is);
    }
    // It is there also where nobody runs that timedatectl could ask.
    if let Some(is) = look_up::clock_is_synchronized() {
        return Some(is);
    }
    let of_chrony = run("chronyc", &["-c", "tracking"]).ok()?;
    chrony(&of_chrony)
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// The leap status is the last column of chrony's answer.
fn chrony(text: &str) -> Option<bool> {
    let status = text.trim().rsplit(',').next().filter(|status| !status.is_empty())?;
    Some(!status.eq_ignore_ascii_case("Not synchronised"))
}

/// Checks that it isn't behind what was accepted already.
pub(super) fn against_memory(
    examined: &Examined,
    findings: &mut Findings<'_>,
) -> Result<(), Unable> {
    let config = examined.config()?;
    let path = config.state.join(seen::FILE_NAME);
    let bytes = match plain::read(&path, seen::FILE_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let found = seen::parse(&bytes, BootId::current()?);
    let newest = found.packets.iter().map(|packet| packet.timestamp).max();
    let Some(newest) = newest.max(found.floor.forgotten) else { return Ok(()) };
    let (now, skew) = (clock::now().utc, config.policy.clock_skew.as_millis());
    if newest.as_millis() > now.as_millis().saturating_add(skew) {
        findings.add(
            Finding::fault(
                "clock-behind",
                format!(
                    "a packet stamped {} was accepted already, and the clock shows {}: it was set back, or was ahead then",
                    rfc3339(newest),
                    rfc3339(now)
                ),
            )
            .at(path.display().to_string())
            .mend("set the clock; if it was ahead by mistake, stop knockd, remove that file, start knockd"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timedatectl_and_chrony_are_understood_and_what_is_neither_is_not_taken_for_an_answer() {
        assert_eq!(yes_or_no("yes\n"), Some(true));
        assert_eq!(yes_or_no("no\n"), Some(false));
        assert_eq!(yes_or_no("Failed to connect to bus\n"), None);
        assert_eq!(chrony("A1,1.2.3.4,2,0.0,0.1,Normal\n"), Some(true));
        assert_eq!(chrony("00000000,,0,0.0,0.0,Not synchronised\n"), Some(false));
        assert_eq!(chrony("\n"), None);
    }
}
