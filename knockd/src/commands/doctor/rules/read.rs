//! Has the ruleset of this host listed, by `nft` and, for what nft can't tell, by iptables. Changes nothing.
//!
//! # Security considerations
//! - The elements of sets aren't listed with the ruleset: those of one large set alone would take minutes. Only
//!   sets that can't be large by their type are read, one by one.
//! - Programs are run by their names and with fixed arguments, or with names that nft listed, never by a shell.

use std::{fs, io, process::Command};

use nftables::helper::{DEFAULT_NFT, NftablesError, get_current_ruleset_raw};
use serde_json::Value as Json;

use super::{
    super::finding::Unable,
    iptables,
    model::{Table, Tool},
    nft::{self, SetName},
    packet::IpFamily,
};
use crate::firewall::ruleset::TABLE_NAME;

/// All tables but our own.
#[derive(Debug)]
pub(in super::super) struct Everything {
    pub(in super::super) tables: Vec<Table>,
    /// Tables of ip_tables' own modules that could not be read: there is no program for it.
    pub(in super::super) unread: Vec<String>,
}

/// Reads them.
///
/// # Errors
/// [`Unable`] if nft can't list them.
pub(in super::super) fn everything() -> Result<Everything, Unable> {
    let document = list(&["--terse", "list", "ruleset"])?;
    let mut elements = nft::elements(&document);
    for ((family, table, name), kind) in nft::small_sets(&document) {
        if is_ours(&family, &table) {
            continue;
        }
        // One that is gone meanwhile is one that wasn't read.
        if let Ok(set) = list(&["list", kind, &family, &table, &name]) {
            elements.extend(nft::elements(&set));
            // A set that is read and has nothing in it isn't one that wasn't read.
            let name: SetName = (family, table, name);
            elements.entry(name).or_default();
        }
    }
    let mut listed = nft::parse(&document, &elements);
    listed.tables.iter_mut().for_each(name_devices);
    let dormant: Vec<_> =
        listed.flagged.iter().filter(|(family, table)| is_dormant(family, table)).collect();
    listed.tables.retain(|Table { family, name, .. }| {
        !is_ours(family, name) && !dormant.iter().any(|(f, n)| f == family && n == name)
    });
    for family in [IpFamily::V4, IpFamily::V6] {
        let name = family_name(family);
        if listed.opaque.iter().any(|(family, _)| family == name)
            && let Some(saved) = saved_on_nftables(family)
        {
            for table in iptables::parse(&saved, family, Tool::IptablesNft) {
                if listed.opaque.contains(&(name.to_owned(), table.name.clone())) {
                    nft::replace(&mut listed.tables, table);
                }
            }
        }
    }
    let mut unread = Vec::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let names = legacy_tables(family);
        if names.is_empty() {
            continue;
        }
        let program = match family {
            IpFamily::V4 => "iptables-legacy-save",
            IpFamily::V6 => "ip6tables-legacy-save",
        };
        match run(program, &[]) {
            Ok(saved) => {
                listed.tables.extend(iptables::parse(&saved, family, Tool::IptablesLegacy));
            }
            Err(_) => unread.extend(names),
        }
    }
    Ok(Everything { tables: listed.tables, unread })
}

/// A rule in nft's own words, if it is still there.
pub(in super::super) fn rule_text(table: &Table, chain: &str, handle: u64) -> Option<String> {
    let args = ["--terse", "--handle", "list", "chain", &table.family, &table.name, chain];
    let listing = run("nft", &args).ok()?;
    let end = format!(" # handle {handle}");
    let line = listing.lines().find_map(|line| line.trim().strip_suffix(end.as_str()))?;
    Some(line.to_owned())
}

/// Has each chain at an interface know at which: nft before 1.0.7 leaves that out of what it lists as JSON.
fn name_devices(table: &mut Table) {
    let Table { family, name: table, chains, .. } = table;
    for chain in chains {
        let Some(base) = &mut chain.base else { continue };
        if !["ingress", "egress"].contains(&base.hook.as_str()) || !base.devices.is_empty() {
            continue;
        }
        let listing = run("nft", &["--terse", "list", "chain", family, table, &chain.name]);
        base.devices = devices_in(&listing.unwrap_or_default());
    }
}

/// The interfaces in the listing of a chain.
fn devices_in(listing: &str) -> Vec<String> {
    let hooks = listing.lines().find_map(|line| line.split_once(" hook ")?.1.split_once(" device"));
    let names = hooks.and_then(|(_, rest)| rest.split_once(" priority "));
    let names = names.map_or("", |(names, _)| names.strip_prefix("s =").unwrap_or(names));
    let ends = |letter: char| letter.is_whitespace() || "{},\"".contains(letter);
    names.split(ends).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Whether the kernel passes a table by.
fn is_dormant(family: &str, table: &str) -> bool {
    let listing = run("nft", &["--terse", "list", "table", family, table]).unwrap_or_default();
    let mut flags = listing.lines().filter_map(|line| line.trim().strip_prefix("flags "));
    flags.next().is_some_and(|flags| flags.contains("dormant"))
}

fn is_ours(family: &str, table: &str) -> bool {
    family == "inet" && table == TABLE_NAME
}

const fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn list(args: &[&str]) -> Result<Json, Unable> {
    let text = get_current_ruleset_raw(DEFAULT_NFT, args.iter().copied()).map_err(unable)?;
    serde_json::from_str(&text)
        .map_err(|error| Unable::other(format!("what nft lists can't be understood: {error}")))
}

fn unable(error: NftablesError) -> Unable {
    match error {
        NftablesError::NftFailed { stderr, .. } => {
            Unable::of_denied(stderr.contains("not permitted"), format!("nft: {}", stderr.trim()))
        }
        NftablesError::NftExecution { inner, .. } => Unable::other(format!("nft: {inner}")),
        error => Unable::other(error.to_string()),
    }
}

/// What iptables on nftables has, in its words.
fn saved_on_nftables(family: IpFamily) -> Option<String> {
    let programs = match family {
        IpFamily::V4 => ["iptables-nft-save", "iptables-save"],
        IpFamily::V6 => ["ip6tables-nft-save", "ip6tables-save"],
    };
    programs.into_iter().find_map(|program| {
        let saved = run(program, &[]).ok()?;
        // The plain name may be that of either kind.
        saved.contains("nf_tables").then_some(saved)
    })
}

/// The tables that ip_tables' own modules hold; none where they aren't there.
fn legacy_tables(family: IpFamily) -> Vec<String> {
    let path = match family {
        IpFamily::V4 => "/proc/net/ip_tables_names",
        IpFamily::V6 => "/proc/net/ip6_tables_names",
    };
    let names = fs::read_to_string(path).unwrap_or_default();
    names.lines().map(|name| format!("{} {name}", family_name(family))).collect()
}

/// The answer of a program that succeeded.
///
/// # Errors
/// If it isn't there, or failed.
pub(in super::super) fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(args).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program}: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::devices_in;

    #[test]
    fn the_interfaces_of_a_chain_are_read_from_every_form_of_listing() {
        let of = |at: &str| {
            let hook = format!("\t\ttype filter hook ingress {at}priority filter; policy accept;");
            devices_in(&format!("table netdev t {{\n\tchain c {{\n{hook}\n\t\tdrop\n\t}}\n}}\n"))
        };
        assert_eq!(of("device \"other\" "), ["other"]);
        assert_eq!(of("devices = { eth0, \"eth1\" } "), ["eth0", "eth1"]);
        assert_eq!(of(""), [""; 0]);
    }
}
