//! The table's chains, rule by rule.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::{
    BAN4, BAN6, BLOCK4, BLOCK6, Base, Chain, DOOR4, DOOR6, LABEL, Plan, Prefilter, Rule, TAGS,
};
use crate::gate::{
    policy::{BanScope, ReplyPolicy, Sessions},
    source::IPV6_PREFIX,
};

/// NF_IP_PRI_RAW (include/uapi/linux/netfilter_ipv4.h): before conntrack.
const BEFORE_CONNTRACK: i32 = -300;
/// Before that, and after fragments are put together (NF_IP_PRI_CONNTRACK_DEFRAG, -400).
const BEFORE_ALL: i32 = -310;
/// Between NF_IP_PRI_CONNTRACK (-200) and NF_IP_PRI_NAT_DST (-100): local and published ports alike.
const BEFORE_DNAT: i32 = -155;
/// Just before NF_IP_PRI_FILTER (0).
const BEFORE_FILTER: i32 = -10;

/// Chains that only some plans have.
pub(super) const SOMETIMES: [&str; 1] = ["banned"];

/// The chains of a plan, in the order in which a packet meets them.
pub(super) fn of(plan: &Plan<'_>) -> Vec<Chain> {
    let banned = match plan.ban_scope {
        BanScope::Knock => None,
        BanScope::Host => Some(banned(plan)),
    };
    let chains =
        [early(plan), knock(plan.prefilter), door(plan), gate(plan.sessions), closed(plan)];
    let replies = match plan.replies {
        ReplyPolicy::Off => None,
        ReplyPolicy::On => Some(replies(plan)),
    };
    banned.into_iter().chain(chains).chain(replies).collect()
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
    // Without it a neighbour's knock could not even be sent (RFC 4861).
    rules.push(rule(
        "IPv6 neighbours find each other",
        "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
    ));
    rules.extend(granted("grants", "", "counter accept"));
    rules.extend(banned_sources("banned by its failures, from everything", BAN4, BAN6));
    Chain { name: "banned", base: Some(Base { hook: "prerouting", priority: BEFORE_ALL }), rules }
}

/// What is done with packets of live grants, those that this matches.
fn granted(purpose: &str, matches: &str, verdict: &str) -> [Rule; 2] {
    [("IPv4", "ip", DOOR4), ("IPv6", "ip6", DOOR6)].map(|(family, ip, doors)| {
        let door = format!("{ip} saddr . meta l4proto . th dport @{doors}");
        rule(&format!("{family} {purpose}"), format!("{matches}{door} {verdict}"))
    })
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
        rule("a fragment's port can't be read", "exthdr frag exists counter drop"),
        rule("a fragment's port can't be read", "ip frag-off & 0x3fff != 0 counter drop"),
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
    // The first packet of a handshake has no label: one that is finished when the grant is over is no connection.
    rules.extend(granted(
        "a handshake begins",
        "tcp flags & (syn | ack) == syn ",
        "counter accept",
    ));
    rules.extend(granted("grants", "", &format!("counter ct label set {LABEL} accept")));
    rules.push(rule("everybody else", "counter drop"));
    Chain { name: "gate", base: None, rules }
}

/// Replies, before conntrack spends anything on them: a fleet that comes back at once would fill its table.
fn replies(plan: &Plan<'_>) -> Chain {
    let ports: Vec<String> = plan.knock_ports.iter().map(u16::to_string).collect();
    let from = format!("udp sport {{ {} }}", ports.join(", "));
    let length = format!("udp length {}", common::REPLY_LEN + 8);
    Chain {
        name: "replies",
        base: Some(Base { hook: "output", priority: BEFORE_CONNTRACK }),
        rules: vec![rule("replies to knocks", format!("{from} {length} notrack counter accept"))],
    }
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
