//! Tables as `iptables-save` tells them (iptables-save(8), iptables-extensions(8)): those of iptables on
//! nftables, of which nft can't tell all matches, and those of ip_tables, which it doesn't list at all.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    model::{Base, Chain, Condition, Effect, Field, Rule, Table, Tool, Value, Verdict},
    nft::FLAGS,
    packet::IpFamily,
};

/// Targets that let a packet go on.
const GOES_ON: [&str; 23] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "CONNSECMARK",
    "SECMARK",
    "CT",
    "NOTRACK",
    "FLOWOFFLOAD",
    "TRACE",
    "TCPMSS",
    "TTL",
    "HL",
    "DSCP",
    "TOS",
    "CLASSIFY",
    "CHECKSUM",
    "SET",
    "AUDIT",
    "TEE",
    "ECN",
    "MASQUERADE",
];

/// The tables of one family.
pub(in super::super) fn parse(text: &str, family: IpFamily, tool: Tool) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let family = match family {
                IpFamily::V4 => "ip",
                IpFamily::V6 => "ip6",
            };
            let (family, name) = (family.to_owned(), name.trim().to_owned());
            tables.push(Table { family, name, tool, chains: Vec::new() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let Some(name) = words.next() else { continue };
            let base = base(&table.name, name, words.next() == Some("DROP"));
            table.chains.push(Chain { name: name.to_owned(), base, rules: Vec::new() });
        } else if line.starts_with("-A ") {
            let words = words(line);
            let Some((name, options)) = words.get(1).zip(words.get(2..)) else { continue };
            let rule = rule(line, options);
            if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == *name) {
                chain.rules.push(rule);
            }
        }
    }
    tables
}

/// Where a chain with a name of its own hooks in (enum nf_ip_hook_priorities).
fn base(table: &str, chain: &str, drops: bool) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" => "prerouting",
        "INPUT" => "input",
        "FORWARD" => "forward",
        "OUTPUT" => "output",
        "POSTROUTING" => "postrouting",
        _ => return None,
    };
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", "input" | "postrouting") => 100,
        ("nat", _) => -100,
        ("security", _) => 50,
        _ => 0,
    };
    let (hook, devices) = (hook.to_owned(), Vec::new());
    Some(Base { hook, devices, priority, is_nat: table == "nat", drops })
}

/// The words of a line; those in quotes are one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), None, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.get_or_insert_with(String::new).push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// A rule that is being read.
struct Reading {
    conditions: Vec<Condition>,
    /// Whether its target was read: what stands behind that is the target's own.
    has_target: bool,
    target: Option<Verdict>,
    effect: Option<Effect>,
    to: Option<(Option<IpAddr>, Option<u16>)>,
}

fn rule(line: &str, options: &[String]) -> Rule {
    let mut reading =
        Reading { conditions: Vec::new(), has_target: false, target: None, effect: None, to: None };
    let mut rest = options;
    let mut negated = false;
    while let Some((option, after)) = rest.split_first() {
        if option == "!" {
            negated = true;
            rest = after;
            continue;
        }
        // Up to the next option stand its values.
        let is_value = |word: &&String| !word.starts_with('-') && *word != "!";
        let count = after.iter().take_while(is_value).count();
        let (values, after) = after.split_at(count);
        reading.option(option, values, negated);
        negated = false;
        rest = after;
    }
    let verdict = match (reading.target, reading.to) {
        (Some(Verdict::Translate { .. }), Some((to, port))) => {
            Some(Verdict::Translate { to, port })
        }
        (target, _) => target,
    };
    let (conditions, effect) = (reading.conditions, reading.effect);
    Rule { handle: None, text: Some(line.to_owned()), conditions, effect, verdict }
}

