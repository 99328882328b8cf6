//! The kernel's table as a whole: put in, compared, taken out.

use std::{net::IpAddr, time::Duration};

use super::{
    Firewall as _, FirewallError,
    included::Included,
    kernel::{Kernel, ban_elements, door_elements, read_key, read_port},
    nft::{self, ListedChain, Listing},
    ruleset::{ChainFacts, Contents, OF_TABLE, Ruleset, TABLE, Tags, digest},
    verify::differences,
};
use crate::gate::{grants::Door, policy::Port};

/// Whether the table in the kernel is the one that ought to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// It is.
    Whole,
    /// There is none: every port that it would guard is open.
    Missing,
    /// It differs, in these ways.
    Changed(Vec<String>),
}

/// Puts the table in as one transaction, keeps the doors that are open, and reads it back.
///
/// Where what is there can't be made into it (a chain that hooks in elsewhere, a set of another type), the
/// table is replaced whole, its doors included, still in one transaction.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install(ruleset: &Ruleset) -> Result<(), FirewallError> {
    put_in(ruleset, &[])?;
    read_back_or_replace(ruleset, &[])
}

/// Puts the table in as [`install`] does, and somebody else's ruleset with it, in the same transaction: however
/// much that flushes, there is no moment without the table. Bans stay, too.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install_with(included: &Included, ruleset: &Ruleset) -> Result<(), FirewallError> {
    run_with(included, &ruleset.script())?;
    read_back_or_replace(ruleset, &[])
}

/// Puts a table in by the script that an earlier [`Ruleset`] had, and keeps the doors that are open; as
/// [`install_with`] if there is something to go in with it.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install_script(with: Option<&Included>, script: &str) -> Result<(), FirewallError> {
    match with {
        Some(included) => run_with(included, script)?,
        None => run_keeping_doors(script, "")?,
    }
    match nft::list_table()? {
        Some(_) => Ok(()),
        None => Err(FirewallError::ReadBack("it is gone".to_owned())),
    }
}

/// Puts the table in as [`install`] does, with doors that are open in it for this long yet, and doesn't read it
/// back.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is.
pub fn put_in(ruleset: &Ruleset, doors: &[(Door, Duration)]) -> Result<(), FirewallError> {
    run_keeping_doors(&ruleset.script(), &door_elements(doors))
}

fn run_keeping_doors(script: &str, doors: &str) -> Result<(), FirewallError> {
    if let Err(refused) = nft::run(&format!("{script}{doors}")) {
        if nft::list_table()?.is_none() {
            return Err(refused);
        }
        put_in_anew(script, doors)?;
    }
    Ok(())
}

/// What is open and banned in the kernel, as a script that puts it in again.
fn open_and_banned() -> Result<String, FirewallError> {
    let mut kernel = Kernel::open()?;
    Ok(door_elements(&kernel.doors().unwrap_or_default())
        + &ban_elements(&kernel.bans().unwrap_or_default()))
}

fn run_with(included: &Included, script: &str) -> Result<(), FirewallError> {
    // Theirs first, for it flushes.
    nft::run(&format!("{}{script}{}", included.statement(), open_and_banned()?))
}

/// Takes the table out and puts it in, in one transaction, with what is open and banned.
fn put_in_anew(script: &str, doors: &str) -> Result<(), FirewallError> {
    let kept = open_and_banned()?;
    // Added first, so that there is one to delete.
    nft::run(&format!("add table {TABLE}\ndelete table {TABLE}\n{script}{kept}{doors}"))
}

/// Makes sure that what was put in is there, and nothing else in the table: a chain that isn't ours (somebody's, or
/// one of an older configuration) goes by replacing the table whole.
///
/// # Errors
/// [`FirewallError::ReadBack`] if it isn't, another one if that can't be read.
pub fn read_back_or_replace(
    ruleset: &Ruleset,
    doors: &[(Door, Duration)],
) -> Result<(), FirewallError> {
    match read_back(ruleset) {
        Err(FirewallError::ReadBack(_)) => {
            put_in_anew(&ruleset.script(), &door_elements(doors))?;
            read_back(ruleset)
        }
        result => result,
    }
}

/// Puts the table in another one's place, in one transaction: chains and fixed contents are replaced, and doors
/// and bans kept. Says whether the tags are. It isn't read back.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is.
pub fn replace(former: &Ruleset, ruleset: &Ruleset) -> Result<Tags, FirewallError> {
    let (script, tags) = ruleset.replacement(former);
    if nft::run(&script).is_ok() {
        return Ok(tags);
    }
    // What is there isn't what it was: somebody else has just changed it.
    put_in(ruleset, &[])?;
    Ok(Tags::Gone)
}

/// Makes sure that what was put in is there.
///
/// # Errors
/// [`FirewallError::ReadBack`] if it isn't, another one if that can't be read.
pub fn read_back(ruleset: &Ruleset) -> Result<(), FirewallError> {
    match state(ruleset)? {
        TableState::Whole => Ok(()),
        TableState::Missing => Err(FirewallError::ReadBack("it is gone".to_owned())),
        TableState::Changed(differences) => Err(FirewallError::ReadBack(differences.join("; "))),
    }
}

