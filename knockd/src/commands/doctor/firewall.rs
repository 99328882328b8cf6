//! Whether another program's rules drop what the door lets through, the knock itself, or the answer to either.
//!
//! What a knock opens, the kernel lets through *our* chains; every other chain that hooks in still has its say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Examined,
    finding::{Finding, Findings, Severity, Unable},
    host::{Host, Interface},
    mend,
    rules::{
        model::{Table, Tool, Truth},
        packet::{Doubt, Heading, IpFamily, Packet},
        read,
        walk::Hit,
    },
    ways::{self, Answer, Wanted},
};
use crate::config::Config;

/// How many drops that aren't sure are told of one port.
const SHOWN: usize = 4;

/// Checks that nobody drops any of it.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let rules = examined.rules()?;
    for table in &rules.unread {
        findings.unable(Unable::other(format!(
            "table {table} of ip_tables is in the kernel beside nftables, and there is no iptables-legacy-save to read it with (apt install iptables)"
        )));
    }
    let (config, host) = (examined.config()?, examined.host()?);
    if host.outside().is_empty() {
        return Err(Unable::other("no interface with an address leads outside"));
    }
    for wanted in ways::wanted(config) {
        let headings = match wanted.answer {
            Answer::None => &[Heading::ToService][..],
            Answer::State(_) => &[Heading::ToService, Heading::ToDevice],
        };
        for heading in headings {
            for drop in drops_of(&wanted, *heading, config, host, &rules.tables) {
                findings.add(tell(&wanted, &drop));
            }
        }
    }
    Ok(())
}

/// A rule or policy that drops something wanted.
struct Drop<'a> {
    hit: Hit<'a>,
    packet: Packet,
    families: BTreeSet<IpFamily>,
    interfaces: BTreeSet<String>,
    /// Whether there are other ways in, by which it isn't dropped here.
    partly: bool,
    /// Whether it is sure, and devices of a family get in by no interface.
    keeps_out: bool,
}

/// The interfaces that devices come in by and need to knock at.
fn entrances<'a>(config: &Config, host: &'a Host) -> Vec<&'a Interface> {
    let allowed = |interface: &&Interface| {
        config.allow.interfaces.iter().all(|allowed| allowed.as_str() != interface.name)
    };
    host.outside().into_iter().filter(allowed).collect()
}

fn drops_of<'a>(
    wanted: &Wanted,
    heading: Heading,
    config: &Config,
    host: &Host,
    tables: &'a [Table],
) -> Vec<Drop<'a>> {
    let mut drops: BTreeMap<String, Drop<'a>> = BTreeMap::new();
    let mut ways = 0;
    // Of each family, by how many interfaces packets come in, and of how many are dropped for sure.
    let mut shut: BTreeMap<IpFamily, (usize, usize)> = BTreeMap::new();
    for interface in entrances(config, host) {
        for family in [IpFamily::V4, IpFamily::V6] {
            let is_of_family = match wanted.to {
                Some(to) => IpFamily::of(to) == family,
                None => interface.has(family),
            };
            if !is_of_family {
                continue;
            }
            ways += 1;
            let mut hits = ways::hits(wanted, heading, interface, family, host, tables);
            let is_sure = hits.iter().any(|(hit, _)| hit.reach == Truth::Yes);
            // What is dropped for sure needs no guesses beside it.
            hits.retain(|(hit, _)| hit.reach == Truth::Yes || !is_sure);
            let count = shut.entry(family).or_default();
            count.0 += 1;
            count.1 += usize::from(is_sure);
            for (hit, packet) in hits {
                let drop = drops.entry(key(&hit)).or_insert_with(|| Drop {
                    hit,
                    packet,
                    families: BTreeSet::new(),
                    interfaces: BTreeSet::new(),
                    partly: false,
                    keeps_out: false,
                });
                drop.families.insert(family);
                drop.interfaces.insert(interface.name.clone());
            }
        }
    }
    let mut drops: Vec<_> = drops.into_values().collect();
    for drop in &mut drops {
        drop.partly = drop.families.len() * drop.interfaces.len() < ways;
        let is_shut = |family| shut.get(family).is_some_and(|(ways, shut)| ways == shut);
        drop.keeps_out = drop.hit.reach == Truth::Yes && drop.families.iter().any(is_shut);
    }
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.hit.reach));
    drops.truncate(SHOWN);
    drops
}

