//! The ways of a knock, of what it opens, and of the answers, through this host.

use std::net::IpAddr;

use super::{
    host::{Host, Interface},
    rules::{
        model::{Table, Truth},
        packet::{Heading, IpFamily, Layer, Packet, Way},
        walk::{self, Hit},
    },
};
use crate::{
    config::Config,
    gate::policy::{Port, Protocol, ReplyPolicy, Service},
};

/// Where nftables translates destinations (NF_IP_PRI_NAT_DST).
const DNAT: i64 = -100;

/// What a device sends that has to come through, and its answer.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) port: Port,
    /// What it is for, in words.
    pub(super) what: String,
    /// conntrack's state of the packet when it meets other rules.
    pub(super) state: &'static str,
    pub(super) answer: Answer,
    /// The address behind this host that it is sent to.
    pub(super) to: Option<IpAddr>,
}

/// What is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    None,
    /// A packet that is of this state to conntrack when it meets other rules.
    State(&'static str),
}

/// All that devices send: the knock, and what it opens.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let knock = Wanted {
        port: Port { protocol: Protocol::Udp, number: config.listen.port() },
        what: "knocks".to_owned(),
        // Our own rules take knocks and replies out of conntrack before the others see them.
        state: "untracked",
        answer: match config.policy.reply {
            ReplyPolicy::Off => Answer::None,
            ReplyPolicy::On => Answer::State("untracked"),
        },
        to: None,
    };
    let of_service = |service: &Service| {
        let what = format!("service {}", service.name);
        let wanted = |port: Port, to| Wanted {
            port,
            what: what.clone(),
            state: "new",
            answer: Answer::State("established"),
            to,
        };
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

/// Where a packet of what is wanted is dropped, on its whole way between an interface and the service.
pub(super) fn hits<'a>(
    wanted: &Wanted,
    heading: Heading,
    interface: &Interface,
    family: IpFamily,
    host: &Host,
    tables: &'a [Table],
) -> Vec<(Hit<'a>, Packet)> {
    let mut hits = Vec::new();
    let packet = match heading {
        Heading::ToService => {
            Some(packet(wanted.port, wanted.state, interface, family, wanted.to, host))
        }
        Heading::ToDevice => answer(wanted, interface, family, host),
    };
    let Some(packet) = packet else { return hits };
    for port in &interface.bridged {
        let packet = on_bridge(&packet, port);
        hits.extend(walk::drops(tables, &packet).into_iter().map(|hit| (hit, packet.clone())));
    }
    let translated = match (heading, wanted.to) {
        (Heading::ToService, None) => translation(&packet, host, tables),
        (Heading::ToService, Some(_)) | (Heading::ToDevice, _) => None,
    };
    match translated {
        Some((translated, reach)) => {
            hits.extend(hits_of_translated(&packet, &translated, reach, tables));
        }
        None => {
            let drops = walk::drops(tables, &packet).into_iter();
            hits.extend(drops.map(|hit| (hit, packet.clone())));
        }
    }
    hits
}

fn hits_of_translated<'a>(
    packet: &Packet,
    translated: &Packet,
    reach: Truth,
    tables: &'a [Table],
) -> Vec<(Hit<'a>, Packet)> {
    let mut found = Vec::new();
    let mut go = |hook: &str, packet: &Packet, after: Option<bool>, sure: Truth| {
        for (table, chain, base) in walk::bases(tables, packet, hook) {
            if after.is_some_and(|after| after != (base.priority > DNAT)) {
                continue;
            }
            for mut hit in walk::through(table, chain, packet).hits {
                hit.reach = hit.reach.min(sure);
                found.push((hit, packet.clone()));
            }
        }
    };
    go("ingress", packet, None, Truth::Yes);
    go("prerouting", packet, Some(false), Truth::Yes);
    go("prerouting", translated, Some(true), reach);
    for hook in
        walk::hooks(translated).iter().filter(|hook| !["ingress", "prerouting"].contains(hook))
    {
        go(hook, translated, None, reach);
    }
    if reach == Truth::Maybe {
        go("input", packet, None, Truth::Maybe);
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
        heading: Heading::ToService,
        layer: Layer::Ip,
        family,
        protocol: port.protocol,
        port: port.number.get(),
        state,
        comes_in: Some(interface.name.clone()),
        goes_out,
        service: to.map_or_else(|| host.addresses(family), |to| vec![to]),
        translated: false,
    }
}

/// The answer to it that leaves by this interface; `None` where there is none, or it isn't known by which interface
/// it comes.
pub(super) fn answer(
    wanted: &Wanted,
    interface: &Interface,
    family: IpFamily,
    host: &Host,
) -> Option<Packet> {
    let Answer::State(state) = wanted.answer else { return None };
    let comes_in = match wanted.to {
        None => None,
        Some(to) => Some(host.towards(to)?.name.clone()),
    };
    Some(Packet {
        heading: Heading::ToDevice,
        comes_in,
        goes_out: Way::Through(Some(interface.name.clone())),
        ..packet(wanted.port, state, interface, family, wanted.to, host)
    })
}

/// The same packet at a port of the bridge by which it comes in or goes out.
fn on_bridge(packet: &Packet, port: &str) -> Packet {
    let mut packet = Packet { layer: Layer::Bridge, ..packet.clone() };
    match packet.heading {
        Heading::ToService => packet.comes_in = Some(port.to_owned()),
        Heading::ToDevice => packet.goes_out = Way::Through(Some(port.to_owned())),
    }
    packet
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
        .find_map(|(table, chain, _)| walk::through(table, chain, packet).translation)?;
    let mut translated = Packet { translated: true, ..packet.clone() };
    translated.port = found.port.unwrap_or(translated.port);
    if let Some(to) = found.to.filter(|to| IpFamily::of(*to) == packet.family) {
        translated.service = vec![to];
        translated.goes_out = Way::Through(host.towards(to).map(|it| it.name.clone()));
    }
    Some((translated, found.reach))
}
