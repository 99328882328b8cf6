//! The table, as data: sets, chains and rules, from the services and who needs no knock.
//!
//! # Security considerations
//! - A SYN never counts as established: a conntrack entry that the server has reset still does, and an
//!   expired client could come back for ever from the same port.
//! - Established alone lets nobody live on: a connection that began while the table was away is that too.
//!   Only a packet that came by a door gives its connection our label, and only who has it lives on. It is
//!   in conntrack, and so outlives the table.
//! - Every chain that looks at ports relies on packets being whole. Conntrack reassembles fragments, and
//!   is on because `gate` asks for `ct state`, whatever `grant.sessions` is.
//! - `notrack` for knocks, so that one sniffed tag can't fill the host's conntrack table.
//! - A client's tag passes before any ban is looked at: junk that is forged in a device's name can't keep its
//!   next knock out. Where the filter by tags is off, whatever has a knock's length does.
//! - With `ban.scope = "host"`, a live grant passes before a ban as well.
//! - `closed` keeps the host from telling by an ICMP "port unreachable" that no daemon runs.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::gate::{
    bans::Bans,
    grants::Grants,
    policy::{BanScope, Port, Service, Sessions},
    source::IPV6_PREFIX,
};

/// The table's family and name; nothing of ours is anywhere else.
pub const TABLE: &str = "inet knockd";
/// The table's name alone.
pub const TABLE_NAME: &str = "knockd";
/// Doors for IPv4 addresses.
pub const DOOR4: &str = "door4";
/// Doors for IPv6 addresses.
pub const DOOR6: &str = "door6";

/// IPv4 addresses that are banned by their failures.
pub const BAN4: &str = "ban4";
/// IPv6 networks that are banned by their failures.
pub const BAN6: &str = "ban6";
/// IPv4 addresses that an admin has banned.
pub const BLOCK4: &str = "block4";
/// IPv6 networks that an admin has banned.
pub const BLOCK6: &str = "block6";

/// Tags of the days that the allowed skew reaches now.
pub const TAGS: &str = "tags";

/// The bit of a connection's conntrack label that says: it came by a door. Of 128, one that hardly anybody
/// else's rules use.
pub const LABEL: u8 = 119;

/// What the kernel does about junk, before any process wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefilter {
    /// Packets with a client's tag always pass, others within a budget.
    On {
        /// Packets a second without a client's tag that reach the daemon.
        junk_budget: NonZeroU32,
        /// How many clients there are: each has a tag or two in the kernel.
        clients: usize,
    },
    /// Every packet reaches the daemon.
    Off,
}

/// All that the table is made from.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The UDP ports that knocks come in at.
    pub knock_ports: &'a [u16],
    /// What is behind the door.
    pub services: &'a [Service],
    /// Interfaces from which nobody needs to knock.
    pub allowed_interfaces: Vec<&'a str>,
    /// Networks from which nobody needs to knock.
    pub allowed_networks: &'a [IpNet],
    /// What happens to established connections when a grant ends.
    pub sessions: Sessions,
    /// What the kernel does about junk.
    pub prefilter: Prefilter,
    /// What is shut to a source that is banned by its failures.
    pub ban_scope: BanScope,
}

/// A set and how its contents come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// Its type and flags, in nft's words.
    pub definition: String,
    /// Its contents.
    pub contents: Contents,
}

/// How a set's contents come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The daemon writes them one by one; a new ruleset leaves them alone.
    Kept,
    /// They follow from the configuration.
    Fixed(Vec<String>),
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hooks in; `None` for one that is only gone to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hooks in; type filter, policy accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook's name.
    pub hook: &'static str,
    /// Its priority.
    pub priority: i32,
}

/// A rule, told from all others by its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it matches and does, in nft's words.
    pub text: String,
    /// What it is for, and a digest of its text: the kernel gives a rule back in other words, and a rule
    /// that follows from an older configuration is told from a new one by it.
    pub comment: String,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// NF_IP_PRI_RAW (include/uapi/linux/netfilter_ipv4.h): before conntrack.
const BEFORE_CONNTRACK: i32 = -300;
/// Before that, and after fragments are put together (NF_IP_PRI_CONNTRACK_DEFRAG, -400).
const BEFORE_ALL: i32 = -310;
/// Between NF_IP_PRI_CONNTRACK (-200) and NF_IP_PRI_NAT_DST (-100): local and published ports alike.
const BEFORE_DNAT: i32 = -155;
/// Just before NF_IP_PRI_FILTER (0).
const BEFORE_FILTER: i32 = -10;

