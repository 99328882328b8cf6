//! A packet's way through the chains: who drops it, surely or perhaps.

use super::{
    model::{Base, Chain, Rule, Table, Truth, Verdict},
    packet::{Doubt, Packet, Way, meets_all},
};

/// The kernel refuses rulesets that jump deeper (NFT_JUMP_STACK_SIZE, net/netfilter/nf_tables.h).
const DEEPEST: usize = 16;
/// Doubts that are told of one drop.
const DOUBTS: usize = 3;

/// Where a packet is dropped.
#[derive(Clone, Debug)]
pub(in super::super) struct Hit<'a> {
    pub(in super::super) table: &'a Table,
    /// The chain that hooks in.
    pub(in super::super) base: &'a Chain,
    /// The chain that drops, and its rule; `None` for the policy of `base`.
    pub(in super::super) rule: Option<(&'a Chain, &'a Rule)>,
    /// Whether it is sure.
    pub(in super::super) reach: Truth,
    /// Whether the sender is told.
    pub(in super::super) answers: bool,
    /// Why it isn't sure.
    pub(in super::super) doubts: Vec<Doubt>,
    /// Whether it drops some senders alone, by the rule's own conditions.
    pub(in super::super) some_sources: bool,
}

/// A translation of a packet's destination, and whether it is sure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Translation {
    pub(in super::super) to: Option<std::net::IpAddr>,
    pub(in super::super) port: Option<u16>,
    pub(in super::super) reach: Truth,
}

/// The chains that hook in here, in the order in which a packet meets them.
pub(in super::super) fn bases<'a>(
    tables: &'a [Table],
    packet: &Packet,
    hook: &str,
) -> Vec<(&'a Table, &'a Chain, &'a Base)> {
    let family = match packet.family {
        super::packet::IpFamily::V4 => "ip",
        super::packet::IpFamily::V6 => "ip6",
    };
    let mut bases: Vec<_> = tables
        .iter()
        .filter(|table| [family, "inet", "netdev"].contains(&table.family.as_str()))
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter_map(|(table, chain)| Some((table, chain, chain.base.as_ref()?)))
        .filter(|(.., base)| base.hook == hook)
        .collect();
    bases.sort_by_key(|(.., base)| base.priority);
    bases
}

/// What a chain that hooks in does with a packet.
pub(in super::super) fn through<'a>(
    table: &'a Table,
    base: &'a Chain,
    packet: &Packet,
) -> (Vec<Hit<'a>>, Option<Translation>) {
    let mut walk =
        Walk { table, base, packet, hits: Vec::new(), doubts: Vec::new(), translation: None };
    let end = walk.chain(base, Truth::Yes, 0);
    if end > Truth::No && base.base.as_ref().is_some_and(|base| base.drops) {
        walk.hit(None, end, false, false);
    }
    (walk.hits, walk.translation)
}

/// Where a packet to this host, or through it, is dropped by any of these tables.
pub(in super::super) fn drops<'a>(tables: &'a [Table], packet: &Packet) -> Vec<Hit<'a>> {
    let last = match packet.goes_out {
        Way::Here => "input",
        Way::Through(_) => "forward",
    };
    ["ingress", "prerouting", last]
        .into_iter()
        .flat_map(|hook| bases(tables, packet, hook))
        .flat_map(|(table, base, _)| through(table, base, packet).0)
        .collect()
}

struct Walk<'a, 'p> {
    table: &'a Table,
    base: &'a Chain,
    packet: &'p Packet,
    hits: Vec<Hit<'a>>,
    /// Of the conditions that could not be judged so far.
    doubts: Vec<Doubt>,
    translation: Option<Translation>,
}

impl<'a> Walk<'a, '_> {
    /// Goes through a chain that is reached so; whether its caller goes on behind it.
    fn chain(&mut self, chain: &'a Chain, reach: Truth, depth: usize) -> Truth {
        let (mut reach, mut returned) = (reach, Truth::No);
        for rule in &chain.rules {
            if reach == Truth::No {
                break;
            }
            let mut own = Vec::new();
            let met = meets_all(self.packet, &rule.conditions, &mut own);
            let Some(verdict) = rule.verdict.as_ref().filter(|_| met > Truth::No) else { continue };
            let of_sources = met == Truth::Maybe && own.iter().all(|doubt| *doubt == Doubt::Source);
            self.doubt(own);
            let taken = reach.min(met);
            let not_taken = reach.min(met.not());
            let before = reach;
            reach = not_taken;
            match verdict {
                Verdict::Accept => {}
                Verdict::Drop | Verdict::Reject => {
                    let some_sources = of_sources && taken == Truth::Maybe;
                    let answers = *verdict == Verdict::Reject;
                    self.hit(Some((chain, rule)), taken, answers, some_sources);
                    // Who isn't dropped here goes on for sure: that he perhaps was makes what drops him
                    // later no less sure.
                    reach = if met == Truth::Maybe { before } else { not_taken };
                }
                Verdict::Return => returned = returned.max(taken),
                Verdict::Jump(name) => reach = reach.max(self.go(name, taken, depth)),
                Verdict::Goto(name) => returned = returned.max(self.go(name, taken, depth)),
                Verdict::Translate { to, port } => {
                    self.translation.get_or_insert(Translation {
                        to: *to,
                        port: *port,
                        reach: taken,
                    });
                }
                Verdict::Unknown(what) => {
                    self.doubt(vec![Doubt::Other(what.clone())]);
                    self.hit(Some((chain, rule)), Truth::Maybe, false, false);
                    reach = Truth::Maybe;
                }
            }
        }
        reach.max(returned)
    }

    fn go(&mut self, name: &str, reach: Truth, depth: usize) -> Truth {
        match self.table.chain(name) {
            Some(chain) if depth < DEEPEST => self.chain(chain, reach, depth + 1),
            _ => reach,
        }
    }

    fn doubt(&mut self, doubts: Vec<Doubt>) {
        for doubt in doubts {
            if !self.doubts.contains(&doubt) {
                self.doubts.push(doubt);
            }
        }
    }

    fn hit(
        &mut self,
        rule: Option<(&'a Chain, &'a Rule)>,
        reach: Truth,
        answers: bool,
        some_sources: bool,
    ) {
        let doubts = match reach {
            Truth::Yes => Vec::new(),
            _ => self.doubts.iter().rev().take(DOUBTS).cloned().collect(),
        };
        let Self { table, base, .. } = *self;
        self.hits.push(Hit { table, base, rule, reach, answers, doubts, some_sources });
    }
}
