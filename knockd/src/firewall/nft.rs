//! The program `nft`, for what is done once: the table goes in as one transaction, and is read back.
//!
//! Elements never go this way: running a program takes milliseconds, netlink takes microseconds.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use nftables::helper::{DEFAULT_NFT, NftablesError, get_current_ruleset_raw};
use serde::Deserialize;

use super::{FirewallError, ruleset::TABLE_NAME};

/// Runs a script as one transaction: all of it takes effect, or nothing.
///
/// # Errors
/// [`FirewallError::Nft`] with what nft says.
pub fn run(script: &str) -> Result<(), FirewallError> {
    run_with(&["-f", "-"], script)
}

/// Has the kernel check a script, without doing what it says.
///
/// # Errors
/// [`FirewallError::Nft`] with what nft says.
pub fn check(script: &str) -> Result<(), FirewallError> {
    run_with(&["--check", "-f", "-"], script)
}

/// What nft calls its version, as "nftables v1.0.6".
///
/// # Errors
/// [`FirewallError::Nft`] if it can't be run.
pub fn version() -> Result<String, FirewallError> {
    let output =
        Command::new("nft").arg("--version").output().map_err(|error| cannot_run(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

fn run_with(args: &[&str], script: &str) -> Result<(), FirewallError> {
    let mut nft = Command::new("nft")
        .args(args)
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
pub fn list_table() -> Result<Option<Listing>, FirewallError> {
    let Some(json) = table_json()? else { return Ok(None) };
    Listing::parse(&json)
        .map(Some)
        .map_err(|error| FirewallError::Nft(format!("its listing can't be understood: {error}")))
}

/// The same in nft's own JSON.
pub(super) fn table_json() -> Result<Option<String>, FirewallError> {
    let args = ["--terse", "list", "table", "inet", TABLE_NAME];
    match get_current_ruleset_raw(DEFAULT_NFT, args) {
        Ok(json) => Ok(Some(json)),
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

/// What matters of a listing: names, hooks and comments. What rules consist of is told in other words by
/// every version of nft, and a set over raw bytes such as `tags` in words that no schema knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Whether the table has any flags: one of them makes the kernel pass it by.
    pub has_flags: bool,
    /// The names of the sets.
    pub sets: Vec<String>,
    /// The chains.
    pub chains: Vec<ListedChain>,
    /// The rules, in their order.
    pub rules: Vec<ListedRule>,
}

/// A chain as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListedChain {
    /// Its name.
    pub name: String,
    /// Where it hooks in; none of the three for one that is only gone to.
    pub hook: Option<String>,
    /// At which priority.
    pub prio: Option<i32>,
    /// What happens to packets that no rule decides.
    pub policy: Option<String>,
}

/// A rule as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListedRule {
    /// The name of its chain.
    pub chain: String,
    /// Its comment, if it has one.
    pub comment: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    nftables: Vec<Object>,
}

/// One of the document's objects, all of which are told by their one key.
#[derive(Deserialize)]
struct Object {
    table: Option<ListedTable>,
    set: Option<Named>,
    chain: Option<ListedChain>,
    rule: Option<ListedRule>,
}

/// A table as it is listed. nft 1.0.6 names its flags wrongly: that there are any is all that counts.
#[derive(Deserialize)]
struct ListedTable {
    flags: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Listing {
    fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let mut listing = Self::default();
        for Object { table, set, chain, rule } in serde_json::from_str::<Document>(json)?.nftables {
            listing.has_flags |= table.is_some_and(|table| table.flags.is_some());
            listing.sets.extend(set.map(|set| set.name));
            listing.chains.extend(chain);
            listing.rules.extend(rule);
        }
        Ok(listing)
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