impl Ruleset {
    /// The table of a plan.
    #[must_use]
    pub fn of(plan: &Plan<'_>) -> Self {
        let banned = match plan.ban_scope {
            BanScope::Knock => None,
            BanScope::Host => Some(banned(plan)),
        };
        let chains =
            [early(plan), knock(plan.prefilter), door(plan), gate(plan.sessions), closed(plan)];
        Self { sets: sets(plan), chains: banned.into_iter().chain(chains).collect() }
    }

    /// The script for nft that puts the table in as one transaction: chains and fixed contents anew,
    /// doors kept.
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = format!("add table {TABLE}\n");
        for set in &self.sets {
            put(&mut script, format_args!("add set {TABLE} {} {{ {} }}", set.name, set.definition));
            if let Contents::Fixed(_) = set.contents {
                put(&mut script, format_args!("flush set {TABLE} {}", set.name));
            }
        }
        for chain in &self.chains {
            put(
                &mut script,
                format_args!("add chain {TABLE} {}{}", chain.name, braced(chain.base)),
            );
            put(&mut script, format_args!("flush chain {TABLE} {}", chain.name));
        }
        script + &self.listing()
    }

    /// The table as nft would list it, but for counters and doors.
    #[must_use]
    pub fn listing(&self) -> String {
        let mut listing = format!("table {TABLE} {{\n");
        for set in &self.sets {
            let elements = match &set.contents {
                Contents::Fixed(elements) if !elements.is_empty() => {
                    format!(" elements = {{ {} }};", elements.join(", "))
                }
                Contents::Fixed(_) | Contents::Kept => String::new(),
            };
            put(
                &mut listing,
                format_args!("\tset {} {{ {}{elements} }}", set.name, set.definition),
            );
        }
        for chain in &self.chains {
            put(&mut listing, format_args!("\n\tchain {} {{", chain.name));
            if let Some(base) = chain.base {
                put(&mut listing, format_args!("\t\t{}", base.definition()));
            }
            for Rule { text, comment } in &chain.rules {
                put(&mut listing, format_args!("\t\t{text} comment \"{comment}\""));
            }
            put(&mut listing, format_args!("\t}}"));
        }
        listing + "}\n"
    }
}

impl Base {
    fn definition(self) -> String {
        format!("type filter hook {} priority {}; policy accept;", self.hook, self.priority)
    }
}

fn braced(base: Option<Base>) -> String {
    base.map_or_else(String::new, |base| format!(" {{ {} }}", base.definition()))
}

fn put(script: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = writeln!(script, "{line}");
}

fn sets(plan: &Plan<'_>) -> Vec<Set> {
    let services = plan.services;
    let size = Grants::MAX;
    let kept = |name, definition| Set { name, definition, contents: Contents::Kept };
    let fixed = |name, definition: &str, elements: Vec<String>| Set {
        name,
        definition: definition.to_owned(),
        contents: Contents::Fixed(elements),
    };
    let door = |address: &str| {
        format!(
            "type {address} . inet_proto . inet_service; flags timeout; timeout 30s; size {size};"
        )
    };
    let ban =
        |address: &str| format!("type {address}; flags timeout; timeout 6h; size {};", Bans::MAX);
    vec![
        kept(BAN4, ban("ipv4_addr")),
        kept(BAN6, ban("ipv6_addr")),
        kept(BLOCK4, ban("ipv4_addr")),
        kept(BLOCK6, ban("ipv6_addr")),
        kept(DOOR4, door("ipv4_addr")),
        kept(DOOR6, door("ipv6_addr")),
        kept(
            TAGS,
            format!("typeof @th,64,64; flags timeout; timeout 2d; size {};", tags(plan.prefilter)),
        ),
        fixed("protected", "type inet_proto . inet_service;", protected(services)),
        fixed(
            "routed4",
            "type ipv4_addr . inet_proto . inet_service;",
            routed(services, IpAddr::is_ipv4),
        ),
        fixed(
            "routed6",
            "type ipv6_addr . inet_proto . inet_service;",
            routed(services, IpAddr::is_ipv6),
        ),
    ]
}

