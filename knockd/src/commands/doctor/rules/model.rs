//! Tables, chains and rules, as far as they decide whether a packet passes.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether something is so; ordered, so that "and" is the least of several and "or" the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Truth {
    /// It isn't.
    No,
    /// It can't be judged from here.
    Maybe,
    /// It is.
    Yes,
}

impl Truth {
    pub(in super::super) const fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }

    pub(in super::super) const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

/// Which program made a table, and changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) enum Tool {
    /// nft, or a program that speaks to nftables itself.
    Nft,
    /// iptables on nftables.
    IptablesNft,
    /// iptables on ip_tables, its own kernel modules, which nft doesn't list.
    IptablesLegacy,
}

/// A table.
#[derive(Clone, Debug)]
pub(in super::super) struct Table {
    /// As nft calls it: ip, ip6, inet, netdev, bridge, arp.
    pub(in super::super) family: String,
    pub(in super::super) name: String,
    pub(in super::super) tool: Tool,
    pub(in super::super) chains: Vec<Chain>,
}

impl Table {
    pub(in super::super) fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

/// A chain.
#[derive(Clone, Debug)]
pub(in super::super) struct Chain {
    pub(in super::super) name: String,
    /// `None` for one that is only gone to.
    pub(in super::super) base: Option<Base>,
    pub(in super::super) rules: Vec<Rule>,
}

/// Where a chain hooks in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Base {
    pub(in super::super) hook: String,
    /// The interfaces that it hooks in at; all of them if none is named.
    pub(in super::super) devices: Vec<String>,
    pub(in super::super) priority: i64,
    pub(in super::super) is_nat: bool,
    /// Whether it drops what no rule decides.
    pub(in super::super) drops: bool,
}

/// A rule. One that maps keys to verdicts is several of one handle.
#[derive(Clone, Debug)]
pub(in super::super) struct Rule {
    pub(in super::super) handle: Option<u64>,
    /// In the words of the program that lists it, where that is known already.
    pub(in super::super) text: Option<String>,
    /// All of them must be met.
    pub(in super::super) conditions: Vec<Condition>,
    /// What it does beside its verdict that matters here.
    pub(in super::super) effect: Option<Effect>,
    pub(in super::super) verdict: Option<Verdict>,
}

/// What a rule does with a packet that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Effect {
    /// conntrack doesn't follow its connection.
    Untrack,
    /// Later packets of its connection pass by a flow table, past every chain.
    Offload,
    /// A socket of this host at this port takes it, whatever port it was sent to and still has.
    Proxy(u16),
}

/// What a rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    Accept,
    Drop,
    /// A drop that answers.
    Reject,
    Return,
    Jump(String),
    Goto(String),
    /// Sends it elsewhere: to this address, or this host itself, and perhaps another port.
    Translate {
        to: Option<IpAddr>,
        port: Option<u16>,
    },
    /// Something whose effect isn't known, such as a queue to a program.
    Unknown(String),
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Condition {
    /// A field is one of these values; or, negated, none of them.
    Field { field: Field, negated: bool, values: Vec<Value> },
    /// TCP flags, behind a mask: equal to this, or with any of it set.
    Flags { mask: u8, value: u8, any: bool, negated: bool },
    /// One of these conjunctions, or, negated, none.
    AnyOf { negated: bool, of: Vec<Vec<Self>> },
    /// It is so, or it isn't.
    Known(bool),
    /// Nothing that can be judged; what it is about.
    Unknown(String),
}

/// What of a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Field {
    /// "ipv4" or "ipv6".
    Family,
    /// The protocol's number.
    Protocol,
    SourcePort,
    Port,
    Source,
    Destination,
    /// Interfaces by name; one with `*` at its end stands for all that begin so.
    ComesIn,
    GoesOut,
    /// conntrack's state, in nft's words.
    State,
    /// "dnat" or "snat".
    Status,
    /// "original" or "reply".
    Direction,
    /// What the destination is to this host: "local", "unicast" …
    DestinationType,
    SourceType,
    /// "host", "broadcast" …
    PacketType,
}

/// A value that a field may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Value {
    Number(u64),
    Range(u64, u64),
    Text(String),
    Net(IpNet),
    /// A set whose elements weren't read.
    Unread,
}
