//! Whether the daemon can read which addresses it must never ban.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt as _, path::Path};

use super::finding::{Finding, Findings, Unable};
use crate::local::RESOLV_CONFS;

/// The bit of a mode by which everybody may read: the daemon's user has no other right to these files.
const READ_BY_ALL: u32 = 0o004;

/// Checks it.
pub(super) fn check(findings: &mut Findings<'_>) -> Result<(), Unable> {
    for path in RESOLV_CONFS {
        match fs::metadata(Path::new(path)) {
            Ok(file) if file.permissions().mode() & READ_BY_ALL == 0 => findings.add(
                Finding::warning("resolvers-unread", format!("{path} can't be read by the daemon's user: the resolvers that it names may be banned if somebody forges failures in their name"))
                    .at(path)
                    .mend(format!("chmod a+r {path}")),
            ),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