/// Compares the table in the kernel with the one that ought to be there.
///
/// # Errors
/// [`FirewallError`] if that can't be read.
pub fn state(ruleset: &Ruleset) -> Result<TableState, FirewallError> {
    let Some(listing) = nft::list_table()? else { return Ok(TableState::Missing) };
    let mut differences = differences(ruleset, &listing);
    if differences.is_empty() {
        differences.extend(fixed_differences(ruleset)?);
    }
    Ok(if differences.is_empty() { TableState::Whole } else { TableState::Changed(differences) })
}

/// Whether the table in the kernel is as some configuration, or some version of this program, has put it in: then it
/// differs from another one because that changed, and not because somebody changed the table. `false` if it isn't
/// there.
///
/// # Errors
/// [`FirewallError`] if that can't be read.
pub fn is_as_put_in() -> Result<bool, FirewallError> {
    let Some(listing) = nft::list_table()? else { return Ok(false) };
    let Some(told) = digest_told(&listing) else { return Ok(false) };
    let guarded = guarded()?;
    let fixed = guarded.elements();
    let fixed = fixed.iter().map(|(set, elements)| (*set, elements.as_slice())).collect();
    Ok(!listing.has_flags && digest(listing.sets(), fixed, listing.chains()) == told)
}

/// The digest of the whole table that one of its rules carries.
fn digest_told(listing: &Listing) -> Option<&str> {
    let comments = listing.rules.iter().filter_map(|rule| rule.comment.as_deref());
    comments.filter_map(|comment| comment.split_once(OF_TABLE)).map(|(_, digest)| digest).next()
}

impl Listing {
    fn sets(&self) -> Vec<&str> {
        self.sets.iter().map(String::as_str).collect()
    }

    fn chains(&self) -> Vec<ChainFacts<'_>> {
        self.chains.iter().map(|chain| self.facts(chain)).collect()
    }

    fn facts<'a>(&'a self, chain: &'a ListedChain) -> ChainFacts<'a> {
        let ListedChain { name, hook, prio, policy } = chain;
        let comments = self.rules.iter().filter(|rule| rule.chain == *name);
        ChainFacts {
            name,
            // With another policy it is no chain of ours, wherever it hooks in.
            base: hook.as_deref().zip(*prio).filter(|_| policy.as_deref() == Some("accept")),
            comments: comments.map(|rule| rule.comment.as_deref().unwrap_or_default()).collect(),
        }
    }
}

/// Takes the table out of the kernel; says what it guarded, or `None` if it wasn't there.
///
/// # Errors
/// [`FirewallError`] if it is still there.
pub fn remove() -> Result<Option<Guarded>, FirewallError> {
    if nft::list_table()?.is_none() {
        return Ok(None);
    }
    let guarded = guarded().unwrap_or_default();
    nft::run(&format!("delete table {TABLE}\n"))?;
    Ok(Some(guarded))
}

/// What a table guards, in the kernel's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Ports of this host.
    pub local: Vec<Port>,
    /// Addresses and ports behind this host.
    pub routed: Vec<(IpAddr, Port)>,
    /// How many doors were open in it.
    pub open_doors: usize,
}

fn guarded() -> Result<Guarded, FirewallError> {
    let mut kernel = Kernel::open()?;
    let open_doors = kernel.doors()?.len();
    let mut read = |set| kernel.dump(set);
    let local = read("protected")?.iter().filter_map(|element| read_port(&element.key)).collect();
    let mut routed = Vec::new();
    for set in ["routed4", "routed6"] {
        routed.extend(read(set)?.iter().filter_map(|element| read_key(&element.key)));
    }
    Ok(Guarded { local, routed, open_doors })
}

impl Guarded {
    /// The contents of the sets that follow from the configuration, as they are written there, in order.
    fn elements(&self) -> [(&'static str, Vec<String>); 3] {
        let local = self.local.iter().map(|port| format!("{} . {}", port.protocol, port.number));
        let routed = |of_family: fn(&IpAddr) -> bool| {
            let elements = self.routed.iter().filter(move |(to, _)| of_family(to));
            elements.map(|(to, port)| format!("{to} . {} . {}", port.protocol, port.number))
        };
        let mut elements = [
            ("protected", local.collect::<Vec<_>>()),
            ("routed4", routed(IpAddr::is_ipv4).collect()),
            ("routed6", routed(IpAddr::is_ipv6).collect()),
        ];
        elements.iter_mut().for_each(|(_, elements)| elements.sort());
        elements
    }
}

/// Compares the sets whose contents follow from the configuration.
fn fixed_differences(ruleset: &Ruleset) -> Result<Vec<String>, FirewallError> {
    let found = guarded()?.elements();
    let mut differences = Vec::new();
    for set in &ruleset.sets {
        let Contents::Fixed(expected) = &set.contents else { continue };
        let found = found.iter().find(|(name, _)| *name == set.name);
        let found = found.map(|(_, elements)| elements.as_slice()).unwrap_or_default();
        if found != expected {
            differences.push(format!(
                "set {} holds {{ {} }} and ought to hold {{ {} }}",
                set.name,
                found.join(", "),
                expected.join(", ")
            ));
        }
    }
    Ok(differences)
}