fn key(hit: &Hit<'_>) -> String {
    let Hit { table, base, reach, .. } = hit;
    let rule = hit.rule.map(|(chain, rule)| (&chain.name, rule.handle, &rule.text));
    format!("{} {} {:?} {} {reach:?} {rule:?}", table.family, table.name, table.tool, base.name)
}

fn tell(wanted: &Wanted, drop: &Drop<'_>) -> Finding {
    let Drop { hit, packet, .. } = drop;
    let (id, severity, verb) = match (hit.reach, hit.some_devices) {
        (Truth::Yes, _) if drop.keeps_out => ("firewall-drops", Severity::Fault, "drops"),
        (Truth::Yes, _) => ("firewall-drops-partly", Severity::Warning, "drops"),
        (_, true) => ("firewall-drops-some", Severity::Note, "drops, for some devices,"),
        _ => ("firewall-may-drop", Severity::Warning, "may drop"),
    };
    let verb = match (hit.answers, verb) {
        (true, "drops") => "rejects",
        (true, "may drop") => "may reject",
        (_, verb) => verb,
    };
    let (answers, place_of_service) = match packet.heading {
        Heading::ToService => ("", "to"),
        Heading::ToDevice => ("answers from ", "of"),
    };
    let service = wanted.to.map(|to| format!(" {place_of_service} {to}")).unwrap_or_default();
    let mut what =
        format!("{} {verb} {answers}{}{service} ({})", whose(hit), wanted.port, wanted.what);
    if drop.partly {
        let families: Vec<_> = drop
            .families
            .iter()
            .map(|family| match family {
                IpFamily::V4 => "IPv4",
                IpFamily::V6 => "IPv6",
            })
            .collect();
        let interfaces: Vec<_> = drop.interfaces.iter().map(String::as_str).collect();
        what.push_str(&format!(": {} by {}", families.join(" and "), interfaces.join(", ")));
    }
    let doubts: Vec<String> = hit
        .doubts
        .iter()
        .map(|doubt| match doubt {
            Doubt::Device => "the device's address".to_owned(),
            Doubt::Other(what) => what.clone(),
        })
        .collect();
    if !doubts.is_empty() && hit.reach < Truth::Yes {
        what.push_str(&format!("; it depends on {}", doubts.join(", and on ")));
    }
    Finding::new(id, severity, what).at(place(hit)).mend(mend::command(hit, packet))
}

/// Whose chain it is.
fn whose(hit: &Hit<'_>) -> String {
    let program = match mend::manager(hit) {
        mend::Manager::Ufw => "ufw",
        mend::Manager::Firewalld { .. } => "firewalld",
        mend::Manager::Docker => "Docker's firewall",
        mend::Manager::Iptables => "iptables",
        mend::Manager::Nft => "another nftables table",
    };
    format!("{program}, behind the door,")
}

/// Table, chain and rule.
fn place(hit: &Hit<'_>) -> String {
    let Hit { table, base, rule, .. } = hit;
    let tool = match table.tool {
        Tool::Nft => "",
        Tool::IptablesNft => " (iptables-nft)",
        Tool::IptablesLegacy => " (iptables-legacy: `nft list ruleset` doesn't show it)",
    };
    let table_name = format!("table {} {}{tool}", table.family, table.name);
    let Some((chain, rule)) = rule else {
        return format!("{table_name}, chain {}, policy drop", base.name);
    };
    let listed = rule.handle.filter(|_| rule.text.is_none());
    let text = rule
        .text
        .clone()
        .or_else(|| listed.and_then(|handle| read::rule_text(table, &chain.name, handle)));
    let text = text.map(|text| format!(": {text}")).unwrap_or_default();
    let handle = rule.handle.map(|handle| format!(" handle {handle}")).unwrap_or_default();
    format!("{table_name}, chain {}, rule{handle}{text}", chain.name)
}
