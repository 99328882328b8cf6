//! Whether nft can tell what the other checks have to know.

use super::{
    Examined,
    finding::{Finding, Findings, Unable},
    rules::read::run,
};

/// What both kinds of listing are asked for: it is short, whatever is in the tables.
const LIST: [&str; 2] = ["list", "tables"];

/// Checks that nft lists rules as JSON, which it can be built without. Our own table needs none of that.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    if examined.rules.is_ok() {
        return Ok(());
    }
    let json = [&["--json"], &LIST[..]].concat();
    if run("nft", &LIST).is_ok()
        && let Err(error) = run("nft", &json)
    {
        findings.add(
            Finding::warning(
                "nft-without-json",
                format!(
                    "nft lists rules as text and not as JSON, so that what other tables do with knocks can't be examined ({error})"
                ),
            )
            .mend("install an nft that is built with JSON: `nft -V` says then `json: yes`"),
        );
    }
    Ok(())
}