/// Room for the tags of two days: near midnight both count.
fn tags(prefilter: Prefilter) -> usize {
    let clients = match prefilter {
        Prefilter::On { clients, .. } => clients,
        Prefilter::Off => 0,
    };
    (2 * clients).next_power_of_two().max(1 << 18)
}

/// The ports of services on this host, Docker-published ones too.
fn protected(services: &[Service]) -> Vec<String> {
    let ports =
        services.iter().filter(|service| service.to.is_empty()).flat_map(|service| &service.ports);
    sorted(ports.map(element).collect())
}

/// The addresses and ports of services behind this host.
fn routed(services: &[Service], of_family: fn(&IpAddr) -> bool) -> Vec<String> {
    let elements = services.iter().flat_map(|service| {
        service.to.iter().filter(|to| of_family(to)).flat_map(|to| {
            service.ports.iter().map(move |port| format!("{to} . {}", element(port)))
        })
    });
    sorted(elements.collect())
}

fn element(port: &Port) -> String {
    format!("{} . {}", port.protocol, port.number)
}

fn sorted(mut elements: Vec<String>) -> Vec<String> {
    elements.sort();
    elements.dedup();
    elements
}

fn rule(purpose: &str, text: impl Into<String>) -> Rule {
    let text = text.into();
    let [a, b, c, ..]: [u8; 32] = Sha256::digest(&text).into();
    Rule { comment: format!("{purpose} #{a:02x}{b:02x}{c:02x}"), text }
}

fn knock_ports(plan: &Plan<'_>) -> String {
    let ports: Vec<String> = plan.knock_ports.iter().map(u16::to_string).collect();
    format!("udp dport {{ {} }}", ports.join(", "))
}

/// The knock port, before conntrack spends anything on it.
fn early(plan: &Plan<'_>) -> Chain {
    let ports = knock_ports(plan);
    Chain {
        name: "early",
        base: Some(Base { hook: "prerouting", priority: BEFORE_CONNTRACK }),
        rules: vec![
            rule(
                "a knock is sent to one host",
                format!("{ports} fib daddr type {{ broadcast, anycast, multicast }} counter drop"),
            ),
            rule("knocks to this host", format!("{ports} fib daddr type local goto knock")),
        ],
    }
}

/// What of it reaches the daemon.
fn knock(prefilter: Prefilter) -> Chain {
    let known = rule(
        match prefilter {
            Prefilter::On { .. } => "a client's tag: always through",
            Prefilter::Off => "what can be a knock: only the daemon can tell",
        },
        format!("{} notrack counter accept", is_knock(prefilter)),
    );
    let budget = match prefilter {
        Prefilter::On { junk_budget, .. } => Some(rule(
            "the junk budget",
            format!("limit rate over {junk_budget}/second counter drop"),
        )),
        Prefilter::Off => None,
    };
    let by_failures = banned_sources("banned by its failures", BAN4, BAN6);
    let by_an_admin = banned_sources("banned by an admin", BLOCK4, BLOCK6);
    let to_the_daemon = rule("to the daemon", "notrack counter accept");
    let rules = [known].into_iter().chain(by_failures).chain(by_an_admin).chain(budget);
    Chain { name: "knock", base: None, rules: rules.chain([to_the_daemon]).collect() }
}

/// Matches what can be a client's knock, as far as the kernel can tell. A datagram's first 8 bytes are its
/// tag, and its UDP length is 8 more than a packet's.
fn is_knock(prefilter: Prefilter) -> String {
    let length = format!("udp length {}", common::DATAGRAM_LEN + 8);
    match prefilter {
        Prefilter::On { .. } => format!("{length} @th,64,64 @{TAGS}"),
        Prefilter::Off => length,
    }
}

/// Drops what comes from the sources of these sets.
fn banned_sources(comment: &str, ipv4: &str, ipv6: &str) -> [Rule; 2] {
    let mask = Ipv6Addr::from_bits(u128::MAX << (128 - u32::from(IPV6_PREFIX)));
    [
        rule(comment, format!("ip saddr @{ipv4} counter drop")),
        rule(comment, format!("ip6 saddr & {mask} @{ipv6} counter drop")),
    ]
}

