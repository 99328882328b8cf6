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
//! - `closed` keeps the host from telling by an ICMP "port unreachable" that no daemon runs.

use std::{fmt::Write as _, net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::gate::{
    grants::Grants,
    policy::{Port, Service, Sessions},
};

/// The table's family and name; nothing of ours is anywhere else.
pub const TABLE: &str = "inet knockd";
/// The table's name alone.
pub const TABLE_NAME: &str = "knockd";
/// Doors for IPv4 addresses.
pub const DOOR4: &str = "door4";
/// Doors for IPv6 addresses.
pub const DOOR6: &str = "door6";

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
/// Between NF_IP_PRI_CONNTRACK (-200) and NF_IP_PRI_NAT_DST (-100): local and published ports alike.
const BEFORE_DNAT: i32 = -155;
/// Just before NF_IP_PRI_FILTER (0).
const BEFORE_FILTER: i32 = -10;

impl Ruleset {
    /// The table of a plan.
    #[must_use]
    pub fn of(plan: &Plan<'_>) -> Self {
        Self {
            sets: sets(plan),
            chains: vec![
                early(plan),
                knock(plan.prefilter),
                door(plan),
                gate(plan.sessions),
                closed(plan),
            ],
        }
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
    vec![
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

/// What of it reaches the daemon. A datagram's first 8 bytes are its tag, and its UDP length is 8 more
/// than a packet's.
fn knock(prefilter: Prefilter) -> Chain {
    let filter = match prefilter {
        Prefilter::Off => Vec::new(),
        Prefilter::On { junk_budget, .. } => vec![
            rule(
                "a client's tag: always through",
                format!(
                    "udp length {} @th,64,64 @{TAGS} notrack counter accept",
                    common::DATAGRAM_LEN + 8
                ),
            ),
            rule("the junk budget", format!("limit rate over {junk_budget}/second counter drop")),
        ],
    };
    let to_the_daemon = rule("to the daemon", "notrack counter accept");
    Chain { name: "knock", base: None, rules: filter.into_iter().chain([to_the_daemon]).collect() }
}

/// Who wants to reach a protected port; after conntrack, before destination NAT.
fn door(plan: &Plan<'_>) -> Chain {
    let mut rules = vec![rule("this host itself", "iif lo accept")];
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
    let mut rules = match sessions {
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
    };
    let by_a_door = format!("counter ct label set {LABEL} accept");
    rules.extend([
        rule("IPv4 grants", format!("ip saddr . meta l4proto . th dport @{DOOR4} {by_a_door}")),
        rule("IPv6 grants", format!("ip6 saddr . meta l4proto . th dport @{DOOR6} {by_a_door}")),
        rule("everybody else", "counter drop"),
    ]);
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
