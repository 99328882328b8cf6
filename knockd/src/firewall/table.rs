//! The kernel's table as a whole: put in, compared, taken out.

use std::{io, net::IpAddr};

use super::{
    FirewallError, answer,
    included::Included,
    kernel::{KEPT, Kernel, NotCarried, read_key, read_port, script_of},
    listing::Listing,
    nft,
    reader::Reader,
    ruleset::{TABLE, TABLE_NAME},
    template::{self, Template},
    verify,
};
use crate::gate::policy::Port;

/// Elements of one set that are carried over at most when a table is replaced whole by a command: a second's work for
/// the kernel. The daemon, which knows what there ought to be, puts the others in again; that they are gone is told.
const CARRIED: usize = 65_536;
/// The sets whose contents follow from the configuration.
const FIXED: [&str; 3] = ["protected", "routed4", "routed6"];

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

/// Our table as the kernel has it, with the contents of the sets that follow from the configuration; `None` if it isn't
/// there.
///
/// # Errors
/// [`FirewallError::Netlink`]
pub fn read() -> Result<Option<Listing>, FirewallError> {
    let mut reader = Reader::open().map_err(FirewallError::Netlink)?;
    reader.table(TABLE_NAME, &FIXED).map_err(FirewallError::Netlink)
}

/// Compares the table in the kernel with the one that ought to be there.
///
/// # Errors
/// [`FirewallError`] if that can't be read.
pub fn state(template: &Template) -> Result<TableState, FirewallError> {
    Ok(compare(template, read()?.as_ref()))
}

/// Compares what was read with the table that ought to be there.
#[must_use]
pub fn compare(template: &Template, found: Option<&Listing>) -> TableState {
    let Some(found) = found else { return TableState::Missing };
    let differences = template.differences(found);
    if differences.is_empty() { TableState::Whole } else { TableState::Changed(differences) }
}

/// Puts the table in as one transaction, keeps the elements of its sets, and reads it back.
///
/// Where what is there can't be made into it (a set of another type), the table is replaced whole, still in one
/// transaction, with what was in its sets, but for what it returns.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install(kernel: &mut Kernel, template: &Template) -> Result<NotCarried, FirewallError> {
    let found = read()?;
    let (carried, mut lost) = match &found {
        Some(_) => kernel.kept(&template.emptied(found.as_ref()), CARRIED)?,
        None => Default::default(),
    };
    match kernel.put_in(template, found.as_ref(), &carried) {
        // A kernel that doesn't take back what it has given.
        Err(FirewallError::Refused(error))
            if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
        {
            lost = run_keeping_elements(&template.ruleset().script())?;
        }
        // Somebody was quicker: what it lacks is seen when it is found.
        Err(error) if found.is_none() && error.says_already_there() => {
            return install(kernel, template);
        }
        result => result?,
    }
    read_back(template)?;
    Ok(lost)
}

/// Puts the table in as [`install`] does, and somebody else's ruleset with it, in the same transaction: however
/// much that flushes, there is no moment without the table. Doors, bans and tags stay, too.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install_with(included: &Included, template: &Template) -> Result<NotCarried, FirewallError> {
    let lost = run_with(included, &template.ruleset().script())?;
    match read_back(template) {
        // A chain that isn't ours, perhaps.
        Err(FirewallError::ReadBack(_)) => install(&mut Kernel::open()?, template),
        result => result.map(|()| lost),
    }
}

/// Puts a table in by the script that an earlier ruleset had, and keeps the doors that are open; as
/// [`install_with`] if there is something to go in with it.
///
/// # Errors
/// [`FirewallError`]; what was in the kernel before then still is, unless the error is
/// [`FirewallError::ReadBack`].
pub fn install_script(with: Option<&Included>, script: &str) -> Result<NotCarried, FirewallError> {
    let lost = match with {
        Some(included) => run_with(included, script)?,
        None => run_keeping_elements(script)?,
    };
    match read()? {
        Some(_) => Ok(lost),
        None => Err(FirewallError::ReadBack("it is gone".to_owned())),
    }
}

fn run_keeping_elements(script: &str) -> Result<NotCarried, FirewallError> {
    let Err(refused) = nft::run(script) else { return Ok(NotCarried::default()) };
    if read()?.is_none() {
        return Err(refused);
    }
    // What is there can't be made into it. Added first, so that there is one to delete.
    let (kept, lost) = kept_script()?;
    nft::run(&format!("add table {TABLE}\ndelete table {TABLE}\n{script}{kept}"))?;
    Ok(lost)
}

/// What is in the sets that the daemon keeps, as a script that puts it in again.
fn kept_script() -> Result<(String, NotCarried), FirewallError> {
    let (kept, lost) = Kernel::open()?.kept(&KEPT, CARRIED)?;
    Ok((script_of(&kept), lost))
}

fn run_with(included: &Included, script: &str) -> Result<NotCarried, FirewallError> {
    let (kept, lost) = kept_script()?;
    // Theirs first, for it flushes.
    nft::run(&format!("{}{script}{kept}", included.statement()))?;
    Ok(lost)
}

/// Makes sure that what was put in is there.
///
/// # Errors
/// [`FirewallError::ReadBack`] if it isn't, another one if that can't be read.
pub fn read_back(template: &Template) -> Result<(), FirewallError> {
    match state(template)? {
        TableState::Whole => Ok(()),
        TableState::Missing => Err(FirewallError::ReadBack("it is gone".to_owned())),
        TableState::Changed(differences) => Err(FirewallError::ReadBack(differences.join("; "))),
    }
}

/// Whether the table in the kernel is as some configuration, or some version of this program, has put it in: then it
/// differs from another one because that changed, and not because somebody changed the table. `false` if it isn't
/// there.
///
/// # Errors
/// [`FirewallError`] if that can't be read.
pub fn is_as_put_in() -> Result<bool, FirewallError> {
    Ok(read()?.is_some_and(|found| verify::is_as_put_in(&found)))
}

/// Takes the table out of the kernel; says what it guarded, or `None` if it wasn't there.
///
/// # Errors
/// [`FirewallError`] if it is still there.
pub fn remove() -> Result<Option<Guarded>, FirewallError> {
    let Some(found) = read()? else { return Ok(None) };
    // How many doors are open in it is worth no failure: sets of that name can be missing.
    let doors = Kernel::open()?.doors_up_to(CARRIED).unwrap_or_default();
    let guarded = Guarded { open_doors: doors.map(|doors| doors.len()), ..guarded(&found) };
    template::delete(TABLE_NAME)?;
    Ok(Some(guarded))
}

/// What a table guards, in the kernel's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Ports of this host.
    pub local: Vec<Port>,
    /// Addresses and ports behind this host.
    pub routed: Vec<(IpAddr, Port)>,
    /// How many doors were open in it; `None` if too many to count.
    pub open_doors: Option<usize>,
}

fn guarded(found: &Listing) -> Guarded {
    let keys = |set: &str| -> Vec<Vec<u8>> {
        let elements = found.sets.get(set).into_iter().flat_map(|set| &set.elements);
        elements
            .filter_map(|element| answer::key(element).ok().flatten().map(<[u8]>::to_vec))
            .collect()
    };
    let routed = ["routed4", "routed6"].into_iter().flat_map(keys);
    Guarded {
        local: keys("protected").iter().filter_map(|key| read_port(key)).collect(),
        routed: routed.filter_map(|key| read_key(&key)).collect(),
        open_doors: None,
    }
}
