//! Whether another program's rules drop what the door lets through, or the knock itself.
//!
//! What a knock opens, the kernel lets through *our* chains; every other chain that hooks in still has its say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Examined,
    finding::{Finding, Findings, Severity, Unable},
    host::{Host, Interface},
    mend,
    rules::{
        model::{Table, Tool, Truth},
        packet::{Doubt, IpFamily, Packet, Way},
        read,
        walk::{self, Hit},
    },
};
use crate::{
    config::Config,
    gate::policy::{Port, Protocol, Service},
};

/// Where nftables translates destinations (NF_IP_PRI_NAT_DST).
const DNAT: i64 = -100;
/// How many drops that aren't sure are told of one port.
const SHOWN: usize = 4;

/// What a device sends that has to come through.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) port: Port,
    /// What it is for, in words.
    pub(super) what: String,
    /// conntrack's state of the packet when it meets other rules.
    pub(super) state: &'static str,
    /// The address behind this host that it is sent to.
    pub(super) to: Option<IpAddr>,
}

/// All that devices send: the knock, and what it opens.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let knock = Port { protocol: Protocol::Udp, number: config.listen.port() };
    let knock = Wanted {
        port: knock,
        what: "knocks".to_owned(),
        // Our own rule takes it out of conntrack before the others see it.
        state: "untracked",
        to: None,
    };
    let of_service = |service: &Service| {
        let what = format!("service {}", service.name);
        let wanted = |port: Port, to| Wanted { port, what: what.clone(), state: "new", to };
        let (ports, to) = (service.ports.clone(), service.to.clone());
        let wanted: Vec<_> = match to.is_empty() {
            true => ports.into_iter().map(|port| wanted(port, None)).collect(),
            false => ports
                .into_iter()
                .flat_map(|port| to.iter().map(move |to| (port, *to)))
                .map(|(port, to)| wanted(port, Some(to)))
                .collect(),
        };
        wanted
    };
    [knock].into_iter().chain(config.policy.services.iter().flat_map(of_service)).collect()
}

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
    for wanted in wanted(config) {
        let drops = drops_of(&wanted, config, host, &rules.tables);
        for drop in drops {
            findings.add(tell(&wanted, &drop));
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
            let mut hits = hits(wanted, interface, family, host, tables);
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

/// Where a packet of what is wanted is dropped, on its whole way.
fn hits<'a>(
    wanted: &Wanted,
    interface: &Interface,
    family: IpFamily,
    host: &Host,
    tables: &'a [Table],
) -> Vec<(Hit<'a>, Packet)> {
    let packet = packet(wanted.port, wanted.state, interface, family, wanted.to, host);
    let translated = match wanted.to {
        Some(_) => None,
        None => translation(&packet, host, tables),
    };
    let Some((translated, reach)) = translated else {
        return walk::drops(tables, &packet).into_iter().map(|hit| (hit, packet.clone())).collect();
    };
    let mut found = Vec::new();
    let mut go = |hook: &str, packet: &Packet, after: Option<bool>, sure: Truth| {
        for (table, chain, base) in walk::bases(tables, packet, hook) {
            if after.is_some_and(|after| after != (base.priority > DNAT)) {
                continue;
            }
            for mut hit in walk::through(table, chain, packet).0 {
                hit.reach = hit.reach.min(sure);
                found.push((hit, packet.clone()));
            }
        }
    };
    go("ingress", &packet, None, Truth::Yes);
    go("prerouting", &packet, Some(false), Truth::Yes);
    go("prerouting", &translated, Some(true), reach);
    match translated.goes_out {
        Way::Here => go("input", &translated, None, reach),
        Way::Through(_) => go("forward", &translated, None, reach),
    }
    if reach == Truth::Maybe {
        go("input", &packet, None, Truth::Maybe);
    }
    found
}

/// A packet of a device that comes in here.
pub(super) fn packet(
    port: Port,
    state: &'static str,
    interface: &Interface,
    family: IpFamily,
    to: Option<IpAddr>,
    host: &Host,
) -> Packet {
    let goes_out = match to {
        None => Way::Here,
        Some(to) => Way::Through(host.towards(to).map(|interface| interface.name.clone())),
    };
    Packet {
        family,
        protocol: port.protocol,
        port: port.number.get(),
        state,
        comes_in: interface.name.clone(),
        goes_out,
        to: to.map_or_else(|| host.addresses(family), |to| vec![to]),
        translated: false,
    }
}

/// The packet as it is behind a translation of its destination, and whether that is sure.
pub(super) fn translation(
    packet: &Packet,
    host: &Host,
    tables: &[Table],
) -> Option<(Packet, Truth)> {
    let bases = walk::bases(tables, packet, "prerouting");
    let found = bases
        .into_iter()
        .filter(|(.., base)| base.is_nat)
        .find_map(|(table, chain, _)| walk::through(table, chain, packet).1)?;
    let mut translated = Packet { translated: true, ..packet.clone() };
    translated.port = found.port.unwrap_or(translated.port);
    if let Some(to) = found.to.filter(|to| IpFamily::of(*to) == packet.family) {
        translated.to = vec![to];
        translated.goes_out = Way::Through(host.towards(to).map(|it| it.name.clone()));
    }
    Some((translated, found.reach))
}

fn key(hit: &Hit<'_>) -> String {
    let Hit { table, base, reach, .. } = hit;
    let rule = hit.rule.map(|(chain, rule)| (&chain.name, rule.handle, &rule.text));
    format!("{} {} {:?} {} {reach:?} {rule:?}", table.family, table.name, table.tool, base.name)
}

fn tell(wanted: &Wanted, drop: &Drop<'_>) -> Finding {
    let Drop { hit, packet, .. } = drop;
    let (id, severity, verb) = match (hit.reach, hit.some_sources) {
        (Truth::Yes, _) if drop.keeps_out => ("firewall-drops", Severity::Fault, "drops"),
        (Truth::Yes, _) => ("firewall-drops-partly", Severity::Warning, "drops"),
        (_, true) => ("firewall-drops-some", Severity::Note, "drops, from some senders,"),
        _ => ("firewall-may-drop", Severity::Warning, "may drop"),
    };
    let verb = match (hit.answers, verb) {
        (true, "drops") => "rejects",
        (true, "may drop") => "may reject",
        (_, verb) => verb,
    };
    let to = wanted.to.map(|to| format!(" to {to}")).unwrap_or_default();
    let mut what = format!("{} {verb} {}{to} ({})", whose(hit), wanted.port, wanted.what);
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
            Doubt::Source => "the sender's address".to_owned(),
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