impl Reading {
    fn option(&mut self, option: &str, values: &[String], negated: bool) {
        let first = values.first().map(String::as_str).unwrap_or_default();
        let numbers = || first.split(',').map(range).collect();
        let texts = || first.split(',').map(|it| Value::Text(it.to_lowercase())).collect();
        let (field, values) = match option {
            "--to-destination" => {
                self.to = Some(destination(first));
                return;
            }
            "--to-ports" => {
                self.to = Some((None, first.split('-').next().and_then(|port| port.parse().ok())));
                return;
            }
            // Of the target CT.
            "--notrack" => {
                self.effect = Some(Effect::Untrack);
                return;
            }
            // Of the target TPROXY; 0 is the port that the packet has.
            "--on-port" => {
                let port = first.parse().ok().filter(|port| *port != 0);
                self.effect = port.map(Effect::Proxy);
                return;
            }
            // Options of a target decide nothing.
            _ if self.has_target => return,
            "-m" | "--match" | "--comment" => return,
            // Below a limit, as a device's packets are.
            "--limit"
            | "--limit-burst"
            | "--hashlimit-upto"
            | "--hashlimit-burst"
            | "--hashlimit-mode"
            | "--hashlimit-name"
            | "--hashlimit-htable-expire"
            | "--hashlimit-srcmask"
            | "--connlimit-mask"
            | "--connlimit-saddr"
            | "--connlimit-upto" => return,
            // No packet of a device's is a fragment by now, or has a routing header (RFC 5095).
            "-f" | "--fragment" | "--rt-type" | "--hashlimit-above" | "--connlimit-above" => {
                return self.conditions.push(Condition::Known(negated));
            }
            "-p" | "--protocol" => (Field::Protocol, vec![protocol(first)]),
            "-s" | "--source" => (Field::Source, networks(first)),
            "-d" | "--destination" => (Field::Destination, networks(first)),
            "-i" | "--in-interface" => (Field::ComesIn, vec![interface(first)]),
            "-o" | "--out-interface" => (Field::GoesOut, vec![interface(first)]),
            "--dport" | "--dports" | "--destination-port" => (Field::Port, numbers()),
            "--sport" | "--sports" | "--source-port" => (Field::SourcePort, numbers()),
            "--ports" => {
                let of = [Field::Port, Field::SourcePort].map(|field| {
                    vec![Condition::Field { field, negated: false, values: numbers() }]
                });
                return self.conditions.push(Condition::AnyOf { negated, of: of.to_vec() });
            }
            "--ctstate" | "--state" => return self.state(first, negated),
            "--ctdir" => (Field::Direction, texts()),
            "--dst-type" => (Field::DestinationType, texts()),
            "--src-type" => (Field::SourceType, texts()),
            "--pkt-type" => {
                let name = if first == "unicast" { "host" } else { first };
                (Field::PacketType, vec![Value::Text(name.to_owned())])
            }
            "--syn" => return self.flags(0b0001_0111, 0b10, negated),
            "--tcp-flags" => {
                let second = values.get(1).map(String::as_str).unwrap_or_default();
                return self.flags(flags(first), flags(second), negated);
            }
            "-j" | "--jump" => return self.jump(first),
            "-g" | "--goto" => {
                self.target = Some(Verdict::Goto(first.to_owned()));
                return;
            }
            _ => {
                let what = format!("the option {option} of iptables");
                return self.conditions.push(Condition::Unknown(what));
            }
        };
        self.conditions.push(Condition::Field { field, negated, values });
    }

    /// States of conntrack, and that it has translated, which iptables counts among them.
    fn state(&mut self, names: &str, negated: bool) {
        let of = names.split(',').map(|name| {
            let name = name.to_lowercase();
            let field = match name.as_str() {
                "dnat" | "snat" => Field::Status,
                _ => Field::State,
            };
            vec![Condition::Field { field, negated: false, values: vec![Value::Text(name)] }]
        });
        self.conditions.push(Condition::AnyOf { negated, of: of.collect() });
    }

    fn flags(&mut self, mask: u8, value: u8, negated: bool) {
        self.conditions.push(Condition::Flags { mask, value, any: false, negated });
    }

    fn jump(&mut self, target: &str) {
        self.has_target = true;
        self.effect = match target {
            "NOTRACK" => Some(Effect::Untrack),
            "FLOWOFFLOAD" => Some(Effect::Offload),
            _ => None,
        };
        self.target = match target {
            "ACCEPT" => Some(Verdict::Accept),
            "DROP" => Some(Verdict::Drop),
            "REJECT" => Some(Verdict::Reject),
            "RETURN" => Some(Verdict::Return),
            "DNAT" | "REDIRECT" => Some(Verdict::Translate { to: None, port: None }),
            "QUEUE" | "NFQUEUE" | "SYNPROXY" | "TPROXY" => {
                Some(Verdict::Unknown(format!("what the target {target} does")))
            }
            _ if GOES_ON.contains(&target) => None,
            chain => Some(Verdict::Jump(chain.to_owned())),
        };
    }
}

fn protocol(name: &str) -> Value {
    match name {
        "tcp" => Value::Number(6),
        "udp" => Value::Number(17),
        "icmp" => Value::Number(1),
        "ipv6-icmp" | "icmpv6" => Value::Number(58),
        "all" => Value::Range(0, 255),
        // Another one, which no packet that matters here has.
        other => other.parse().map_or(Value::Number(255), Value::Number),
    }
}

fn networks(list: &str) -> Vec<Value> {
    let network = |text: &str| {
        let net = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .or_else(|| with_mask(text));
        net.map_or(Value::Unread, Value::Net)
    };
    list.split(',').map(network).collect()
}

fn with_mask(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
}

fn interface(name: &str) -> Value {
    Value::Text(match name.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => name.to_owned(),
    })
}

fn range(text: &str) -> Value {
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    let bound = |text: &str, open| if text.is_empty() { Some(open) } else { text.parse().ok() };
    match (bound(from, 0), bound(to, u64::from(u16::MAX))) {
        (Some(from), Some(to)) => Value::Range(from, to),
        _ => Value::Unread,
    }
}

fn flags(list: &str) -> u8 {
    list.split(',')
        .map(|name| match name {
            "ALL" => 0b0011_1111,
            "NONE" => 0,
            name => FLAGS
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map_or(0, |(_, bit)| *bit),
        })
        .fold(0, |all, bit| all | bit)
}

/// `address`, `address:port`, `[address]:port`, `:port`, each a range perhaps.
fn destination(text: &str) -> (Option<IpAddr>, Option<u16>) {
    let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port))),
    };
    let first = |range: &str| range.split('-').next().unwrap_or_default().to_owned();
    (first(address).parse().ok(), port.and_then(|port| first(port).parse().ok()))
}
