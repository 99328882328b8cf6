//! The program `nft`, for what is done once: the table goes in as one transaction, and is read back.
//!
//! Elements never go this way: running a program takes milliseconds, netlink takes microseconds.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use nftables::{
    helper::{DEFAULT_NFT, NftablesError, get_current_ruleset_with_args},
    schema::Nftables,
};

use super::{FirewallError, ruleset::TABLE_NAME};

/// Runs a script as one transaction: all of it takes effect, or nothing.
///
/// # Errors
/// [`FirewallError::Nft`] with what nft says.
pub fn run(script: &str) -> Result<(), FirewallError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_run(&error))?;
    // A script that nft stops reading is one that it complains of: that is the error to show.
    let _ = nft.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let output = nft.wait_with_output().map_err(|error| cannot_run(&error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(FirewallError::Nft(explain(&String::from_utf8_lossy(&output.stderr))))
}

/// Our table as the kernel holds it, without the elements of its sets; `None` if it isn't there.
///
/// # Errors
/// [`FirewallError::Nft`] if nft can't be run or understood.
pub fn list_table() -> Result<Option<Nftables<'static>>, FirewallError> {
    let args = ["--terse", "list", "table", "inet", TABLE_NAME];
    match get_current_ruleset_with_args(DEFAULT_NFT, args) {
        Ok(listing) => Ok(Some(listing)),
        Err(NftablesError::NftFailed { stderr, .. })
            if stderr.contains("No such file or directory") =>
        {
            Ok(None)
        }
        Err(NftablesError::NftFailed { stderr, .. }) => Err(FirewallError::Nft(explain(&stderr))),
        Err(NftablesError::NftExecution { inner, .. }) => Err(cannot_run(&inner)),
        Err(
            error @ (NftablesError::NftInvalidJson(_) | NftablesError::NftOutputEncoding { .. }),
        ) => Err(FirewallError::Nft(error.to_string())),
    }
}

fn cannot_run(error: &std::io::Error) -> FirewallError {
    FirewallError::Nft(match error.kind() {
        std::io::ErrorKind::NotFound => {
            "the program nft is not there; install it (Debian: apt install nftables)".to_owned()
        }
        _ => error.to_string(),
    })
}

fn explain(stderr: &str) -> String {
    let said = stderr.trim();
    if said.contains("Operation not permitted") {
        return format!("{said}\nThis needs CAP_NET_ADMIN: run it as root.");
    }
    said.to_owned()
}
