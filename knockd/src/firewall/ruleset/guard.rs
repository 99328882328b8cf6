//! The chains that guard services: where a packet's address and port are final, by what became of it and by what it
//! was sent to.
//!
//! # Security considerations
//! - `input` and `forward` are the hooks where other firewalls drop. The kernel answers some packets before them,
//!   whatever their port: with hop limit 1, too long for the way, with IP options that are wrong. A table that dropped
//!   these in `prerouting` would be silent where every other dropped port isn't, and show which port it guards.
//! - Behind them is no address translation of a destination. So no rule that redirects or translates leads around:
//!   what became of a packet is looked at, whatever it was sent to; and what it was sent to, where that was
//!   translated, since a port is published so.
//! - A transparent proxy (TPROXY) translates nothing: the packet keeps the port that it was sent to, and no expression
//!   tells the port of the socket that takes it. Such a rule for a guarded port is seen, since that port is the
//!   packet's; one that leads another port to a guarded one is not, and `knockd doctor` names it.
//! - An expression that can't load its value (a port that the packet doesn't have) makes its rule not match, and
//!   a packet that no rule matches is accepted. So `whole` lets pass what it has read, and drops the rest: a protocol
//!   without ports, or a port that could be loaded, and that no rule before it guards.
//! - Fragments don't pass at all. Conntrack has put together those that can be; of the others the first may hold a
//!   port or a protocol that a later one overwrites where the receiver is careless about overlaps.
//! - Answers count as anything else: what goes to a guarded port needs a door, whoever is said to have begun. One packet
//!   in the name of a service behind this host, which the host forwards and translates, makes a connection of which a
//!   stranger's packets are the answers.
//! - Who is exempt is let pass before: nothing is guarded from them, and an address or interface can always be read.
//! - Only TCP and UDP ports are guarded: what a tunnel holds (ESP, AH, GRE, IPIP) is seen where it is unpacked, if
//!   that is here.

use std::net::IpAddr;

use super::{
    BLOCK4, BLOCK6, Base, Chain, LABEL, Plan, Rule,
    chains::{BEFORE_ALL, PORT, banned_sources, exempt, granted, knock_ports, rule},
    sets::sorted,
};
use crate::gate::policy::{Service, Sessions};

/// The protocols that have ports which can be guarded. An expression for a connection's own port needs to be
/// told which one.
const PROTOCOLS: [&str; 2] = ["tcp", "udp"];
/// The expression for the port that a connection's first packet was sent to.
const ORIGINAL_PORT: &str = "ct original proto-dst";

/// The chains of a plan that guard its services.
pub(super) fn of(plan: &Plan<'_>) -> [Chain; 6] {
    let chain = |name, protocols: &[&str], port| {
        let rules = gate(plan.sessions, protocols, port);
        Chain { name, base: None, rules }
    };
    let each = PROTOCOLS.map(|protocol| format!("meta l4proto {protocol} "));
    let published = chain("published", &each.each_ref().map(String::as_str), ORIGINAL_PORT);
    [input(plan), forward(plan), asked(), chain("gate", &[""], PORT), published, whole()]
}

fn base(name: &'static str) -> Chain {
    Chain { name, base: Some(Base { hook: name, priority: BEFORE_ALL }), rules: Vec::new() }
}

/// What is for this host.
fn input(plan: &Plan<'_>) -> Chain {
    let knocks = rule(
        "knocks that were redirected to their port",
        format!("{} ct state != untracked goto knock", knock_ports(plan)),
    );
    let guarded = [
        rule("what is guarded elsewhere", "jump asked"),
        rule("services on this host", "meta l4proto . th dport @protected goto gate"),
        rule("the rest has to be read", "goto whole"),
    ];
    let rules = [knocks].into_iter().chain(exempt(plan)).chain(guarded).collect();
    Chain { rules, ..base("input") }
}

/// What goes through this host.
fn forward(plan: &Plan<'_>) -> Chain {
    let mut rules = exempt(plan);
    rules.push(rule("what is guarded", "jump asked"));
    rules.extend(behind(plan.services, IpAddr::is_ipv4).map(|hosts| {
        rule("IPv4 hosts with guarded ports", format!("ip daddr {hosts} goto whole"))
    }));
    rules.extend(behind(plan.services, IpAddr::is_ipv6).map(|hosts| {
        rule("IPv6 hosts with guarded ports", format!("ip6 daddr {hosts} goto whole"))
    }));
    Chain { rules, ..base("forward") }
}

/// The addresses of services behind this host, as a set; `None` if there are none.
fn behind(services: &[Service], of_family: fn(&IpAddr) -> bool) -> Option<String> {
    let addresses = services.iter().flat_map(|service| &service.to);
    let hosts = sorted(addresses.filter(|to| of_family(to)).map(IpAddr::to_string).collect());
    (!hosts.is_empty()).then(|| format!("{{ {} }}", hosts.join(", ")))
}

/// Whether a packet was sent to what is guarded, or leads to what is guarded behind this host.
fn asked() -> Chain {
    let published = PROTOCOLS.into_iter().flat_map(|protocol| {
        let translated = format!("meta l4proto {protocol} ct direction original ct status dnat");
        let port = format!("meta l4proto . {ORIGINAL_PORT}");
        [
            rule("published ports", format!("{translated} {port} @protected goto published")),
            rule(
                "translated IPv4 addresses",
                format!("{translated} ct original ip daddr . {port} @routed4 goto published"),
            ),
            rule(
                "translated IPv6 addresses",
                format!("{translated} ct original ip6 daddr . {port} @routed6 goto published"),
            ),
        ]
    });
    let routed = [
        rule(
            "IPv4 services behind this host",
            "ip daddr . meta l4proto . th dport @routed4 goto gate",
        ),
        rule(
            "IPv6 services behind this host",
            "ip6 daddr . meta l4proto . th dport @routed6 goto gate",
        ),
    ];
    let rules = published.chain(routed).collect();
    Chain { name: "asked", base: None, rules }
}

/// Whether a packet to a guarded port may pass: which one, `port` says, for packets that each of `protocols` matches.
/// Its last word is drop.
fn gate(sessions: Sessions, protocols: &[&str], port: &str) -> Vec<Rule> {
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
    // The first packet of a handshake has no label: one that is finished when the grant is over is no connection.
    let begins = "tcp flags & (syn | ack) == syn ";
    rules.extend(granted("a handshake begins", begins, port, "counter accept"));
    let passes = format!("counter ct label set {LABEL} accept");
    rules.extend(protocols.iter().flat_map(|matches| granted("grants", matches, port, &passes)));
    rules.push(rule("everybody else", "counter drop"));
    rules
}

/// Lets pass what could be read.
fn whole() -> Chain {
    let rules = vec![
        rule("a fragment that can't be put together", "exthdr frag exists counter drop"),
        rule("a fragment that can't be put together", "ip frag-off & 0x3fff != 0 counter drop"),
        rule("a port that isn't guarded", "meta l4proto { tcp, udp } th dport 0-65535 accept"),
        rule("a protocol without ports", "meta l4proto != { tcp, udp } accept"),
        rule("what can't be read", "counter drop"),
    ];
    Chain { name: "whole", base: None, rules }
}
