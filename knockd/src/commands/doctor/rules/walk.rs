//! A packet's way through the chains: who drops it, surely or perhaps.

use super::{
    model::{Base, Chain, Effect, Rule, Table, Truth, Verdict},
    packet::{Doubt, Heading, IpFamily, Layer, Packet, Way, meets_all},
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
    /// Whether it drops the packets of some devices alone, by the rule's own conditions.
    pub(in super::super) some_devices: bool,
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
    let families: &[&str] = match (packet.layer, packet.family) {
        (Layer::Bridge, _) => &["bridge"],
        (Layer::Ip, IpFamily::V4) => &["ip", "inet", "netdev"],
        (Layer::Ip, IpFamily::V6) => &["ip6", "inet", "netdev"],
    };
    let device = match (hook, &packet.goes_out) {
        ("egress", Way::Through(name)) => name.as_ref(),
        ("egress", Way::Here) => None,
        _ => packet.comes_in.as_ref(),
    };
    let hooks_in = |base: &Base| {
        base.hook == hook
            && (base.devices.is_empty() || device.is_none_or(|name| base.devices.contains(name)))
    };
    let mut bases: Vec<_> = tables
        .iter()
        .filter(|table| families.contains(&table.family.as_str()))
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter_map(|(table, chain)| Some((table, chain, chain.base.as_ref()?)))
        .filter(|(.., base)| hooks_in(base))
        .collect();
    bases.sort_by_key(|(.., base)| base.priority);
    bases
}

/// What the chains of one hook do with a packet.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Passage<'a> {
    /// Where it is dropped.
    pub(in super::super) hits: Vec<Hit<'a>>,
    /// Where its destination is translated, first.
    pub(in super::super) translation: Option<Translation>,
    /// The rules with an effect that meet it, or may.
    pub(in super::super) effects: Vec<Affected<'a>>,
}

/// A rule with an effect on a packet.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Affected<'a> {
    pub(in super::super) effect: Effect,
    pub(in super::super) table: &'a Table,
    pub(in super::super) chain: &'a Chain,
    pub(in super::super) rule: &'a Rule,
    /// Whether it is sure.
    pub(in super::super) reach: Truth,
}

/// What a chain that hooks in does with a packet.
pub(in super::super) fn through<'a>(
    table: &'a Table,
    base: &'a Chain,
    packet: &Packet,
) -> Passage<'a> {
    let mut walk = Walk { table, base, packet, doubts: Vec::new(), passage: Passage::default() };
    let end = walk.chain(base, Truth::Yes, 0);
    if end > Truth::No && base.base.as_ref().is_some_and(|base| base.drops) {
        walk.hit(None, end, false, false);
    }
    walk.passage
}

/// The hooks that a packet meets, in order: include/uapi/linux/netfilter.h, netfilter_bridge.h.
pub(in super::super) const fn hooks(packet: &Packet) -> &'static [&'static str] {
    match (packet.layer, packet.heading, &packet.comes_in, &packet.goes_out) {
        (Layer::Ip, _, _, Way::Here) => &["ingress", "prerouting", "input"],
        (Layer::Bridge, _, _, Way::Here) => &["prerouting", "input"],
        (Layer::Ip, _, None, Way::Through(_)) => &["output", "postrouting", "egress"],
        (Layer::Bridge, _, None, Way::Through(_)) => &["output", "postrouting"],
        (Layer::Ip, _, Some(_), Way::Through(_)) => {
            &["ingress", "prerouting", "forward", "postrouting", "egress"]
        }
        // The bridge's port is where it comes in, and IP takes it from there.
        (Layer::Bridge, Heading::ToService, Some(_), Way::Through(_)) => &["prerouting", "input"],
        (Layer::Bridge, Heading::ToDevice, Some(_), Way::Through(_)) => &["output", "postrouting"],
    }
}

/// Where a packet is dropped by any of these tables.
pub(in super::super) fn drops<'a>(tables: &'a [Table], packet: &Packet) -> Vec<Hit<'a>> {
    let at = |hook: &&str| bases(tables, packet, hook);
    let all = hooks(packet).iter().flat_map(at);
    all.flat_map(|(table, base, _)| through(table, base, packet).hits).collect()
}

/// The rules of any of these tables that have an effect on a packet.
pub(in super::super) fn effects<'a>(tables: &'a [Table], packet: &Packet) -> Vec<Affected<'a>> {
    let at = |hook: &&str| bases(tables, packet, hook);
    let all = hooks(packet).iter().flat_map(at);
    all.flat_map(|(table, base, _)| through(table, base, packet).effects).collect()
}

struct Walk<'a, 'p> {
    table: &'a Table,
    base: &'a Chain,
    packet: &'p Packet,
    /// Of the conditions that could not be judged so far.
    doubts: Vec<Doubt>,
    passage: Passage<'a>,
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
            if met == Truth::No {
                continue;
            }
            self.affect(chain, rule, reach.min(met));
            let Some(verdict) = &rule.verdict else { continue };
            let of_devices = met == Truth::Maybe && own.iter().all(|doubt| *doubt == Doubt::Device);
            self.doubt(own);
            let taken = reach.min(met);
            let not_taken = reach.min(met.not());
            let before = reach;
            reach = not_taken;
            match verdict {
                Verdict::Accept => {}
                Verdict::Drop | Verdict::Reject => {
                    let some_devices = of_devices && taken == Truth::Maybe;
                    let answers = *verdict == Verdict::Reject;
                    self.hit(Some((chain, rule)), taken, answers, some_devices);
                    // Who isn't dropped here goes on for sure: that he perhaps was makes what drops him
                    // later no less sure.
                    reach = if met == Truth::Maybe { before } else { not_taken };
                }
                Verdict::Return => returned = returned.max(taken),
                Verdict::Jump(name) => reach = reach.max(self.go(name, taken, depth)),
                Verdict::Goto(name) => returned = returned.max(self.go(name, taken, depth)),
                Verdict::Translate { to, port } => {
                    self.passage.translation.get_or_insert(Translation {
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

    fn affect(&mut self, chain: &'a Chain, rule: &'a Rule, reach: Truth) {
        let table = self.table;
        let affected = |effect| Affected { effect, table, chain, rule, reach };
        self.passage.effects.extend(rule.effect.map(affected));
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
        some_devices: bool,
    ) {
        let doubts = match reach {
            Truth::Yes => Vec::new(),
            _ => self.doubts.iter().rev().take(DOUBTS).cloned().collect(),
        };
        let Self { table, base, .. } = *self;
        self.passage.hits.push(Hit { table, base, rule, reach, answers, doubts, some_devices });
    }
}