/// Everything from a source that is banned by its failures, where `ban.scope` says so.
fn banned(plan: &Plan<'_>) -> Chain {
    let ports = knock_ports(plan);
    let mut rules = vec![rule("this host itself", "iif lo accept")];
    rules.extend(allowed(plan));
    rules.push(rule("a client's tag", format!("{ports} {} accept", is_knock(plan.prefilter))));
    rules.extend(granted("counter accept"));
    rules.extend(banned_sources("banned by its failures, from everything", BAN4, BAN6));
    Chain { name: "banned", base: Some(Base { hook: "prerouting", priority: BEFORE_ALL }), rules }
}

/// What is done with packets of live grants.
fn granted(verdict: &str) -> [Rule; 2] {
    [
        rule("IPv4 grants", format!("ip saddr . meta l4proto . th dport @{DOOR4} {verdict}")),
        rule("IPv6 grants", format!("ip6 saddr . meta l4proto . th dport @{DOOR6} {verdict}")),
    ]
}

/// Who needs no knock.
fn allowed(plan: &Plan<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !plan.allowed_interfaces.is_empty() {
        let names: Vec<String> =
            plan.allowed_interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        rules.push(rule(
            "allowed interfaces need no knock",
            format!("iifname {{ {} }} counter accept", names.join(", ")),
        ));
    }
    for (family, comment, wanted) in [
        (
            "ip",
            "allowed IPv4 networks need no knock",
            plan.networks(|network| matches!(network, IpNet::V4(_))),
        ),
        (
            "ip6",
            "allowed IPv6 networks need no knock",
            plan.networks(|network| matches!(network, IpNet::V6(_))),
        ),
    ] {
        if !wanted.is_empty() {
            rules.push(rule(
                comment,
                format!("{family} saddr {{ {} }} counter accept", wanted.join(", ")),
            ));
        }
    }
    rules
}

/// Who wants to reach a protected port; after conntrack, before destination NAT.
fn door(plan: &Plan<'_>) -> Chain {
    let mut rules = vec![rule("this host itself", "iif lo accept")];
    rules.extend(allowed(plan));
    rules.extend([
        rule(
            "services on this host",
            "fib daddr type { local, broadcast, anycast, multicast } meta l4proto . th dport @protected goto gate",
        ),
        rule("IPv4 services behind this host", "ip daddr . meta l4proto . th dport @routed4 goto gate"),
        rule("IPv6 services behind this host", "ip6 daddr . meta l4proto . th dport @routed6 goto gate"),
    ]);
    Chain { name: "door", base: Some(Base { hook: "prerouting", priority: BEFORE_DNAT }), rules }
}

impl Plan<'_> {
    fn networks(&self, of_family: fn(&IpNet) -> bool) -> Vec<String> {
        let networks: Vec<IpNet> =
            self.allowed_networks.iter().filter(|network| of_family(network)).copied().collect();
        // nft refuses a set whose networks overlap.
        IpNet::aggregate(&networks).iter().map(IpNet::to_string).collect()
    }
}

/// Whether a packet to a protected port may pass. Its last word is drop.
fn gate(sessions: Sessions) -> Chain {
    let mut rules = Vec::from(banned_sources("banned by an admin", BLOCK4, BLOCK6));
    rules.extend(match sessions {
        Sessions::Keep => vec![
            rule(
                "an established TCP connection lives on",
                format!(
                    "tcp flags & (syn | ack) != syn ct state established ct label {LABEL} accept"
                ),
            ),
            rule(
                "so does any other flow",
                format!("meta l4proto != tcp ct state established ct label {LABEL} accept"),
            ),
        ],
        Sessions::Cut => vec![rule(
            "asking for its state keeps conntrack reassembling fragments",
            "ct state invalid counter drop",
        )],
    });
    rules.extend(granted(&format!("counter ct label set {LABEL} accept")));
    rules.push(rule("everybody else", "counter drop"));
    Chain { name: "gate", base: None, rules }
}

/// No ICMP "port unreachable" while no socket is bound.
fn closed(plan: &Plan<'_>) -> Chain {
    let ports = knock_ports(plan);
    Chain {
        name: "closed",
        base: Some(Base { hook: "input", priority: BEFORE_FILTER }),
        rules: vec![
            rule("a daemon listens", format!("{ports} socket wildcard {{ 0, 1 }} accept")),
            rule("no daemon listens", format!("{ports} counter drop")),
        ],
    }
}
