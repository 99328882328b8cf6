//! Ways to a service that pass this host's rules by.

use super::{
    Examined,
    conntrack::delete,
    finding::{Finding, Findings, Unable},
    rules::{
        model::{Condition, Effect, Field, Rule, Truth, Value},
        packet::{IpFamily, Packet, meets},
        walk::{self, Affected},
    },
    ways,
};
use crate::gate::policy::Service;

/// Checks that there are none.
pub(super) fn check(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    on_the_segment(examined, findings)?;
    offloaded(examined, findings)?;
    proxied(examined, findings)
}

/// Services behind this host that are on a network of devices: who is on it too reaches them without this host.
fn on_the_segment(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host) = (examined.config()?, examined.host()?);
    let outside = host.outside();
    for Service { name, to, .. } in &config.policy.services {
        for address in to {
            let Some(interface) = outside
                .iter()
                .find(|interface| interface.addresses.iter().any(|net| net.contains(address)))
            else {
                continue;
            };
            let how = match interface.bridged.is_empty() {
                true => "whoever is on that network",
                false => {
                    "whoever is at another port of that bridge, for which frames are bridged and not routed,"
                }
            };
            findings.add(
                Finding::warning("service-on-the-segment", format!("{address} of service {name} is on the network of {}, by which devices come: {how} reaches it without passing this host", interface.name))
                    .at(format!("service {name}"))
                    .mend("move the service to a network of its own behind this host; or run knockd on the service's own host"),
            );
        }
    }
    Ok(())
}

/// Connections to a service that a flow table takes over: their packets meet no chain, and end with no grant.
fn offloaded(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host, rules) = (examined.config()?, examined.host()?, examined.rules()?);
    for wanted in ways::wanted(config).iter().filter(|wanted| wanted.state == "new") {
        for interface in host.outside() {
            for family in [IpFamily::V4, IpFamily::V6] {
                if wanted.to.is_some_and(|to| IpFamily::of(to) != family)
                    || (wanted.to.is_none() && !interface.has(family))
                {
                    continue;
                }
                // Only a connection that both sides have spoken in is taken over.
                let packet =
                    ways::packet(wanted.port, "established", interface, family, wanted.to, host);
                let packet = match wanted.to {
                    Some(_) => packet,
                    None => match ways::translation(&packet, host, &rules.tables) {
                        Some((translated, _)) => translated,
                        None => continue,
                    },
                };
                let answer = ways::answer(wanted, interface, family, host);
                let ways = [Some(packet), answer].into_iter().flatten();
                for Affected { effect, table, chain, rule, reach } in
                    ways.flat_map(|packet| walk::effects(&rules.tables, &packet))
                {
                    if effect != Effect::Offload || reach == Truth::No {
                        continue;
                    }
                    findings.add(
                        Finding::warning("flow-offloaded", format!("a flow table takes over connections to {} ({}): they outlive their grant, a revocation and a ban, for no chain sees their packets; add its rule again with a condition that leaves {} out", wanted.port, wanted.what, wanted.port))
                            .at(format!("table {} {}, chain {}", table.family, table.name, chain.name))
                            .mend(delete(table, &chain.name, rule.handle, rule.text.as_deref())),
                    );
                }
            }
        }
    }
    Ok(())
}

/// Packets to other ports that a transparent proxy's rule hands to a socket at a guarded one: they keep their port, by
/// which no chain knows that they end there.
fn proxied(examined: &Examined, findings: &mut Findings<'_>) -> Result<(), Unable> {
    let (config, host, rules) = (examined.config()?, examined.host()?, examined.rules()?);
    for wanted in ways::wanted(config).iter().filter(|it| it.state == "new" && it.to.is_none()) {
        for interface in host.outside() {
            for family in [IpFamily::V4, IpFamily::V6].into_iter().filter(|it| interface.has(*it)) {
                let packet = ways::packet(wanted.port, "new", interface, family, None, host);
                let bases = walk::bases(&rules.tables, &packet, "prerouting");
                let chains = bases.iter().flat_map(|(table, ..)| {
                    table.chains.iter().flat_map(move |chain| {
                        chain.rules.iter().map(move |rule| (*table, chain, rule))
                    })
                });
                for (table, chain, rule) in chains {
                    if rule.effect != Some(Effect::Proxy(packet.port))
                        || !takes_others(rule, &packet)
                    {
                        continue;
                    }
                    findings.add(
                        Finding::fault("service-proxied", format!("a transparent proxy's rule leads other ports to {} ({}): what it takes gets there without a knock, unless those ports are listed in the service as well", wanted.port, wanted.what))
                            .at(format!("table {} {}, chain {}", table.family, table.name, chain.name))
                            .mend(delete(table, &chain.name, rule.handle, rule.text.as_deref())),
                    );
                }
            }
        }
    }
    Ok(())
}

/// Whether a rule can meet packets like this one that are for another port, and for whatever address.
fn takes_others(rule: &Rule, packet: &Packet) -> bool {
    let own = Value::Number(packet.port.into());
    rule.conditions.iter().all(|condition| match condition {
        Condition::Field { field: Field::Port, negated: false, values } => {
            values.iter().any(|value| *value != own)
        }
        Condition::Field { field: Field::Family | Field::Protocol | Field::ComesIn, .. } => {
            meets(packet, condition, &mut Vec::new()) > Truth::No
        }
        _ => true,
    })
}
